"""How connections to the database learn that the other machine, or the way to it, is gone without a word.

The kernel's own patience is hours for a connection that waits, as a listener's does, and a quarter of an hour for one
that has just asked. And for as long as the server does not know that the leader's machine is gone, nobody else leads.
"""

from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

IDLE_S = 10
EVERY_S = 5
TIMES = 3
UNANSWERED_MS = 20_000
OF_CLIENT: dict[str, Any] = {
    "keepalives_idle": IDLE_S,
    "keepalives_interval": EVERY_S,
    "keepalives_count": TIMES,
    "tcp_user_timeout": UNANSWERED_MS,
}
OF_SERVER = (
    f"-c tcp_keepalives_idle={IDLE_S} -c tcp_keepalives_interval={EVERY_S} -c tcp_keepalives_count={TIMES}"
    f" -c tcp_user_timeout={UNANSWERED_MS}"
)
"""Settings of the session. They mean nothing on a unix socket."""


def attentive(conninfo: str) -> str:
    """Both ends notice within half a minute. What the operator says otherwise counts."""
    given = conninfo_to_dict(conninfo)
    options = f"{OF_SERVER} {given.get('options') or ''}".strip()
    return make_conninfo("", **(OF_CLIENT | given | {"options": options}))
