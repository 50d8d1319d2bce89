"""Jobs as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import jobs
from domain.core.events import Event
from domain.jobs import Configuration, JobConfigured, JobCreated, JobDeleted, JobUpdated
from projections.jobs import PROJECTION, ConfigurationRow, JobRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
CREATED = JobCreated(at=NOW, job_id=5, project_id=1, title="Smoke", node_pool_id=2, repository="/srv/r.git")
CONFIGURATION = Configuration(
    command="pytest", setup=["s"], env={"A": "1"}, artifacts=["*.xml"], secrets={"Z": b"z", "B": b"b"}
)
CONFIGURED = JobConfigured(at=NOW, job_id=5, project_id=1, configuration=CONFIGURATION)


def test_a_job_changes() -> None:
    update = JobUpdated(
        job_id=5, project_id=1, title="New", enabled=False, required_tags=["gpu"], cleared=("node_pool_id",)
    )
    row = given(CREATED, update).when(PROJECTION).one(JobRow)
    assert row == JobRow(5, 1, "New", False, None, 60, 1, "/srv/r.git", "main", None, NOW, ["gpu"])


def test_only_the_names_of_secrets_are_rows() -> None:
    row = given(CREATED, CONFIGURED).when(PROJECTION).one(ConfigurationRow)
    assert row == ConfigurationRow(5, ["s"], "pytest", {"A": "1"}, ["*.xml"], ["B", "Z"], NOW)


def test_a_deleted_job_leaves_no_rows() -> None:
    rows = given(CREATED, CONFIGURED, JobDeleted(job_id=5, project_id=1)).when(PROJECTION)
    assert rows.all(JobRow) == []
    assert rows.all(ConfigurationRow) == []


@hypothesis.given(histories(*jobs.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
