"""Records SAML assertions, requests and sign-in codes that were used, so that none can be used again. These are not
events.

A used value is forgotten after RETENTION_S seconds. Callers must make sure that a value expires earlier.
"""

import hashlib

from psycopg_pool import AsyncConnectionPool

from store.postgres.queries import execute, fetch_row

RETENTION_S = 24 * 3600
"""Seconds for which a used value is remembered. Every value expires earlier."""


class UsedOnce:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def use(self, kind: str, value: str) -> bool:
        """Records the use of a value. Returns False if it was used before, by any process."""
        await execute(
            self._pool,
            "DELETE FROM used_once WHERE digest IN (SELECT digest FROM used_once"
            f" WHERE at < now() - interval '{RETENTION_S} seconds' ORDER BY at LIMIT 10 FOR UPDATE SKIP LOCKED)",
        )
        digest = hashlib.sha256(f"{kind}\0{value}".encode()).digest()
        query = "INSERT INTO used_once (digest) VALUES (%s) ON CONFLICT DO NOTHING RETURNING 1"
        return await fetch_row(self._pool, query, (digest,)) is not None
