"""Artifacts: files that a build leaves behind."""

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from itertools import count
from pathlib import PurePosixPath
from typing import ClassVar, Literal

from domain.core.data_keys import build_key
from domain.core.errors import Invalid
from domain.core.events import Category, Event
from formats.reports import has_report_ending

ArtifactType = Literal["report", "log", "screenshot", "binary"]

MAX_PATH = 1_000
"""Largest number of characters of an artifact's path."""
MAX_FOLDERS = 50
"""Largest number of folders in an artifact's path."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NO_NAMES = ("", "-", "file", "blob")
"""Names that clients, and the server's form parser, give to files without a name."""
_DRIVE = re.compile(r"[A-Za-z]:")
_TYPES: dict[str, ArtifactType] = {
    ".log": "log",
    ".txt": "log",
    ".png": "screenshot",
    ".jpg": "screenshot",
    ".jpeg": "screenshot",
    ".gif": "screenshot",
    ".webp": "screenshot",
}


class ArtifactEvent(Event, frozen=True):
    artifact_id: int
    build_id: int
    job_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"artifact-{self.artifact_id}"


class ArtifactStored(ArtifactEvent, frozen=True):
    name: ClassVar[str] = "artifact.stored"
    sealed: ClassVar[tuple[str, ...]] = ("path", "content_type", "sha256")
    type: ArtifactType
    size_bytes: int
    blob: str
    """The key of the content in the blob store."""
    path: str = ""
    """Path of the file among the build's artifacts, without a leading slash: `reports/report.xml`."""
    content_type: str = ""
    sha256: str = ""

    @property
    def data_key(self) -> str | None:
        return build_key(self.project_id, self.job_id, self.build_id)


class ArtifactDeleted(ArtifactEvent, frozen=True):
    name: ClassVar[str] = "artifact.deleted"
    blob: str


def artifact_path(folder: str, file_name: str) -> str:
    """Returns the path among the build's artifacts under which an uploaded file is stored.

    Usually `folder` is the folder of the file and `file_name` is its name. Some clients send their local path as
    `file_name`: only its last part is used. Some clients send the whole path as `folder`: it counts as the whole path
    if it ends in the file's name, or if the file has no name.

    Raises Invalid for a path that is absolute, is too long or too deep, ends in no name, or contains `..` or control
    characters. Also raises Invalid if `folder` ends in another file name with the same suffix, such as `a/junit-2.xml`
    for `junit.xml`.
    """
    whole, name = folder.replace("\\", "/"), file_name.replace("\\", "/").rpartition("/")[2]
    if not whole or whole.endswith("/"):
        whole += name
    elif name not in (last := whole.rpartition("/")[2], *_NO_NAMES):
        if (suffix := PurePosixPath(name).suffix) and PurePosixPath(last).suffix.lower() == suffix.lower():
            raise Invalid.field(
                "path",
                f"must be a folder, like `{last}/`, or end in the file's name, `{name}`: to store it as `{last}`,"
                " upload it under that name",
            )
        whole += f"/{name}"
    if _CONTROL.search(whole):
        raise Invalid.field("path", "must not have control characters")
    if whole.startswith("/") or _DRIVE.match(whole):
        raise Invalid.field("path", "must be relative, like `reports/`: no leading slash or drive")
    parts = [part for part in whole.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Invalid.field("path", "must not have `..`")
    path = "/".join(parts)
    if whole.rpartition("/")[2] in ("", "."):
        raise Invalid.field("path", "must end in a file name, here or in the name of the uploaded file")
    if len(path) > MAX_PATH:
        raise Invalid.field("path", f"must have at most {MAX_PATH:,} characters")
    if len(parts) > MAX_FOLDERS + 1:
        raise Invalid.field("path", f"must have at most {MAX_FOLDERS} folders within each other")
    return path


def artifact_type(path: str) -> ArtifactType:
    name = PurePosixPath(path.lower())
    if has_report_ending(path) and name.suffix:
        return "report"
    if name.suffix in (".json", ".html", ".htm"):
        return "report" if name.name.startswith("report") else "binary"
    return _TYPES.get(name.suffix, "binary")


def matches_glob(path: str, glob: str) -> bool:
    """Returns whether a glob of a job's `artifacts` matches the file at `path` or a folder above it."""
    parts = path.split("/")
    matched = {0}
    for segment in (segment for segment in glob.split("/") if segment not in ("", ".")):
        if segment == "**":
            matched = set(range(min(matched, default=len(parts) + 1), len(parts) + 1))
        else:
            matched = {count + 1 for count in matched if count < len(parts) and fnmatchcase(parts[count], segment)}
    return bool(matched)


def is_found_by_wildcard(path: str, globs: Collection[str]) -> bool:
    """Returns whether a wildcard or a folder in `globs` matches the file, while none of `globs` is its exact path. A
    wildcard does not say which files must exist, so nobody would notice if this file were missing.
    """
    exact = {glob.removeprefix("./") for glob in globs}
    return path not in exact and any(matches_glob(path, glob) for glob in globs)


def number_path(path: str) -> Iterator[str]:
    """Yields an endless sequence of distinct paths, for files that all have the path `path`: `a/junit.xml`,
    `a/junit-2.xml`, `a/junit-3.xml`, ...
    """
    yield path
    folder, slash, name = path.rpartition("/")
    packed = ".gz" if name.endswith(".gz") else ""
    stem, dot, ending = name.removesuffix(packed).rpartition(".")
    if not stem:
        stem, dot, ending = name.removesuffix(packed), "", ""
    yield from (f"{folder}{slash}{stem}-{number}{dot}{ending}{packed}" for number in count(2))


def job_blobs(job_id: int) -> str:
    """Returns the prefix of the keys of all blobs of a job."""
    return f"jobs/{job_id}/"


def build_blobs(job_id: int, build_id: int) -> str:
    return f"{job_blobs(job_id)}builds/{build_id}/"


def blob_key(job_id: int, build_id: int, artifact_id: int) -> str:
    return f"{build_blobs(job_id, build_id)}artifacts/{artifact_id}"


def evolve(state: ArtifactStored | None, event: Event) -> ArtifactStored | None:
    match event:
        case ArtifactStored():
            return event
        case ArtifactDeleted():
            return None
        case _:
            return state


ARTIFACT = Category[ArtifactStored | None]("artifact", None, evolve)
EVENTS = (ArtifactStored, ArtifactDeleted)
