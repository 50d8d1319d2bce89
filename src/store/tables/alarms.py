"""Alarms: faults that workers found in the stored data. Readiness shows an alarm until the worker that set it ends
it.
"""

from psycopg import AsyncConnection

from store.postgres.queries import Source, execute, fetch_rows


async def set_alarm(source: Source, name: str, message: str | None) -> None:
    """Sets or replaces the alarm called `name`. A message of None ends the alarm."""
    if message is None:
        await execute(source, "DELETE FROM alarms WHERE name = %s", (name,))
    else:
        await execute(
            source,
            "INSERT INTO alarms (name, message) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET message = EXCLUDED.message",
            (name, message),
        )


async def fetch_alarms(connection: AsyncConnection) -> list[str]:
    """Returns the messages of all alarms, the oldest first."""
    return [message for (message,) in await fetch_rows(connection, "SELECT message FROM alarms ORDER BY since, name")]
