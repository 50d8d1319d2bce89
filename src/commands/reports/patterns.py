"""Patterns that people write to match failures. RE2 runs them, so that any pattern takes time linear in the length of
the text.
"""

import re
from collections.abc import Sequence

import re2  # type: ignore[import-untyped]

from domain.core.errors import Invalid

MAX_PATTERN = 1_000
"""Largest number of characters of a pattern."""
MAX_TEXT = 64 * 1024
"""Largest number of bytes of a failure's text that are searched for patterns."""
MEMORY = 1024 * 1024
"""Bytes of memory that RE2 may use for a pattern. A search that needs more gets slower, but its results stay correct. A
pattern that cannot even be compiled within this limit is refused.
"""
MAX_MEMORY = 64 * 1024 * 1024
"""Bytes of memory that RE2 may use for several patterns that are searched together. Also the limit for a single pattern
that was stored before MEMORY was introduced.
"""
_QUOTED = re.compile(r"\\Q(.*?)(?:\\E|\Z)|\\.", re.DOTALL)
"""Matches a quoted part of a pattern, or any other escape sequence."""


class Pattern:
    """A compiled pattern. The constructor raises ValueError with RE2's message if the text is not a valid pattern."""

    def __init__(self, text: str, memory: int = MEMORY) -> None:
        options = re2.Options()
        options.log_errors = False
        options.max_mem = memory
        try:
            # Search bytes: for a str, the library also counts the characters of every match.
            self._found = re2.compile(text.encode(), options).search
        except re2.error as error:
            reason = error.args[0] if error.args else ""
            raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None

    def matches(self, text: bytes) -> bool:
        return self._found(text) is not None

    def find(self, text: bytes) -> tuple[int, int] | None:
        """Returns (index of the first byte, index after the last byte) of the first match; None if the pattern does not
        match.
        """
        found = self._found(text)
        return None if found is None else found.span()


def any_of(patterns: Sequence[str]) -> Pattern | None:
    """Returns one pattern that matches wherever at least one of these patterns matches. Returns None if they cannot be
    joined, because the joined pattern is too large.
    """
    try:
        return Pattern("|".join(f"(?:{_unquote(text)})" for text in patterns), MAX_MEMORY)
    except ValueError:
        return None


def _unquote(pattern: str) -> str:
    r"""Returns the pattern with escaped characters in place of each text that `\Q` quotes. Otherwise a `\Q` without
    `\E` would also quote the patterns that are joined after this one.
    """
    return _QUOTED.sub(lambda found: found[0] if found[1] is None else re.escape(found[1]), pattern)


def searchable(message: str, trace: str) -> bytes:
    """Returns the text of a failure in which patterns are searched, made from its message and its trace."""
    return f"{message[:MAX_TEXT]}\n{trace[:MAX_TEXT]}".encode(errors="replace")[:MAX_TEXT]


def must_be_a_pattern(field: str, text: str) -> None:
    """Raises Invalid for the field `field` if the text is no valid pattern, is too long or matches the empty text."""
    if len(text) > MAX_PATTERN:
        raise Invalid.field(field, f"must have at most {MAX_PATTERN:,} characters")
    try:
        pattern = Pattern(text)
    except ValueError as error:
        raise Invalid.field(field, f"is no pattern that RE2 takes: {error}") from None
    if pattern.matches(b""):
        raise Invalid.field(field, "matches the empty text, so it would match every failure")
