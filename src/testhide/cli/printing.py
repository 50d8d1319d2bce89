"""Makes text safe to print on a terminal."""


def printable(text: str) -> str:
    """Return the text with a space in place of each control character. Texts of reports, people and files may contain
    escape sequences, which would control the terminal.
    """
    return "".join(character if character.isprintable() else " " for character in text)
