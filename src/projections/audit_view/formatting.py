"""Formats the values in event summaries."""

from collections.abc import Iterable

MAX_QUOTE_LENGTH = 120
"""Characters of a text that a summary quotes."""
MAX_LISTED = 3
"""Items of a list that a summary names."""


def quoted(before: str, text: str | None) -> str:
    """`before` and the text in quotes, shortened; an empty string for no text."""
    short = " ".join((text or "").split())
    if len(short) > MAX_QUOTE_LENGTH:
        short = short[: MAX_QUOTE_LENGTH - 1].rstrip() + "…"
    return f"{before}“{short}”" if short else ""


def spaced(name: str | None) -> str:
    return (name or "").replace("_", " ")


def name_of_stream(stream: str) -> str:
    """`user-7` as `user 7`."""
    return stream.replace("-", " ")


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(items: Iterable[str]) -> str:
    every = list(items)
    more = f" and {len(every) - MAX_LISTED:,} more" if len(every) > MAX_LISTED else ""
    return ", ".join(every[:MAX_LISTED]) + more
