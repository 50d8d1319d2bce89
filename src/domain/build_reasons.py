"""Reasons why a build ended, and reasons why a node lost a build. Events contain these values, so none can be removed
later.
"""

from typing import Literal

LossReason = Literal["not_acknowledged", "agent_lost", "other_commit"]
Reason = Literal[
    "tests_failed",
    "reports_unreadable",
    "selected_tests_not_run",
    "command_failed",
    "setup_failed",
    "checkout_failed",
    "timeout",
    "agent_lost",
    "not_acknowledged",
    "stopped_by_user",
    "agent_stopped",
    "node_removed",
    "job_deleted",
    "superseded",
    "pull_request_closed",
    "reported",
]

_PLAIN: tuple[Reason, ...] = ("tests_failed", "reported")
"""Reasons that say no more than the status of a build and its tests."""


def describe_reason(reason: str | None) -> str:
    """Returns the reason of a build's end in brackets, after a space, if it says more than the status of the build."""
    return f" ({reason.replace('_', ' ')})" if reason and reason not in _PLAIN else ""
