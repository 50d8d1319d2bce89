"""The present state of agents: open polls, free slots, load. Not events, and a crash may lose them."""

from datetime import datetime

import msgspec
from psycopg_pool import AsyncConnectionPool

from store.postgres.notifications import POLLS


class Gauge(msgspec.Struct, frozen=True):
    node_id: int
    session: str
    seen_at: datetime
    free: int
    """Builds that the agent could take now. Valid only while `polling`."""
    polling: bool
    cpu_pct: float | None
    ram_pct: float | None
    disk_free_gb: float | None
    uptime_s: int | None
    silent_s: float
    """Seconds since the agent's last call, by the database's clock."""


_COLUMNS = (
    "node_id, session, seen_at, free, polling, cpu_pct, ram_pct, disk_free_gb, uptime_s,"
    " extract(epoch FROM now() - seen_at)::float8"
)


class AgentGauges:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def record_poll(self, node_id: int, session: str, free: int, *, polling: bool) -> None:
        """Records that a poll began or ended, and notifies the dispatcher. A poll's end changes no later session."""
        await self._execute(
            "WITH seen AS (INSERT INTO agent_gauges (node_id, session, seen_at, free, polling)"
            " VALUES (%(node)s, %(session)s, now(), %(free)s, %(polling)s) ON CONFLICT (node_id) DO UPDATE"
            " SET session = EXCLUDED.session, seen_at = now(), free = EXCLUDED.free, polling = EXCLUDED.polling"
            " WHERE EXCLUDED.polling OR agent_gauges.session = EXCLUDED.session RETURNING node_id)"
            " SELECT pg_notify(%(channel)s, %(payload)s) FROM seen",
            node=node_id,
            session=session,
            free=free,
            polling=polling,
            channel=POLLS,
            payload=f"{node_id}:{free if polling else 0}",
        )

    async def record_heartbeat(
        self, node_id: int, session: str, cpu_pct: float, ram_pct: float, disk_free_gb: float, uptime_s: int
    ) -> None:
        await self._execute(
            "INSERT INTO agent_gauges (node_id, session, seen_at, cpu_pct, ram_pct, disk_free_gb, uptime_s)"
            " VALUES (%(node)s, %(session)s, now(), %(cpu)s, %(ram)s, %(disk)s, %(uptime)s)"
            " ON CONFLICT (node_id) DO UPDATE"
            " SET session = EXCLUDED.session, seen_at = now(), cpu_pct = EXCLUDED.cpu_pct, ram_pct = EXCLUDED.ram_pct,"
            " disk_free_gb = EXCLUDED.disk_free_gb, uptime_s = EXCLUDED.uptime_s",
            node=node_id,
            session=session,
            cpu=cpu_pct,
            ram=ram_pct,
            disk=disk_free_gb,
            uptime=uptime_s,
        )

    async def record_contact(self, node_id: int, session: str) -> None:
        """Records any other call of an agent, which shows that it is alive."""
        await self._execute(
            "INSERT INTO agent_gauges (node_id, session, seen_at) VALUES (%(node)s, %(session)s, now())"
            " ON CONFLICT (node_id) DO UPDATE SET seen_at = now(), session = EXCLUDED.session",
            node=node_id,
            session=session,
        )

    async def fetch(self, node_id: int) -> Gauge | None:
        return next((gauge for gauge in await self.fetch_all() if gauge.node_id == node_id), None)

    async def fetch_all(self) -> list[Gauge]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                f"SELECT {_COLUMNS} FROM agent_gauges".encode(), prepare=True, binary=True
            )
            return [Gauge(*row) for row in await cursor.fetchall()]

    async def _execute(self, query: str, **parameters: object) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(query.encode(), parameters, prepare=True)
