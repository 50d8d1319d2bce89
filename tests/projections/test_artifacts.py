"""Artifacts as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import artifacts, jobs
from domain.artifacts import ArtifactStored
from domain.core.events import Event
from domain.jobs import JobDeleted
from projections.artifacts import PROJECTION, ArtifactRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
STORED = ArtifactStored(
    at=NOW,
    artifact_id=201,
    build_id=7,
    job_id=5,
    project_id=1,
    path="reports/report.xml",
    type="report",
    content_type="application/xml",
    size_bytes=5,
    sha256="00",
    blob="jobs/5/builds/7/artifacts/201",
)


def test_a_row() -> None:
    row = given(STORED).when(PROJECTION).one(ArtifactRow)
    assert row == ArtifactRow(
        201, 7, 5, 1, "reports/report.xml", "report", "application/xml", 5, "00", "jobs/5/builds/7/artifacts/201", NOW
    )
    assert row.name == "report.xml"


def test_a_deleted_job_leaves_no_artifacts() -> None:
    other = JobDeleted(job_id=6, project_id=1)
    assert len(given(STORED, other).when(PROJECTION).all(ArtifactRow)) == 1
    assert given(STORED, JobDeleted(job_id=5, project_id=1)).when(PROJECTION).all(ArtifactRow) == []


@hypothesis.given(histories(*artifacts.EVENTS, *jobs.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
