"""Artifacts: files that a build leaves behind."""

from typing import ClassVar, Literal

from domain.base import Event

ArtifactType = Literal["report", "log", "screenshot", "binary"]


class ArtifactStored(Event, frozen=True):
    name: ClassVar[str] = "artifact.stored"
    artifact_id: int
    build_id: int
    job_id: int
    project_id: int
    path: str
    """Inside the build's tree, without a leading slash: `reports/report.xml`."""
    type: ArtifactType
    content_type: str
    size_bytes: int
    sha256: str
    blob: str
    """The key of the content in the blob store."""

    @property
    def stream(self) -> str:
        return f"artifact-{self.artifact_id}"

    @property
    def data_key(self) -> str | None:
        return f"build-{self.build_id}"


EVENTS = (ArtifactStored,)
