"""Database settings on which the server relies: keepalive of its connections, durability of its commits."""

import os
import socket
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

CLIENT_SETTINGS: dict[str, Any] = {
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds that sent data may stay unacknowledged
}
SERVER_OPTIONS = " ".join(f"-c tcp_{name.removeprefix('tcp_')}={value}" for name, value in CLIENT_SETTINGS.items())
"""Session settings for the server's end of the connection. Without effect on a unix socket."""

DURABILITY_RISKS = {
    "fsync": "a crash of the machine can lose or corrupt everything",
    "synchronous_commit": "a crash can lose what was acknowledged in the last moments",
}


def with_keepalive(conninfo: str) -> str:
    """Returns `conninfo` with keepalive settings, and with the name of this process as `application_name`. Settings
    that `conninfo` already has take precedence.

    Keepalive lets client and database notice within 30 s that the other is unreachable. By the kernel's defaults this
    takes 15 minutes to hours, for which a dead leader would hold its lock. The name shows operators which process holds
    a lock.
    """
    given = conninfo_to_dict(conninfo)
    options = f"{SERVER_OPTIONS} {given.get('options') or ''}".strip()
    return make_conninfo("", **(CLIENT_SETTINGS | {"application_name": process_name()} | given | {"options": options}))


def process_name() -> str:
    """Returns the name that connections of this process have, unless the database URL sets another one."""
    return f"testhide process {os.getpid()} on {socket.gethostname()}"


async def find_durability_risks(connection: AsyncConnection) -> list[str]:
    """Returns a sentence for each setting that lets this PostgreSQL lose a confirmed append."""
    cursor = await connection.execute(
        "SELECT name FROM pg_settings WHERE name = ANY (%s) AND setting = 'off' ORDER BY name",
        (list(DURABILITY_RISKS),),
    )
    return [f"{name} is off ({DURABILITY_RISKS[name]})" for (name,) in await cursor.fetchall()]
