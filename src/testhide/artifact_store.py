"""Checks that the blob store belongs to the database, before a process uses it.

Machines with different data folders would each see, and delete, only the artifacts in their own folder. So the store
contains an id, which the database contains too.
"""

import secrets
from collections.abc import AsyncIterator

import structlog
from psycopg_pool import AsyncConnectionPool

from domain.core.errors import Unavailable
from integrations.ports import BlobMissing, Blobs
from store.tables.blob_store import lock_store_id, record_store_id
from testhide.operator_errors import Fault

log = structlog.get_logger()

KEY = "store-id"
"""Key of the blob that contains the id. All other keys begin with `jobs/` or `caches/`."""


async def refuse_other_store(pool: AsyncConnectionPool, blobs: Blobs, url: str) -> None:
    """Raise Fault if the database belongs to another store than the one at `url`. If the database belongs to no store
    yet, it belongs to this one from now on. Does nothing if the store cannot be reached, since uploads report this.
    """
    try:
        async with pool.connection() as connection, connection.transaction():
            expected = await lock_store_id(connection)
            found = await _read_id(blobs)
            if expected is None:
                if found is None:
                    found = secrets.token_hex(16)
                    await blobs.put(KEY, _once(found.encode()))
                await record_store_id(connection, found)
                expected = found
    except Unavailable as error:
        log.warning("the blob store is not compared with the database", detail=error.detail)
        return
    if found != expected:
        wrong = f"has no file {KEY}" if found is None else f"has another id in its file {KEY}"
        raise Fault(
            f"The artifacts of this database are not at {url}, which {wrong}. All machines need the same folder"
            " (TESTHIDE_DATA, shared and mounted) or object store (TESTHIDE_BLOBS_URL). If it is the right one, or the"
            f" artifacts are lost for good, write {expected} into that file."
        )


async def _read_id(blobs: Blobs) -> str | None:
    try:
        return b"".join([chunk async for chunk in await blobs.get(KEY)]).decode(errors="replace").strip()
    except BlobMissing:
        return None


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
