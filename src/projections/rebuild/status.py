"""Status of the read models, for operators."""

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec
from psycopg import AsyncConnection

from projections.engine.inspection import Inspection, inspect
from projections.engine.model import Projection
from projections.engine.queries import fetch_all
from projections.engine.schemas import LIVE, SCHEMAS, STAGING, find_held_locks, lock_name

State = Literal["serving", "broken", "missing", "building", "interrupted", "built", "previous"]
MAX_ERRORS = 3
"""Number of errors of parked events that are shown for each read model."""


class ReadModelStatus(msgspec.Struct):
    """Status of one version of a read model in one schema."""

    name: str
    version: int
    state: State
    """`serving`: live, in the version of this release. `broken`: like `serving`, but no projector moves it, since a
    part of it is lost or its position is beyond the log. `missing`: this release needs it, but it has no live tables.
    `building`: staging, and a process is building it. `interrupted`: staging and incomplete, and no process is building
    it. `built`: staging, and ready for a switch. `previous`: retired, or live for another release.
    """
    place: str | None
    """PostgreSQL schema of the read model's tables; null if they are missing."""
    position: int
    lag: int
    """Number of positions from the read model's position to the end of the log."""
    parked: int = 0
    """Number of parked events."""
    errors: list[str] = []
    """Errors of the first parked events: `build-7 at position 12: ...`."""
    defect: str | None = None
    """Why the read model is broken; null if it is not."""
    progress: float | None = None
    """Part of the log that a rebuild has applied, from 0 to 1. Null unless a rebuild is running or was interrupted."""
    eta_s: int | None = None
    """Estimated seconds until the rebuild ends; null if none is running."""


class _Found(msgspec.Struct):
    schema: str
    name: str
    version: int
    position: int
    built: bool
    events_per_s: float
    parked: int
    errors: list[str]


QUERY = " UNION ALL ".join(
    f"""
    SELECT '{schema}', p.name, p.version, p.position, p.built_at IS NOT NULL,
        (p.position - p.started_from) / greatest(extract(epoch FROM p.updated_at - p.started_at), 0.001)::float8,
        (SELECT count(*) FROM {schema}.parked_events e WHERE e.projection = p.name AND e.version = p.version),
        ARRAY(
            SELECT e.stream || ' at position ' || e.position || ': ' || e.error FROM {schema}.parked_events e
            WHERE e.projection = p.name AND e.version = p.version ORDER BY e.position LIMIT %(errors)s
        )
    FROM {schema}.projection_positions p
    """
    for schema in SCHEMAS
)


async def overview(connection: AsyncConnection, projections: Sequence[Projection]) -> list[ReadModelStatus]:
    """Returns the status of each version of each read model, in the order of the registry. Includes read models without
    tables that this release needs.
    """
    live = await inspect(connection, projections)
    found = await fetch_all(connection, _Found, QUERY, {"errors": MAX_ERRORS})
    builds = [lock_name(STAGING, item.name, item.version) for item in found if item.schema == STAGING]
    active_builds = await find_held_locks(connection, builds)
    versions = {projection.name: projection.version for projection in projections}
    statuses = [_status_of(item, versions, active_builds, live) for item in found]
    statuses += [
        ReadModelStatus(name, version, "missing", None, 0, live.head)
        for name, version in versions.items()
        if name not in live.positions
    ]
    order = {name: number for number, name in enumerate(versions)}
    states = get_args(State)
    return sorted(
        statuses, key=lambda item: (order.get(item.name, len(order)), item.name, states.index(item.state), item.version)
    )


def _status_of(item: _Found, versions: dict[str, int], active_builds: set[str], live: Inspection) -> ReadModelStatus:
    head = live.head
    status = ReadModelStatus(
        item.name, item.version, "previous", item.schema, item.position, max(head - item.position, 0), item.parked
    )
    status.errors = item.errors
    if item.schema == LIVE and versions.get(item.name) == item.version:
        status.defect = live.broken.get(item.name)
        status.state = "serving" if status.defect is None else "broken"
    elif item.schema == STAGING:
        is_active = lock_name(STAGING, item.name, item.version) in active_builds
        status.state = "built" if item.built else "building" if is_active else "interrupted"
        if not item.built:
            status.progress = item.position / head if head else 1.0
            if is_active and item.events_per_s > 0:
                status.eta_s = round(status.lag / item.events_per_s)
    return status
