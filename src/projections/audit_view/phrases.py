"""Parts of event summaries: quotes, counts and lists. `summaries.py` says what a summary is."""

from collections.abc import Iterable

MAX_QUOTE_LENGTH = 120
"""Largest number of characters that a summary quotes from a text."""
MAX_LISTED = 3
"""Largest number of items of a list that a summary names."""


def quoted(before: str, text: str | None) -> str:
    """Returns `before` and the shortened text in quotes; an empty string if there is no text."""
    short = " ".join((text or "").split())
    if len(short) > MAX_QUOTE_LENGTH:
        short = short[: MAX_QUOTE_LENGTH - 1].rstrip() + "…"
    return f"{before}“{short}”" if short else ""


def spaced(name: str | None) -> str:
    return (name or "").replace("_", " ")


def listed(items: Iterable[str]) -> str:
    every = list(items)
    more = f" and {len(every) - MAX_LISTED:,} more" if len(every) > MAX_LISTED else ""
    return ", ".join(every[:MAX_LISTED]) + more
