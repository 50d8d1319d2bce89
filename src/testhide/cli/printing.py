"""Makes text safe to print on a terminal."""


def printable(text: str) -> str:
    """Replace control characters by spaces: text from reports, people and files may contain terminal escapes."""
    return "".join(character if character.isprintable() else " " for character in text)
