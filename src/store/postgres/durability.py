"""Whether the database keeps what it acknowledged."""

from psycopg import AsyncConnection

RISKS = {
    "fsync": "a crash of the machine can lose or corrupt everything",
    "synchronous_commit": "a crash can lose what was acknowledged in the last moments",
}


async def risks(connection: AsyncConnection) -> list[str]:
    """What is switched off that an acknowledged append relies on, each with what it risks."""
    cursor = await connection.execute(
        "SELECT name FROM pg_settings WHERE name = ANY (%s) AND setting = 'off' ORDER BY name", (list(RISKS),)
    )
    return [f"{name} is off ({RISKS[name]})" for (name,) in await cursor.fetchall()]
