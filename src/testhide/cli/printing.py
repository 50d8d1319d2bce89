"""Text for a terminal."""


def printable(text: str) -> str:
    """Replace control characters: text of reports, people and files may hold terminal escapes."""
    return "".join(character if character.isprintable() else " " for character in text)
