"""Functions that make parts of sentences, such as `2,000 tests`. Several rooms use them, so they belong to no area."""


def count(number: int, what: str) -> str:
    """Returns a number with a noun: `1 test`, `2,000 tests`. `what` is a noun whose plural ends in `s`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def first_line(text: str) -> str:
    """Returns the first line that is not blank, without the space around it; an empty string if there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
