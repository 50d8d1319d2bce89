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
