"""Caches of builds that the server keeps for all agents of a pool. They are not stored as events, and may be
lost without harm.

A row stands for one blob. Its state is `writing` while the blob is written, `kept` once it is whole, and `dropped` when
the blob is to be deleted. The row is written before its blob, and deleted after it. So every blob has a row, even if
a process is killed halfway.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.postgres.queries import execute, fetch_row, fetch_rows

PREFIX = "caches/"
"""Beginning of the keys of all blobs of caches."""
LEAST_BYTES = 4096
"""Least size of a cache, in bytes, in the sum for a quota. A smaller cache counts as this size, since its row and its
file take room, too.
"""


class CacheName(NamedTuple):
    """Identity of a shared cache. Builds that differ in any of these fields do not share it."""

    job_id: int
    scope: str
    """Text for the project, trust and branch of the builds that share the cache. The trust says whether the builds are
    untrusted, of an admin or of a member.
    """
    pool_id: int
    """Pool of the nodes that share the cache; 0 for nodes without a pool."""
    digest: str
    """Digest of the key and the paths, which the agent computes."""


class CacheQuota(NamedTuple):
    """Limit of the size of all caches of one project and trust, whatever their branches."""

    trust: str
    """Text for the project and trust, with which the scopes of the limited caches begin. No other scopes begin so."""
    size_bytes: int


class StoredCache(NamedTuple):
    blob: str
    size_bytes: int
    sha256: str


class SharedCaches:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def find(self, name: CacheName) -> StoredCache | None:
        """Returns the cache with this name if its blob is whole, and records that the cache is used now. Otherwise
        returns None.
        """
        row = await fetch_row(
            self._pool,
            "UPDATE shared_caches SET used_at = now() WHERE state = 'kept'"
            " AND (job_id, scope, pool_id, digest) = (%s, %s, %s, %s) RETURNING blob, size_bytes, sha256",
            name,
        )
        return None if row is None else StoredCache(*row)

    async def begin(self, project_id: int, name: CacheName, size_bytes: int, sha256: str, quota: CacheQuota) -> str:
        """Records a cache that is about to be written, and returns the key for its blob. Drops the caches of the same
        trust that were used longest ago, until all caches of this trust together have at most the bytes of `quota`.
        Caches of another trust stay, so a build cannot push out the caches of builds with another trust.
        """
        blob = f"{prefix_of_job(name.job_id)}{secrets.token_hex(16)}"
        async with self._locked(project_id) as connection:
            await execute(
                connection,
                "WITH summed AS (SELECT blob, sum(greatest(size_bytes, %s)) OVER (ORDER BY used_at DESC, blob) AS bytes"
                " FROM shared_caches WHERE project_id = %s AND starts_with(scope, %s) AND state <> 'dropped')"
                " UPDATE shared_caches SET state = 'dropped' FROM summed"
                " WHERE shared_caches.blob = summed.blob AND summed.bytes > %s",
                (LEAST_BYTES, project_id, quota.trust, quota.size_bytes - max(size_bytes, LEAST_BYTES)),
            )
            await execute(
                connection,
                "INSERT INTO shared_caches"
                " (blob, project_id, job_id, scope, pool_id, digest, size_bytes, sha256, state)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'writing')",
                (blob, project_id, *name, size_bytes, sha256),
            )
        return blob

    async def complete(self, project_id: int, blob: str) -> bool:
        """Records that a blob is whole, and drops earlier caches of the same name. Returns False if the cache was
        removed meanwhile: its job was deleted, or newer caches took its room.
        """
        async with self._locked(project_id) as connection:
            query = "UPDATE shared_caches SET state = 'kept' WHERE blob = %s AND state = 'writing' RETURNING 1"
            if await fetch_row(connection, query, (blob,)) is None:
                return False
            await execute(
                connection,
                "UPDATE shared_caches AS earlier SET state = 'dropped' FROM shared_caches AS kept WHERE kept.blob = %s"
                " AND (earlier.job_id, earlier.scope, earlier.pool_id, earlier.digest)"
                " = (kept.job_id, kept.scope, kept.pool_id, kept.digest)"
                " AND earlier.blob <> kept.blob AND earlier.state = 'kept'",
                (blob,),
            )
        return True

    async def drop(self, blob: str) -> None:
        """Records that a blob is to be deleted."""
        await execute(self._pool, "UPDATE shared_caches SET state = 'dropped' WHERE blob = %s", (blob,))

    async def list_dropped(self, project_id: int) -> list[str]:
        query = "SELECT blob FROM shared_caches WHERE project_id = %s AND state = 'dropped'"
        return [blob for (blob,) in await fetch_rows(self._pool, query, (project_id,))]

    async def forget(self, blob: str) -> None:
        """Removes the row of a blob that is deleted."""
        await execute(self._pool, "DELETE FROM shared_caches WHERE blob = %s", (blob,))

    async def delete_job(self, job_id: int) -> None:
        await execute(self._pool, "DELETE FROM shared_caches WHERE job_id = %s", (job_id,))

    @asynccontextmanager
    async def _locked(self, project_id: int) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction, after other transactions of this kind for the same project have ended."""
        async with self._pool.connection() as connection, connection.transaction():
            lock = f"shared caches of project {project_id}"
            await execute(connection, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock,))
            yield connection


def prefix_of_job(job_id: int) -> str:
    """Returns the prefix of the keys of all blobs of a job's caches."""
    return f"{PREFIX}{job_id}/"
