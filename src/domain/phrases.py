"""Parts of sentences that several rooms write, in a file of their own, since they belong to no area."""


def count(number: int, what: str) -> str:
    """Returns a number of things: `1 test`, `2,000 tests`. `what` is a word whose plural ends in `s`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
