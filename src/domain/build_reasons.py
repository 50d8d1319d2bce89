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
"""Reasons that tell a reader no more than the status of the build and its tests do."""


def describe_reason(reason: str | None) -> str:
    """Returns a text for the reason of a build's end: a space and the reason in brackets. Empty if the reason says no
    more than the build's status.
    """
    return f" ({reason.replace('_', ' ')})" if reason and reason not in _PLAIN else ""
