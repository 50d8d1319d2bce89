"""Read model of build artifacts, with their total bytes for each project, job and build."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

from domain.artifacts import ArtifactDeleted, ArtifactEvent, ArtifactStored
from domain.builds import BuildDeleted
from domain.core.events import Recorded, copy_fields
from domain.jobs import JobDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Key, Projection, Row, Rows, Table
from projections.engine.queries import fetch_all, fetch_one, fetch_value, find_row
from store.postgres.queries import Source

VERSION = 3
MIN_CHARGE = 4_096
"""Least number of bytes that an artifact counts against its project's quota, since even an empty artifact has rows and
an event.
"""


class ArtifactRow(Row, frozen=True):
    table = Table("artifacts", VERSION, indexes=("(build_id, id)", "(job_id)"))
    id: int
    build_id: int
    job_id: int
    project_id: int
    path: str
    type: str
    content_type: str
    size_bytes: int
    sha256: str
    blob: str
    created_at: datetime

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class ArtifactUsageRow(Row, frozen=True):
    """Total bytes of the artifacts of one project, job or build. Each artifact counts at least MIN_CHARGE.

    When a build is deleted, its total is subtracted from the totals of its job and project. When a job is deleted, its
    total is subtracted from the total of the project.
    """

    table = Table("artifact_usage", VERSION, key=("owner", "id"), indexes=("(job_id)",))
    owner: Literal["project", "job", "build"]
    id: int
    job_id: int | None
    """Id of the build's job in the row of a build; null in rows of jobs and projects."""
    size_bytes: int = 0


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    event = recorded.event
    match event:
        case ArtifactStored() | ArtifactDeleted() | BuildDeleted():
            yield from ((ArtifactUsageRow, owner) for owner in _owners(event))
            if isinstance(event, ArtifactDeleted):
                yield ArtifactRow, (event.artifact_id,)
        case JobDeleted():
            yield ArtifactUsageRow, ("job", event.job_id)
            yield ArtifactUsageRow, ("project", event.project_id)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case ArtifactStored():
            yield copy_fields(ArtifactRow, event, id=event.artifact_id, created_at=event.at)
            yield from _add(rows, charge(event.size_bytes), *_owners(event), job_id=event.job_id)
        case ArtifactDeleted():
            artifact = rows.get(ArtifactRow, event.artifact_id)
            if artifact is not None:
                yield Delete(ArtifactRow, event.artifact_id)
                yield from _add(rows, -charge(artifact.size_bytes), *_owners(event), job_id=event.job_id)
        case BuildDeleted():
            yield DeleteWhere(ArtifactRow, "build_id", event.build_id)
            build, job, project = _owners(event)
            if (usage := rows.get(ArtifactUsageRow, *build)) is not None:
                yield Delete(ArtifactUsageRow, *build)
                yield from _add(rows, -usage.size_bytes, job, project)
        case JobDeleted():
            yield DeleteWhere(ArtifactRow, "job_id", event.job_id)
            yield DeleteWhere(ArtifactUsageRow, "job_id", event.job_id)
            if (usage := rows.get(ArtifactUsageRow, "job", event.job_id)) is not None:
                yield Delete(ArtifactUsageRow, "job", event.job_id)
                yield from _add(rows, -usage.size_bytes, ("project", event.project_id))


def charge(size_bytes: int) -> int:
    """Returns the bytes that an artifact of this size counts against the quota of its project."""
    return max(size_bytes, MIN_CHARGE)


_Owner = tuple[Literal["project", "job", "build"], int]


def _owners(event: ArtifactEvent | BuildDeleted) -> tuple[_Owner, _Owner, _Owner]:
    return ("build", event.build_id), ("job", event.job_id), ("project", event.project_id)


def _add(rows: Rows, size_bytes: int, *owners: _Owner, job_id: int | None = None) -> Iterator[ArtifactUsageRow]:
    """Yields the usage row of each owner, with `size_bytes` added. Stores `job_id` in the row of a build."""
    for owner, number in owners:
        before = rows.get(ArtifactUsageRow, owner, number)
        size = size_bytes if before is None else before.size_bytes + size_bytes
        yield ArtifactUsageRow(owner, number, job_id if owner == "build" else None, max(0, size))


PROJECTION = Projection(
    "artifacts",
    VERSION,
    (ArtifactRow, ArtifactUsageRow),
    keys,
    apply,
    handles=(ArtifactDeleted, ArtifactStored, BuildDeleted, JobDeleted),
)


async def fetch_page(
    source: Source,
    build_id: int,
    *,
    type: str | None = None,
    search: str | None = None,
    after: int = 0,
    limit: int = 10_000,
    offset: int = 0,
) -> list[ArtifactRow]:
    """Returns a page of a build's artifacts, ordered by id. `search` limits the page to artifacts whose file name
    contains this text, ignoring case.
    """
    return await fetch_all(
        source,
        ArtifactRow,
        f"SELECT * FROM {ArtifactRow.table} WHERE build_id = %(build)s AND id > %(after)s"
        " AND (%(type)s::text IS NULL OR type = %(type)s::text)"
        " AND (%(search)s::text IS NULL"
        " OR strpos(lower(substring(path FROM '[^/]*$')), lower(%(search)s::text)) > 0)"
        " ORDER BY id LIMIT %(limit)s OFFSET %(offset)s",
        {"build": build_id, "type": type, "search": search, "after": after, "limit": limit, "offset": offset},
    )


async def find(source: Source, artifact_id: int) -> ArtifactRow | None:
    return await find_row(source, ArtifactRow, artifact_id)


async def fetch_usage(source: Source, project_id: int) -> int:
    """Returns the total bytes of a project's artifacts, as they count against its quota."""
    query = f"SELECT * FROM {ArtifactUsageRow.table} WHERE owner = 'project' AND id = %(project)s"
    row = await fetch_one(source, ArtifactUsageRow, query, {"project": project_id})
    return 0 if row is None else row.size_bytes


async def count_of_build(source: Source, build_id: int) -> int:
    query = f"SELECT count(*) FROM {ArtifactRow.table} WHERE build_id = %(build)s"
    return int(await fetch_value(source, query, {"build": build_id}))


async def find_duplicate(source: Source, build_id: int, path: str, sha256: str) -> ArtifactRow | None:
    """Returns the build's artifact with this path and content; None if there is none. An agent may send a file
    twice.
    """
    query = (
        f"SELECT * FROM {ArtifactRow.table} WHERE build_id = %(build)s AND path = %(path)s AND sha256 = %(sha256)s"
        " ORDER BY id LIMIT 1"
    )
    return await fetch_one(source, ArtifactRow, query, {"build": build_id, "path": path, "sha256": sha256})
