"""Advice about a test whose failures somebody has dealt with: it is in quarantine, or a known issue explains them."""

from collections.abc import Sequence

import msgspec

from domain.phrases import count
from domain.quarantine import HEALTHY_AFTER
from domain.run_histories import RunHistory
from domain.test_health import FAILED, LEFT_OUT, RETRIED, Action

NEWEST_FAILURES = 5
"""Number of a test's newest failures that must all have a known issue. Only then does a known issue count as the cause
of the test's failures.
"""


class QuarantineOf(msgspec.Struct, frozen=True):
    """An entry of a job's quarantine that holds the test and has not expired."""

    id: int
    job_id: int
    has_recovered: bool
    """Whether the tests of the entry have passed in HEALTHY_AFTER builds in a row since they failed last."""


class KnownCause(msgspec.Struct, frozen=True):
    """A known issue that explains the failures of a test: a bug causes them, not flakiness."""

    known_issue_id: int
    title: str


class Decisions(msgspec.Struct, frozen=True):
    """Measures that members of a project have taken about a test: a quarantine, or a known issue."""

    quarantine: tuple[QuarantineOf, ...] = ()
    known: KnownCause | None = None


NO_DECISIONS = Decisions()


def find_newest_failures(history: RunHistory) -> list[tuple[int, bool]]:
    """Returns the newest runs that count and that failed or passed on a retry, NEWEST_FAILURES at most. Each is a pair
    (build id, whether the test passed on a retry).
    """
    counting = (run for run in reversed(history.notable) if not run.flags & LEFT_OUT)
    failing = [(run.build_id, not run.flags & FAILED) for run in counting if run.flags & (FAILED | RETRIED)]
    return failing[:NEWEST_FAILURES]


def find_known_cause(failures: Sequence[KnownCause | None]) -> KnownCause | None:
    """Returns the known issue that explains the failures of a test. `failures` has the known issue of each of the
    test's newest failures, the newest first. If all of these failures have a known issue, returns that of the newest
    failure; otherwise None.
    """
    return failures[0] if failures and None not in failures else None


def settle_action(action: Action, decisions: Decisions) -> Action:
    """Returns the recommended action: `fix` instead of `quarantine` if the test is in quarantine already, or if a known
    issue explains its failures. Any other action stays.
    """
    return "fix" if action == "quarantine" and (decisions.quarantine or decisions.known is not None) else action


def describe_decisions(decisions: Decisions) -> str:
    """Returns sentences about the decisions, each after a space."""
    text = ""
    if decisions.known is not None:
        issue = decisions.known
        text += f" Its newest failures have a known cause: known issue {issue.known_issue_id}, “{issue.title}”."
    for entry in decisions.quarantine:
        text += f" It is in the quarantine of job {entry.job_id}"
        if entry.has_recovered:
            builds = count(HEALTHY_AFTER, "build")
            text += f", and has passed there in {builds} in a row or more: if it was mended, delete entry {entry.id}."
        else:
            text += f": delete entry {entry.id} once it is mended."
    return text
