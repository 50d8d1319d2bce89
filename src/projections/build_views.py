"""Builds in the forms that answers of the API, messages of webhooks and Teams cards show."""

from datetime import datetime
from typing import Any

import msgspec

from domain.build_reasons import Reason
from domain.builds import VisibleStatus
from domain.core.events import copy_fields
from domain.triggers import BuildTrigger
from projections.builds import BuildRow, CommentView, ExplanationRow


class BuildItem(msgspec.Struct):
    id: int
    job_id: int
    project_id: int
    status: VisibleStatus
    reason: Reason | None
    branch: str
    commit_sha: str | None
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_s: int
    total_tests: int
    failed_tests: int
    detail: str | None
    restarted_from: int | None
    selected_tests: int | None
    """Number of tests that the build was restricted to; null when it runs all tests."""
    group_id: int | None
    """Id of the build group, which is the id of its first build. Null if the job had no matrix when the build was
    started.
    """
    matrix: dict[str, str]
    """Combination of the job's matrix that the build runs with: a value for each name. Empty without a matrix."""
    untrusted: bool
    """Whether the build is of a pull request from a fork. Such a build gets no secrets."""
    awaits_approval: bool
    """Whether the build waits until a writer of the project approves it by `POST /builds/{build_id}/approve`."""


class FailureExcerpt(msgspec.Struct):
    """Lines of a failed build's log that probably explain the failure."""

    attempt: int
    """Number of the build's attempt from whose log the lines are."""
    first_line: int
    """Number of the first line in the log. The first line of a log has the number 1."""
    last_line: int
    """Number of the last line, which belongs to the excerpt."""
    lines: list[str]
    """The lines without their times. Long lines are cut after 400 characters."""
    score: float
    """Between 0 and 1. The higher it is, the more signals of a failure the lines have. It is no probability."""
    reasons: list[str]
    """Kinds of signals in the lines, the strongest first: `test_failure`, `source_error`, `time_limit`, `failure_list`,
    `exception`, `system_error`, `tool_error`, `detail`, `error_word`, `outcome`; or `end_of_log` if no line of the log
    has any signal. Then follow the reasons that lower the score: `repeated`, `in_passed_build`, `after_the_end`.
    """


class BuildMessage(BuildItem):
    """A build as messages of webhooks show it."""

    passed: int
    failed: int
    skipped: int
    flaky: int
    """Number of results that passed on a retry, or whose test had the opposite result in an earlier build of the
    commit.
    """
    known_issues: int
    """Number of failures that the reporter marks as known issues. These do not fail the build."""
    quarantined: int
    node_id: int | None
    """Id of the node that runs or ran the build; null while no node is assigned."""
    attempt: int
    exit_code: int | None
    log_lines: int
    external: bool
    triggered_by: str
    """Origin of the build: the user, or the part of the server, that started it."""
    trigger: BuildTrigger | None
    """Change or time that started the build; null if a user started it."""
    fork: str
    """Path of the fork from which an untrusted build's pull request comes; empty if the host does not report it."""
    approved_by: str | None
    """Actor who approved an untrusted build; null if nobody did."""
    keep_forever: bool
    waiting_for: str | None
    """Why a queued build is not assigned yet; null until the dispatcher has tried to assign it."""
    failure_excerpts: list[FailureExcerpt]
    """Up to three excerpts of a failed build's log that probably explain the failure, the best first. They are found in
    the seconds after the end of the build. Before that, and for builds that did not fail, the list is empty.
    """
    comments: list[CommentView]
    """Comments, the oldest first."""
    configuration: dict[str, Any]


class BuildDetail(BuildMessage):
    classified_by_rules: int
    """Number of failures that match a known issue of this server. Unlike those in `known_issues`, they do fail the
    build. The number can change after the build's end, since people can classify failures and change known issues at
    any time. So messages of webhooks leave it out.
    """


def item(row: BuildRow) -> BuildItem:
    return copy_fields(BuildItem, row, **_calculated(row))


def message(row: BuildRow, comments: list[CommentView], explanation: ExplanationRow | None) -> BuildMessage:
    return copy_fields(
        BuildMessage,
        row,
        **_calculated(row),
        **_detailed(row),
        waiting_for=None,
        failure_excerpts=[] if explanation is None else _excerpts(explanation),
        comments=comments,
    )


def detail(
    row: BuildRow,
    waiting_for: str | None,
    comments: list[CommentView],
    explanation: ExplanationRow | None,
    classified_by_rules: int,
) -> BuildDetail:
    return copy_fields(
        BuildDetail,
        row,
        **_calculated(row),
        **_detailed(row),
        waiting_for=waiting_for,
        failure_excerpts=[] if explanation is None else _excerpts(explanation),
        comments=comments,
        classified_by_rules=classified_by_rules,
    )


def _excerpts(row: ExplanationRow) -> list[FailureExcerpt]:
    # The lines of an erased event are empty.
    lines = [*row.lines, *([] for _ in row.excerpts)]
    return [
        FailureExcerpt(
            row.attempt,
            **{name: excerpt[name] for name in ("first_line", "last_line", "score", "reasons")},
            lines=lines[number],
        )
        for number, excerpt in enumerate(row.excerpts)
    ]


def _detailed(row: BuildRow) -> dict[str, Any]:
    """Returns the fields of `BuildMessage` that have another name or type in the row."""
    return {
        "triggered_by": row.created_by,
        "trigger": msgspec.convert(row.trigger, BuildTrigger) if row.trigger else None,
        "keep_forever": row.pinned,
    }


def _calculated(row: BuildRow) -> dict[str, int]:
    """Returns the fields of `BuildItem` that are computed from several columns of the row."""
    begun, ended = row.started_at, row.finished_at
    return {
        "duration_s": round((ended - begun).total_seconds()) if begun and ended else 0,
        "total_tests": row.passed + row.failed + row.skipped,
        "failed_tests": row.failed,
        "awaits_approval": row.awaits_approval,
    }
