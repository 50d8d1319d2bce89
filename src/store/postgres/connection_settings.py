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
    """Returns `conninfo` with keepalive settings: client and database each notice within 30 s when the other is
    unreachable. Names this process in `application_name`, so that the database can say which process holds a lock.

    With the kernel's defaults for keepalive they would notice only after 15 minutes to several hours. For that time a
    dead leader would hold its lock. Keeps the settings that `conninfo` has already.
    """
    given = conninfo_to_dict(conninfo)
    options = f"{SERVER_OPTIONS} {given.get('options') or ''}".strip()
    name = f"testhide process {os.getpid()} on {socket.gethostname()}"
    return make_conninfo("", **(CLIENT_SETTINGS | {"application_name": name} | given | {"options": options}))


async def find_durability_risks(connection: AsyncConnection) -> list[str]:
    """Returns a sentence for each setting with which this PostgreSQL may lose an append that it has confirmed."""
    cursor = await connection.execute(
        "SELECT name FROM pg_settings WHERE name = ANY (%s) AND setting = 'off' ORDER BY name",
        (list(DURABILITY_RISKS),),
    )
    return [f"{name} is off ({DURABILITY_RISKS[name]})" for (name,) in await cursor.fetchall()]
