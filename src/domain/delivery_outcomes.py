"""Outcomes of attempts to deliver a notification to an endpoint."""

import msgspec

MAX_EXCERPT_LENGTH = 1_000
"""Largest number of characters of an answer's body that are kept for the history of a delivery."""
RETRY_AFTER_STATUSES = (429, 503)
"""HTTP statuses of answers whose header `Retry-After` is honoured."""
MAX_RETRY_AFTER_S = 3_600
"""Longest pause that a receiver can ask for, in seconds. With this limit, a receiver that asks for days by mistake
still gets its deliveries.
"""


class Outcome(msgspec.Struct, frozen=True):
    ok: bool
    status: int
    """The HTTP status; 0 when there was no answer."""
    error: str
    """Description of the failure; empty if `ok`."""
    ms: int
    excerpt: str = ""
    """The beginning of the answer's body."""
    retry_after_s: int = 0
    """Pause before the next attempt that the receiver asked for, in seconds; 0 for none."""


def judge_answer(status: int, ms: int, excerpt: str, retry_after_s: int = 0) -> Outcome:
    """Returns the outcome of an attempt that the receiver answered: a success for a 2xx status. `ms` is the duration,
    `excerpt` the beginning of the answer's body, and `retry_after_s` the pause that the receiver asked for. The pause
    counts only with a status in RETRY_AFTER_STATUSES, and up to MAX_RETRY_AFTER_S.
    """
    ok = 200 <= status < 300
    error = "" if ok else f"answered {status}"
    wait_s = min(retry_after_s, MAX_RETRY_AFTER_S) if status in RETRY_AFTER_STATUSES else 0
    if wait_s:
        error += f", asked to wait {wait_s} s"
    return Outcome(
        ok, status, error, ms, excerpt[:MAX_EXCERPT_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}"), wait_s
    )
