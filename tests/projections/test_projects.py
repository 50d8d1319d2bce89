"""Projects as rows."""

from datetime import UTC, datetime, timedelta

import hypothesis

from domain import jobs, projects
from domain.builds import BuildQueued
from domain.core.events import Event
from domain.jobs import Configuration, JobCreated, JobDeleted
from domain.projects import MemberAdmitted, MemberRemoved, ProjectCreated, ProjectUpdated
from projections.projects import PROJECTION, MemberRow, ProjectRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
CREATED = ProjectCreated(at=NOW, project_id=1, title="P", slug="p", sealed_webhook_secret=b"s")


def queued(at: datetime) -> BuildQueued:
    return BuildQueued(at=at, build_id=1, job_id=5, project_id=1, configuration=Configuration(), branch="main")


def test_a_project_changes() -> None:
    rows = given(CREATED, ProjectUpdated(project_id=1, title="New")).when(PROJECTION)
    assert rows.one(ProjectRow) == ProjectRow(1, "New", "p", "", None, b"s", NOW)


def test_jobs_are_counted() -> None:
    job = JobCreated(job_id=5, project_id=1, title="J")
    rows = given(CREATED, job, JobCreated(job_id=6, project_id=1, title="J")).when(PROJECTION)
    assert rows.one(ProjectRow).jobs_count == 2
    rows.apply(JobDeleted(job_id=5, project_id=1))
    assert rows.one(ProjectRow).jobs_count == 1


def test_the_last_build_is_the_newest() -> None:
    rows = given(CREATED, queued(NOW), queued(NOW - timedelta(hours=1))).when(PROJECTION)
    assert rows.one(ProjectRow).last_build_at == NOW


def test_access_is_replaced() -> None:
    admitted = [MemberAdmitted(project_id=1, user_id=7, access=level) for level in ("read", "write")]
    assert given(CREATED, *admitted).when(PROJECTION).all(MemberRow) == [MemberRow(1, 7, "write")]


def test_removed_members_have_no_access() -> None:
    admitted = [MemberAdmitted(project_id=1, user_id=user_id, access="write") for user_id in (7, 8)]
    rows = given(CREATED, *admitted, MemberRemoved(project_id=1, user_id=7)).when(PROJECTION)
    assert rows.all(MemberRow) == [MemberRow(1, 8, "write")]


@hypothesis.given(histories(*projects.EVENTS, *jobs.EVENTS, BuildQueued))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
