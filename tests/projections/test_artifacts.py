"""Artifacts as rows."""

from datetime import UTC, datetime

import hypothesis
from msgspec import structs

from domain import artifacts, jobs
from domain.artifacts import ArtifactDeleted, ArtifactStored
from domain.builds import BuildDeleted
from domain.core.events import Event
from domain.jobs import JobDeleted
from projections.artifacts import PROJECTION, ArtifactRow, ArtifactUsageRow
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


def test_usage_follows_what_is_stored_and_deleted() -> None:
    def used(*more: Event) -> dict[tuple[str, int], int]:
        stored = (
            stored_as(201, build=7, job=5, size=5_000),
            stored_as(202, build=7, job=5, size=10_000),
            stored_as(203, build=8, job=5, size=100_000),
            stored_as(204, build=9, job=6, size=1_000_000),
        )
        rows = given(*stored, *more).when(PROJECTION).all(ArtifactUsageRow)
        return {(row.owner, row.id): row.size_bytes // 1_000 for row in rows if row.owner != "build"}

    deleted = ArtifactDeleted(artifact_id=202, build_id=7, job_id=5, project_id=1, blob="")
    build = BuildDeleted(build_id=7, job_id=5, project_id=1)
    job = JobDeleted(job_id=5, project_id=1)
    assert used() == {("job", 5): 115, ("job", 6): 1_000, ("project", 1): 1_115}
    assert used(deleted) == used(deleted, deleted) == {("job", 5): 105, ("job", 6): 1_000, ("project", 1): 1_105}
    assert used(build) == used(deleted, build) == {("job", 5): 100, ("job", 6): 1_000, ("project", 1): 1_100}
    assert used(job) == used(build, job) == used(deleted, job) == {("job", 6): 1_000, ("project", 1): 1_000}


def test_a_small_artifact_counts_as_a_block() -> None:
    def used(*history: Event) -> int:
        row = given(*history).when(PROJECTION).get(ArtifactUsageRow, "project", 1)
        return 0 if row is None else row.size_bytes

    empty = stored_as(201, build=7, job=5, size=0)
    assert used(empty, stored_as(202, build=7, job=5, size=4_097)) == 4_096 + 4_097
    assert used(empty, ArtifactDeleted(artifact_id=201, build_id=7, job_id=5, project_id=1, blob="")) == 0


def stored_as(artifact_id: int, *, build: int, job: int, size: int) -> ArtifactStored:
    return structs.replace(STORED, artifact_id=artifact_id, build_id=build, job_id=job, size_bytes=size)


@hypothesis.given(histories(*artifacts.EVENTS, *jobs.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
