"""The id of the blob store that belongs to this database. The first process that uses the blob store makes the id.

The id is not an event, since somebody may move a blob store without the server's knowledge.
"""

from psycopg import AsyncConnection

from store.postgres.queries import fetch_row


async def lock_store_id(connection: AsyncConnection) -> str | None:
    """Returns the id of the blob store; None if no blob store was used yet. Locks the table until the caller's
    transaction ends.
    """
    await connection.execute("LOCK TABLE blob_store IN SHARE ROW EXCLUSIVE MODE")
    row = await fetch_row(connection, "SELECT store_id FROM blob_store")
    return None if row is None else str(row[0])


async def record_store_id(connection: AsyncConnection, new_id: str) -> None:
    await connection.execute("INSERT INTO blob_store (store_id) VALUES (%s)", (new_id,))
