"""Makes text safe to print on a terminal."""


def printable(text: str) -> str:
    """Return the text with spaces in place of control characters, since text from reports, people and files may contain
    escape sequences for the terminal.
    """
    return "".join(character if character.isprintable() else " " for character in text)
