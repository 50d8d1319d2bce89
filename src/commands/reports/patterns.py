"""Patterns that people write: RE2, whose time is linear in the text whatever the pattern is."""

from collections.abc import Sequence

import re2  # type: ignore[import-untyped]

from domain.core.errors import Invalid

MAX_PATTERN = 1_000
"""Characters."""
MAX_TEXT = 64 * 1024
"""Bytes that a pattern is matched over."""
MEMORY = 64 * 1024 * 1024
"""Bytes that a pattern may take at work; beyond it RE2 is slower, never wrong."""


class Pattern:
    """A compiled pattern. Raises ValueError with RE2's message when the text is no pattern."""

    def __init__(self, text: str) -> None:
        options = re2.Options()
        options.log_errors = False
        options.max_mem = MEMORY
        try:
            # Bytes in and out: over text the library also counts characters of every match.
            self._found = re2.compile(text.encode(), options).search
        except re2.error as error:
            reason = error.args[0] if error.args else ""
            raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None

    def matches(self, text: bytes) -> bool:
        return self._found(text) is not None


def any_of(patterns: Sequence[str]) -> Pattern | None:
    """Returns a pattern that matches where any of them does; None where they cannot be joined (quoted text may have no
    end, and all together may be too large).
    """
    if any(r"\Q" in text for text in patterns):
        return None
    try:
        return Pattern("|".join(f"(?:{text})" for text in patterns))
    except ValueError:
        return None


def searchable(message: str, trace: str) -> bytes:
    """Return the text of a failure that patterns are matched against."""
    return f"{message[:MAX_TEXT]}\n{trace[:MAX_TEXT]}".encode(errors="replace")[:MAX_TEXT]


def must_be_a_pattern(field: str, text: str) -> None:
    """Raises Invalid when the text is no pattern."""
    if len(text) > MAX_PATTERN:
        raise Invalid.field(field, f"must have at most {MAX_PATTERN:,} characters")
    try:
        pattern = Pattern(text)
    except ValueError as error:
        raise Invalid.field(field, f"is no pattern that RE2 takes: {error}") from None
    if pattern.matches(b""):
        raise Invalid.field(field, "matches the empty text, so it would match every failure")
