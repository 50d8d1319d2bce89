"""Read model of build artifacts."""

from collections.abc import Iterable
from datetime import datetime

from domain.artifacts import ArtifactDeleted, ArtifactStored
from domain.builds import BuildDeleted
from domain.core.events import Recorded, copy_fields
from domain.jobs import JobDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Projection, Row, Rows, Table, no_rows
from projections.engine.queries import fetch_all, fetch_one, find_row
from store.postgres.queries import Source

VERSION = 1


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


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case ArtifactStored():
            yield copy_fields(ArtifactRow, event, id=event.artifact_id, created_at=event.at)
        case ArtifactDeleted():
            yield Delete(ArtifactRow, event.artifact_id)
        case BuildDeleted():
            yield DeleteWhere(ArtifactRow, "build_id", event.build_id)
        case JobDeleted():
            yield DeleteWhere(ArtifactRow, "job_id", event.job_id)


PROJECTION = Projection(
    "artifacts",
    VERSION,
    (ArtifactRow,),
    no_rows,
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
    """Returns a page of a build's artifacts, ordered by id. `search` limits it to file names that contain this text,
    ignoring case.
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


async def find_duplicate(source: Source, build_id: int, path: str, sha256: str) -> ArtifactRow | None:
    """Returns the build's artifact with this path and content; None if it has none. An agent may send the same file
    twice.
    """
    query = (
        f"SELECT * FROM {ArtifactRow.table} WHERE build_id = %(build)s AND path = %(path)s AND sha256 = %(sha256)s"
        " ORDER BY id LIMIT 1"
    )
    return await fetch_one(source, ArtifactRow, query, {"build": build_id, "path": path, "sha256": sha256})
