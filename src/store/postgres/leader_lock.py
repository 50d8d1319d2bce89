"""Leader election by advisory lock: a process leads while one of its connections holds the lock."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from psycopg import AsyncConnection

from store.postgres.queries import fetch_row, fetch_rows

DISPATCH_LOCK = "testhide dispatcher"
SCHEDULES_LOCK = "testhide schedules"
DOCKER_LOCK = "testhide docker"
RETRY_INTERVAL_S = 0.2
"""Seconds between two tries to take a lock that another process holds."""
CONNECT_TIMEOUT_S = 5


class Leader(NamedTuple):
    idle_s: float
    """Seconds since the leader's connection last began or ended a statement. A leader checks its lock every second. So
    a leader that is idle for much longer hangs or was stopped.
    """
    process: str
    """Name of the leader's connection: `testhide process 4711 on ci-1`, unless the database URL sets another name."""


@contextlib.asynccontextmanager
async def hold_leader_lock(conninfo: str, name: str) -> AsyncIterator[AsyncConnection]:
    """Waits until the lock called `name` is free, takes the lock, and yields the connection that holds it. Raises
    psycopg.OperationalError if the database cannot be reached.

    Polls for the lock. A statement that waits for it in PostgreSQL would hold a snapshot, which keeps vacuum from
    removing deleted rows.
    """
    async with await AsyncConnection.connect(
        conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
    ) as connection:
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        while True:
            if await fetch_row(connection, query, (name,)) == (True,):
                break
            await asyncio.sleep(RETRY_INTERVAL_S)
        yield connection


async def fetch_leaders(connection: AsyncConnection, names: Iterable[str]) -> dict[str, Leader]:
    """Returns lock name -> leader. Locks among `names` that nobody holds are missing."""
    rows = await fetch_rows(
        connection,
        "SELECT name, coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8,"
        " coalesce(a.application_name, '') FROM unnest(%s::text[]) AS name"
        " JOIN pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
        "  AND l.classid::bigint << 32 | l.objid::bigint = hashtextextended(name, 0)"
        "  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " JOIN pg_stat_activity a USING (pid)",
        (list(names),),
    )
    return {name: Leader(*leader) for name, *leader in rows}
