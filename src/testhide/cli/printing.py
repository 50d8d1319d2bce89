"""What a terminal may be shown."""


def printable(text: str) -> str:
    """What comes from reports, people and files may hold anything, escapes for terminals too."""
    return "".join(character if character.isprintable() else " " for character in text)
