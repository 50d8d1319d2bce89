"""Outcomes of delivery attempts."""

import msgspec

MAX_EXCERPT = 1_000
"""Characters of an answer's body that the history shows."""
RETRY_AFTER_STATUSES = (429, 503)
"""The statuses whose `Retry-After` is honoured."""
MAX_RETRY_AFTER_S = 3_600
"""The longest pause that a receiver may ask for, so that none stops its deliveries for days by mistake."""


class Outcome(msgspec.Struct, frozen=True):
    ok: bool
    status: int
    """The HTTP status; 0 when there was no answer."""
    error: str
    """Empty when `ok`."""
    ms: int
    excerpt: str = ""
    """The beginning of the answer's body."""
    retry_after_s: int = 0
    """The pause that the receiver asks for; 0 for none."""


def judge_answer(status: int, ms: int, excerpt: str, retry_after_s: int = 0) -> Outcome:
    """Returns the outcome of an attempt that the receiver answered. A 2xx status is a success. `ms` is the duration,
    `excerpt` the beginning of the answer's body, `retry_after_s` the pause that the receiver asked for.
    """
    ok = 200 <= status < 300
    error = "" if ok else f"answered {status}"
    wait_s = min(retry_after_s, MAX_RETRY_AFTER_S) if status in RETRY_AFTER_STATUSES else 0
    if wait_s:
        error += f", asked to wait {wait_s} s"
    return Outcome(ok, status, error, ms, excerpt[:MAX_EXCERPT].replace("\0", "\N{REPLACEMENT CHARACTER}"), wait_s)
