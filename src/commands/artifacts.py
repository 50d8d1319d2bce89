"""Commands on artifacts: store, delete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from domain.artifacts import (
    ARTIFACT,
    ArtifactDeleted,
    ArtifactStored,
    ArtifactType,
    artifact_type,
    blob_key,
)
from domain.builds import BUILD, AnyBuild, Assigned, Finished, Running, status_of
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job


@dataclass(frozen=True)
class StoreArtifact(Command):
    """Records an artifact whose contents are stored already. `by_node` is the id of the node whose agent sent the
    artifact; None if a user sent it.
    """

    artifact_id: int
    build_id: int
    path: str
    content_type: str
    size_bytes: int
    sha256: str
    by_node: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return ARTIFACT.at(self.artifact_id), BUILD.at(self.build_id)

    def then_reads(self, artifact: ArtifactStored | None, build: AnyBuild | None) -> Sequence[AnyStream]:
        """Returns the stream of the build's job. Deleting the job deletes the contents of all its artifacts, so no
        artifact may be stored after that.
        """
        return () if build is None else (JOB.at(build.queued.job_id),)

    def decide(
        self, artifact: ArtifactStored | None, build: AnyBuild | None, job: Job | None = None
    ) -> Iterable[Event]:
        if artifact is not None:
            return
        if build is None or build.deleted or (job is not None and job.deleted):
            raise NotFound(f"There is no build {self.build_id}.")
        if self.by_node is not None:
            must_be_leased(build, self.by_node)
        blob = blob_key(build.queued.job_id, self.build_id, self.artifact_id)
        yield self.event(ArtifactStored, **build.ids, type=_choose_type(self.path, build), blob=blob)


def _choose_type(path: str, build: AnyBuild) -> ArtifactType:
    """Returns the type of the artifact at `path`. A file that could not be read as a report is `binary`, whatever its
    name.
    """
    reports = [report for report in build.reports if report.path == path and not report.is_replaced]
    if reports and all(report.unreadable and not report.cases for report in reports):
        return "binary"
    return artifact_type(path)


@dataclass(frozen=True)
class DeleteArtifact(Command):
    artifact_id: int
    build_id: int

    def reads(self) -> Sequence[AnyStream]:
        return ARTIFACT.at(self.artifact_id), BUILD.at(self.build_id)

    def decide(self, artifact: ArtifactStored | None, build: AnyBuild | None) -> Iterable[Event]:
        if artifact is None or build is None or build.deleted:
            raise NotFound(f"There is no artifact {self.artifact_id}.")
        if build.pinned:
            raise Conflict(
                f"Build {self.build_id} is kept for ever, and its artifacts with it;"
                f" first take that back by DELETE /api/v3/builds/{self.build_id}/keep-forever."
            )
        yield self.event(ArtifactDeleted, artifact)


def must_be_leased(build: AnyBuild, node_id: int) -> None:
    """Raises an error if the node does not run the build: Conflict if the build ended on this node, and otherwise
    NotFound, as if the build did not exist. The agent logs the refusal and goes on with its build.
    """
    match build:
        case Assigned() | Running() if build.node_id == node_id:
            return
        case Finished() if build.node_id == node_id:
            raise Conflict(f"Build {build.build_id} has already {status_of(build)}.")
        case _:
            raise NotFound(f"There is no build {build.build_id}.")
