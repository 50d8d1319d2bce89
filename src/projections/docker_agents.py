"""Read model of Docker agents."""

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

import msgspec

from domain import docker_agents
from domain.core.events import Recorded, copy_fields
from domain.docker_agents import DockerAgentStatus, Operation
from projections.builds import BuildRow
from projections.engine.model import Change, Delete, Key, Projection, Row, Rows, Table
from projections.engine.queries import Window, fetch_all, fetch_one
from projections.pools import PoolRow
from store.postgres.queries import Source, fetch_rows

VERSION = 2


class DockerAgentRow(Row, frozen=True):
    table = Table("docker_agents", VERSION, indexes=("(number)", "(host)"))
    id: str
    number: int
    """Position of the event that requested the agent. Lists are ordered by it."""
    host: str
    image: str
    pool_id: int | None
    memory_mb: int | None
    cpus: float | None
    created_at: datetime
    status: DockerAgentStatus = "starting"
    pending: str | None = "spawn"
    """Requested operation that no worker has carried out yet."""
    error: str | None = None
    container_id: str = ""
    node_id: int | None = None
    started_at: datetime | None = None
    """Time at which the server saw the container start last."""
    registration_until: datetime | None = None
    """Time until which the agent must have registered; None if it has."""


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    event = recorded.event
    if isinstance(event, docker_agents.DockerAgentEvent) and not isinstance(
        event, docker_agents.DockerAgentRequested | docker_agents.DockerAgentDestroyed
    ):
        yield DockerAgentRow, (event.agent_id,)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case docker_agents.DockerAgentRequested():
            yield copy_fields(DockerAgentRow, event, id=event.agent_id, number=recorded.position, created_at=event.at)
        case docker_agents.DockerAgentDestroyed():
            yield Delete(DockerAgentRow, event.agent_id)
        case docker_agents.DockerAgentEvent():
            if row := rows.get(DockerAgentRow, event.agent_id):
                yield _changed(row, event)


def _changed(row: DockerAgentRow, event: docker_agents.DockerAgentEvent) -> DockerAgentRow:
    replace = msgspec.structs.replace
    # Status, pending operation and error change as in the state that `domain.docker_agents.evolve` returns.
    keeps_destroying = "destroy" if row.pending == "destroy" else None
    match event:
        case docker_agents.DockerAgentStarted():
            pending = None if row.pending in ("spawn", "start") else row.pending
            shown = {"status": "running", "pending": pending, "error": None, "started_at": event.at}
            return replace(row, **shown, container_id=event.container_id)
        case docker_agents.DockerAgentStopped():
            shown = {"status": "stopped", "pending": keeps_destroying, "error": None}
            return replace(row, **shown, container_id=event.container_id)
        case docker_agents.DockerAgentFailed():
            pending = row.pending if event.repeats else keeps_destroying
            shown = {"status": row.status if event.repeats else "error", "pending": pending, "error": event.error}
            return replace(row, **shown, container_id=event.container_id or row.container_id)
        case docker_agents.DockerAgentStartRequested():
            until = event.registration_until
            return replace(row, status="starting", pending="start", error=None, registration_until=until)
        case docker_agents.DockerAgentStopRequested():
            return replace(row, pending="stop", error=None)
        case docker_agents.DockerAgentDestroyRequested():
            return replace(row, pending="destroy", error=None)
        case docker_agents.DockerAgentRegistered():
            return replace(row, node_id=event.node_id, registration_until=None)
        case _:
            return row


PROJECTION = Projection(
    "docker_agents", VERSION, (DockerAgentRow,), keys, apply, handles=(docker_agents.DockerAgentEvent,)
)


class DockerAgentView(msgspec.Struct, frozen=True):
    id: str
    host: str
    """Name of the Docker host, as the operator has configured it."""
    image: str
    status: DockerAgentStatus
    build_id: int | None
    """Build that runs in the container; null if none does."""
    started_at: datetime | None
    """When the container started last; null if it never did."""
    node_id: int | None
    """Node as which the agent has registered; null if it has not yet."""
    pool_id: int | None
    memory_mb: int | None
    cpus: float | None
    pending: Operation | None
    """Requested operation that is being carried out; null if there is none."""
    error: str | None
    """Why the status is `error`, why the pending operation is being repeated, or that the agent has not registered in
    time; null without an error.
    """
    created_at: datetime
    number: int
    """Number of the agent, as the parameter `after` of the list of agents takes it."""


NOT_REGISTERED = "its agent has not registered in time: its log says why"

_VIEW = f"""
    SELECT a.id, a.host, a.image, a.status, (SELECT min(b.id) FROM {BuildRow.table} b WHERE b.node_id = a.node_id
            AND b.finished_at IS NULL AND b.status <> 'queued'), a.started_at, a.node_id, a.pool_id, a.memory_mb,
        a.cpus, a.pending,
        CASE WHEN a.status = 'running' AND a.registration_until < now() THEN coalesce(a.error, '{NOT_REGISTERED}')
            ELSE a.error END,
        a.created_at, a.number
    FROM {DockerAgentRow.table} a
"""


async def find_view(source: Source, agent_id: str) -> DockerAgentView | None:
    return await fetch_one(source, DockerAgentView, f"{_VIEW} WHERE a.id = %(id)s", {"id": agent_id})


async def fetch_page(
    source: Source, *, status: str | None, project_id: int | None, **window: Unpack[Window]
) -> list[DockerAgentView]:
    """Returns a page of the Docker agents, oldest first. With `project_id`, returns only agents in the project's
    pools.
    """
    return await fetch_all(
        source,
        DockerAgentView,
        f"{_VIEW} WHERE a.number > %(after)s AND (%(status)s::text IS NULL OR a.status = %(status)s)"
        " AND (%(project)s::bigint IS NULL"
        f"  OR a.pool_id IN (SELECT id FROM {PoolRow.table} WHERE project_id = %(project)s))"
        " ORDER BY a.number OFFSET %(offset)s LIMIT %(limit)s",
        {"status": status, "project": project_id, **window},
    )


async def fetch_of_host(source: Source, host: str) -> list[str]:
    """Returns the ids of the Docker agents on a host."""
    rows = await fetch_rows(source, f"SELECT id FROM {DockerAgentRow.table} WHERE host = %s", (host,))
    return [agent_id for (agent_id,) in rows]
