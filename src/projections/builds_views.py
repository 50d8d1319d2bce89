"""The representation of builds in API answers, webhooks and Teams cards."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from projections.builds import BuildRow


class BuildItem(msgspec.Struct):
    id: int
    job_id: int
    project_id: int
    status: str
    reason: str | None
    branch: str
    commit_sha: str | None
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_s: int
    total_tests: int
    failed_tests: int


class CommentView(msgspec.Struct):
    id: int
    build_id: int
    text: str
    author: str
    created_at: datetime


class BuildDetail(BuildItem):
    passed: int
    failed: int
    skipped: int
    known_issues: int
    quarantined: int
    node_id: int | None
    attempt: int
    detail: str | None
    exit_code: int | None
    log_lines: int
    external: bool
    triggered_by: str
    restarted_from: int | None
    selected_tests: int | None
    """Number of tests the build was restricted to; null when it runs all."""
    keep_forever: bool
    waiting_for: str | None
    """Why a queued build is not assigned yet; null until the dispatcher has tried."""
    comments: list[CommentView]
    configuration: dict[str, Any]


def item_fields(row: BuildRow) -> Mapping[str, Any]:
    begun = row.started_at
    ended = row.finished_at
    return {
        "id": row.id,
        "job_id": row.job_id,
        "project_id": row.project_id,
        "status": row.status,
        "reason": row.reason,
        "branch": row.branch,
        "commit_sha": row.commit_sha,
        "priority": row.priority,
        "created_at": row.created_at,
        "started_at": begun,
        "finished_at": ended,
        "duration_s": round((ended - begun).total_seconds()) if begun and ended else 0,
        "total_tests": row.passed + row.failed + row.skipped,
        "failed_tests": row.failed,
    }


def detail(row: BuildRow, waiting_for: str | None, comments: list[CommentView]) -> BuildDetail:
    return BuildDetail(
        **item_fields(row),
        passed=row.passed,
        failed=row.failed,
        skipped=row.skipped,
        known_issues=row.known_issues,
        quarantined=row.quarantined,
        node_id=row.node_id,
        attempt=row.attempt,
        detail=row.detail,
        exit_code=row.exit_code,
        log_lines=row.log_lines,
        external=row.external,
        triggered_by=row.created_by,
        restarted_from=row.restarted_from,
        selected_tests=row.selected_tests,
        keep_forever=row.pinned,
        waiting_for=waiting_for,
        comments=comments,
        configuration=row.configuration,
    )
