"""What sentences about events are made of."""

from collections.abc import Iterable

SHORT = 120
"""Characters of a text that a sentence quotes."""
LISTED = 3
"""Items of a list that a sentence names."""


def quoted(before: str, text: str | None) -> str:
    """Nothing for no text."""
    short = " ".join((text or "").split())
    if len(short) > SHORT:
        short = short[: SHORT - 1].rstrip() + "…"
    return f"{before}“{short}”" if short else ""


def plain(name: str | None) -> str:
    return (name or "").replace("_", " ")


def thing(stream: str) -> str:
    """`user-7` as `user 7`."""
    return stream.replace("-", " ")


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(items: Iterable[str]) -> str:
    every = list(items)
    more = f" and {len(every) - LISTED:,} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + more
