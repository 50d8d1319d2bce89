"""Settings of the database that the server relies on: of its connections, and of what it acknowledges."""

from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
UNACKNOWLEDGED_MS = 20_000
"""How long data that was sent may stay unacknowledged before the connection counts as broken."""

CLIENT_SETTINGS: dict[str, Any] = {
    "keepalives_idle": KEEPALIVE_IDLE_S,
    "keepalives_interval": KEEPALIVE_INTERVAL_S,
    "keepalives_count": KEEPALIVE_COUNT,
    "tcp_user_timeout": UNACKNOWLEDGED_MS,
}
SERVER_OPTIONS = (
    f"-c tcp_keepalives_idle={KEEPALIVE_IDLE_S} -c tcp_keepalives_interval={KEEPALIVE_INTERVAL_S}"
    f" -c tcp_keepalives_count={KEEPALIVE_COUNT} -c tcp_user_timeout={UNACKNOWLEDGED_MS}"
)
"""Session settings for the server's end of the connection. Without effect on a unix socket."""

DURABILITY_RISKS = {
    "fsync": "a crash of the machine can lose or corrupt everything",
    "synchronous_commit": "a crash can lose what was acknowledged in the last moments",
}


def with_keepalive(conninfo: str) -> str:
    """Adds settings by which both ends notice within 30 s that the other machine, or the network, is gone.

    By the kernel's defaults that takes from 15 minutes to hours, and meanwhile a dead leader keeps its lock. Settings
    that `conninfo` has already stay.
    """
    given = conninfo_to_dict(conninfo)
    options = f"{SERVER_OPTIONS} {given.get('options') or ''}".strip()
    return make_conninfo("", **(CLIENT_SETTINGS | given | {"options": options}))


async def find_durability_risks(connection: AsyncConnection) -> list[str]:
    """Lists the settings by which this PostgreSQL may lose an acknowledged append, each with its risk."""
    cursor = await connection.execute(
        "SELECT name FROM pg_settings WHERE name = ANY (%s) AND setting = 'off' ORDER BY name",
        (list(DURABILITY_RISKS),),
    )
    return [f"{name} is off ({DURABILITY_RISKS[name]})" for (name,) in await cursor.fetchall()]
