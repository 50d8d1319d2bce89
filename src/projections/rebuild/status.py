"""How the read models stand: what an operator sees of them."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from psycopg import AsyncConnection

from projections.engine.model import Projection
from projections.engine.queries import fetch_all
from projections.engine.schemas import held, lock_name

State = Literal["serving", "missing", "building", "interrupted", "built", "previous"]
ERRORS_SHOWN = 3


class Standing(msgspec.Struct):
    name: str
    version: int
    state: State
    """`building`: beside, and a process is at it; `interrupted`: beside, and none is; `built`: beside, and can be
    switched to; `previous`: replaced by a switch, or another release's; `missing`: nothing serves in this version.
    """
    place: str | None
    """The PostgreSQL schema that its tables are in."""
    position: int
    lag: int
    """Events of the log that it has not seen."""
    parked: int = 0
    """Events that it could not take, and those that wait for them."""
    errors: list[str] = []
    """The first of what it could not take: `build-7 at position 12: ...`."""
    progress: float | None = None
    """While it is built: how much of the log it has seen, from 0 to 1."""
    eta_s: int | None = None


class _Found(msgspec.Struct):
    place: str
    name: str
    version: int
    position: int
    built: bool
    events_per_s: float
    parked: int
    errors: list[str]


QUERY = " UNION ALL ".join(
    f"""
    SELECT '{place}', p.name, p.version, p.position, p.built_at IS NOT NULL,
        (p.position - p.started_from) / greatest(extract(epoch FROM p.updated_at - p.started_at), 0.001)::float8,
        (SELECT count(*) FROM {place}.parked_events e WHERE e.projection = p.name AND e.version = p.version),
        ARRAY(
            SELECT e.stream || ' at position ' || e.position || ': ' || e.error FROM {place}.parked_events e
            WHERE e.projection = p.name AND e.version = p.version ORDER BY e.position LIMIT %(errors)s
        )
    FROM {place}.projection_positions p
    """
    for place in ("public", "beside", "previous")
)


async def overview(connection: AsyncConnection, projections: Sequence[Projection], head: int) -> list[Standing]:
    """Everything that stands, and what is missing, by the order of the catalogue."""
    found = await fetch_all(connection, _Found, QUERY, {"errors": ERRORS_SHOWN})
    builds = [lock_name("beside", item.name, item.version) for item in found if item.place == "beside"]
    at_work = await held(connection, builds)
    versions = {projection.name: projection.version for projection in projections}
    standing = [_standing(item, versions, at_work, head) for item in found]
    serving = {item.name for item in standing if item.state == "serving"}
    standing += [
        Standing(name, version, "missing", None, 0, head) for name, version in versions.items() if name not in serving
    ]
    order = {name: number for number, name in enumerate(versions)}
    states = ("serving", "missing", "building", "interrupted", "built", "previous")
    return sorted(
        standing, key=lambda item: (order.get(item.name, len(order)), item.name, states.index(item.state), item.version)
    )


def _standing(item: _Found, versions: dict[str, int], at_work: set[str], head: int) -> Standing:
    standing = Standing(
        item.name, item.version, "previous", item.place, item.position, max(head - item.position, 0), item.parked
    )
    standing.errors = item.errors
    if item.place == "public" and versions.get(item.name) == item.version:
        standing.state = "serving"
    elif item.place == "beside":
        is_at_work = lock_name("beside", item.name, item.version) in at_work
        standing.state = "built" if item.built else "building" if is_at_work else "interrupted"
        if not item.built:
            standing.progress = item.position / head if head else 1.0
            if is_at_work and item.events_per_s > 0:
                standing.eta_s = round(standing.lag / item.events_per_s)
    return standing
