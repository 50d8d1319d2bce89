"""How often signing in failed lately. No mutation of ours, so no event.

Subjects are what is guessed or who guesses: an account, an address. What stands here after a window is dropped
bit by bit by later failures, so that neither a look nor a note grows with their number.
"""

from collections.abc import Sequence

from psycopg_pool import AsyncConnectionPool

FAILURES = 10
WINDOW_S = 300


class LoginFailures:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def fetch_wait_s(self, subjects: Sequence[str]) -> int:
        """Whole seconds until one may try again; 0 now."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT coalesce(max(ceil(extract(epoch FROM since - now()) + %(window)s)), 0)::int"
                " FROM login_failures WHERE subject = ANY (%(subjects)s::text[]) AND failures >= %(failures)s",
                {"window": WINDOW_S, "subjects": list(subjects), "failures": FAILURES},
                prepare=True,
            )
            row = await cursor.fetchone()
        return 0 if row is None else max(0, int(row[0]))

    async def record(self, subjects: Sequence[str]) -> None:
        """One more failure of each; the window begins with its first."""
        window = f"interval '{WINDOW_S} seconds'"
        async with self._pool.connection() as connection:
            await connection.execute(
                f"INSERT INTO login_failures AS f SELECT subject, 1, now() FROM unnest(%s::text[]) AS subject"
                " ORDER BY subject ON CONFLICT (subject) DO UPDATE SET"
                f" failures = CASE WHEN f.since < now() - {window} THEN 1 ELSE f.failures + 1 END,"
                f" since = CASE WHEN f.since < now() - {window} THEN now() ELSE f.since END".encode(),
                (list(subjects),),
                prepare=True,
            )
            await connection.execute(
                "DELETE FROM login_failures WHERE subject IN (SELECT subject FROM login_failures"
                f" WHERE since < now() - {window} ORDER BY since LIMIT 10 FOR UPDATE SKIP LOCKED)".encode(),
                prepare=True,
            )

    async def clear(self, subject: str) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("DELETE FROM login_failures WHERE subject = %s", (subject,), prepare=True)
