"""Records when sessions were last used, because a session that is idle for long ends. These times are not events. They
are written at most once a minute for each session.
"""

from datetime import timedelta

from psycopg_pool import AsyncConnectionPool

from store.postgres.queries import execute

RECORDING_INTERVAL = timedelta(minutes=1)
"""Shortest time between two recorded uses of a session, so that few requests write to the database."""


async def record_session_use(pool: AsyncConnectionPool, session_id: str, lifetime: timedelta) -> None:
    """Records that the session is used now. Also deletes the records of a few sessions that were last used more than
    `lifetime` ago.
    """
    await execute(
        pool,
        "INSERT INTO session_uses (session_id, used_at) VALUES (%s, now())"
        " ON CONFLICT (session_id) DO UPDATE SET used_at = excluded.used_at",
        (session_id,),
    )
    await execute(
        pool,
        "DELETE FROM session_uses WHERE session_id IN (SELECT session_id FROM session_uses"
        " WHERE used_at < now() - %s ORDER BY used_at LIMIT 10 FOR UPDATE SKIP LOCKED)",
        (lifetime,),
    )
