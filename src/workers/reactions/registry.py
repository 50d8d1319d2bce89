"""The reactions: work outside the log that an event causes.

A reaction runs at least once for each event of its type, so running it twice must do no harm. A new reaction begins at
the end of the log: it does not run for earlier events.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from domain.artifacts import ArtifactDeleted, build_blobs, job_blobs
from domain.builds import BuildDeleted
from domain.core.events import Event
from domain.jobs import JobDeleted
from integrations.ports import Blobs
from store.tables.build_logs import BuildLogs


@dataclass(frozen=True)
class Tools:
    """The stores of data outside the log on which reactions work."""

    build_logs: BuildLogs
    blobs: Blobs


@dataclass(frozen=True)
class Reaction:
    name: str
    event: type[Event]
    run: Callable[[Event, Tools], Awaitable[None]]


async def when_job_deleted_delete_its_logs_and_artifacts(event: Event, tools: Tools) -> None:
    assert isinstance(event, JobDeleted)
    await tools.build_logs.delete_job(event.job_id)
    await tools.blobs.delete_prefix(job_blobs(event.job_id))


async def when_build_deleted_delete_its_log_and_artifacts(event: Event, tools: Tools) -> None:
    assert isinstance(event, BuildDeleted)
    await tools.build_logs.delete_build(event.build_id)
    await tools.blobs.delete_prefix(build_blobs(event.job_id, event.build_id))


async def when_artifact_deleted_delete_its_content(event: Event, tools: Tools) -> None:
    assert isinstance(event, ArtifactDeleted)
    await tools.blobs.delete(event.blob)


REACTIONS = (
    Reaction("delete_a_jobs_logs_and_artifacts", JobDeleted, when_job_deleted_delete_its_logs_and_artifacts),
    Reaction("delete_a_builds_log_and_artifacts", BuildDeleted, when_build_deleted_delete_its_log_and_artifacts),
    Reaction("delete_an_artifacts_content", ArtifactDeleted, when_artifact_deleted_delete_its_content),
)
