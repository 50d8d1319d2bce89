"""Triggers of jobs as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import jobs
from domain.core.events import Event
from domain.jobs import JobCreated, JobDeleted, JobTriggersChanged, JobUpdated
from domain.triggers import CronTrigger, Triggers
from projections.triggers import PROJECTION, TriggerRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
LATER = NOW.replace(hour=11)
CREATED = JobCreated(at=NOW, job_id=5, project_id=1, repository="https://github.com/Acme/Web.git")
TRIGGERS = Triggers(branches=["main"], cron=[CronTrigger("0 3 * * *", "Europe/Berlin")])
CHANGED = JobTriggersChanged(at=NOW, job_id=5, project_id=1, triggers=TRIGGERS)


def test_a_new_job_has_no_triggers() -> None:
    row = given(CREATED).when(PROJECTION).one(TriggerRow)
    assert row == TriggerRow(5, 1, True, "acme/web", "web")
    assert row.settings == Triggers()


def test_triggers_change() -> None:
    row = given(CREATED, CHANGED).when(PROJECTION).one(TriggerRow)
    assert row.settings == TRIGGERS
    assert (row.starts_by_changes, row.starts_by_time, row.scheduled_since) == (True, True, NOW)
    none = JobTriggersChanged(at=LATER, job_id=5, project_id=1)
    row = given(CREATED, CHANGED, none).when(PROJECTION).one(TriggerRow)
    assert (row.starts_by_changes, row.starts_by_time, row.scheduled_since) == (False, False, LATER)


def test_a_job_that_is_enabled_again_begins_its_time_tables_anew() -> None:
    disabled = JobUpdated(at=NOW, job_id=5, project_id=1, enabled=False)
    enabled = JobUpdated(at=LATER, job_id=5, project_id=1, enabled=True)
    row = given(CREATED, CHANGED, disabled).when(PROJECTION).one(TriggerRow)
    assert (row.enabled, row.scheduled_since) == (False, NOW)
    row = given(CREATED, CHANGED, disabled, enabled).when(PROJECTION).one(TriggerRow)
    assert (row.enabled, row.scheduled_since) == (True, LATER)


def test_the_repository_changes() -> None:
    moved = JobUpdated(job_id=5, project_id=1, repository="git@github.com:acme/api.git")
    renamed = JobUpdated(job_id=5, project_id=1, title="New")
    removed = JobUpdated(job_id=5, project_id=1, cleared=("repository",))
    assert given(CREATED, moved, renamed).when(PROJECTION).one(TriggerRow).repository == "acme/api"
    assert given(CREATED, removed).when(PROJECTION).one(TriggerRow).repository == ""


def test_a_deleted_job_leaves_no_row() -> None:
    assert given(CREATED, CHANGED, JobDeleted(job_id=5, project_id=1)).when(PROJECTION).all(TriggerRow) == []


@hypothesis.given(histories(*jobs.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
