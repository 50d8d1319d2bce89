"""Gauges of agents: open polls, free slots, load. They are not events, and a crash may lose them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from store.postgres.notifications import POLLS
from store.postgres.queries import execute, fetch_rows

SEEN_US = "(extract(epoch FROM agent_gauges.seen_at) * 1000000)::bigint"
_POLLED_US = "(extract(epoch FROM agent_gauges.polled_at) * 1000000)::bigint"


class RunningBuilds(msgspec.Struct, frozen=True):
    """Builds that a heartbeat named, with the session and the uptime in this heartbeat. All three are stored in one
    column, which processes of earlier releases do not write. So they always come from the same heartbeat.
    """

    session: str
    uptime_s: int
    """The machine's uptime in seconds, as the heartbeat says. If heartbeats of a session arrive in the wrong order, the
    uptime shows which heartbeat is the later one.
    """
    builds: frozenset[tuple[int, int]]
    """Id and attempt of each build."""


class Gauge(msgspec.Struct, frozen=True):
    node_id: int
    session: str
    seen_at: datetime
    free: int
    """Number of builds that the agent could take now. Valid only while `polling` is true."""
    polling: bool
    cpu_pct: float | None
    ram_pct: float | None
    disk_free_gb: float | None
    uptime_s: int | None
    silent_s: float
    """Seconds since the agent's last call, by the database's clock."""
    seen_us: int
    """`seen_at` in microseconds since 1970. The notification of a poll (channel POLLS) contains this number, too. If
    both are equal, the agent has made no call since the poll.
    """
    running: RunningBuilds | None
    """Builds that the last heartbeat named. This heartbeat may be from an earlier session."""


class AgentGauges:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def record_poll(self, node_id: int, session: str, free: int) -> int:
        """Records that an agent's poll began, and notifies the dispatcher. Returns the poll's id, for `end_poll`."""
        rows = await fetch_rows(
            self._pool,
            "WITH seen AS (INSERT INTO agent_gauges (node_id, session, seen_at, free, polling, polled_at)"
            " VALUES (%s, %s, now(), %s, true, now()) ON CONFLICT (node_id) DO UPDATE"
            " SET session = EXCLUDED.session, seen_at = now(), free = EXCLUDED.free, polling = true, polled_at = now()"
            f" RETURNING {SEEN_US} AS seen_us)"
            " SELECT seen_us, pg_notify(%s, %s || seen_us) FROM seen",
            (node_id, session, free, POLLS, f"{node_id}:{free}:"),
        )
        poll_id: int = rows[0][0]
        return poll_id

    async def end_poll(self, node_id: int, session: str, poll_id: int) -> None:
        """Records that a poll ended, and notifies the dispatcher. Does nothing if the agent has polled again since,
        perhaps at another process or in a newer session.
        """
        await execute(
            self._pool,
            "WITH seen AS (UPDATE agent_gauges SET seen_at = now(), free = 0, polling = false"
            f" WHERE node_id = %s AND session = %s AND polling AND {_POLLED_US} = %s RETURNING {SEEN_US} AS seen_us)"
            " SELECT pg_notify(%s, %s || seen_us) FROM seen",
            (node_id, session, poll_id, POLLS, f"{node_id}:0:"),
        )

    async def record_heartbeat(
        self,
        node_id: int,
        session: str,
        cpu_pct: float,
        ram_pct: float,
        disk_free_gb: float,
        uptime_s: int,
        running: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Records the measurements of a heartbeat, and the builds that it named."""
        heartbeat = msgspec.to_builtins(RunningBuilds(session, uptime_s, frozenset(running)))
        await execute(
            self._pool,
            "INSERT INTO agent_gauges (node_id, session, seen_at, cpu_pct, ram_pct, disk_free_gb, uptime_s,"
            " heartbeat) VALUES (%s, %s, now(), %s, %s, %s, %s, %s)"
            " ON CONFLICT (node_id) DO UPDATE"
            " SET session = EXCLUDED.session, seen_at = now(), cpu_pct = EXCLUDED.cpu_pct, ram_pct = EXCLUDED.ram_pct,"
            " disk_free_gb = EXCLUDED.disk_free_gb, uptime_s = EXCLUDED.uptime_s,"
            " heartbeat = EXCLUDED.heartbeat",
            (node_id, session, cpu_pct, ram_pct, disk_free_gb, uptime_s, Jsonb(heartbeat)),
        )

    async def record_contact(self, node_id: int, session: str) -> None:
        """Records that the agent has just made a call, which shows that it is alive. Polls and heartbeats record this,
        too.
        """
        await execute(
            self._pool,
            "INSERT INTO agent_gauges (node_id, session, seen_at) VALUES (%s, %s, now())"
            " ON CONFLICT (node_id) DO UPDATE SET seen_at = now(), session = EXCLUDED.session",
            (node_id, session),
        )

    async def fetch(self, node_id: int) -> Gauge | None:
        return next((gauge for gauge in await self.fetch_all() if gauge.node_id == node_id), None)

    async def fetch_all(self) -> list[Gauge]:
        rows = await fetch_rows(
            self._pool,
            "SELECT node_id, session, seen_at, free, polling, cpu_pct, ram_pct, disk_free_gb, uptime_s,"
            f" extract(epoch FROM now() - seen_at)::float8, {SEEN_US}, heartbeat FROM agent_gauges",
        )
        return [_read_gauge(row) for row in rows]


def _read_gauge(row: tuple[Any, ...]) -> Gauge:
    fields: tuple[Any, ...] = (*row[:-1], msgspec.convert(row[-1], RunningBuilds | None))
    return Gauge(*fields)
