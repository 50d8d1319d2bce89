"""Failed logins of the last minutes, by subject: an account or the address of a client. Failed logins are not events.

Each failure deletes a few expired rows, so that neither recording nor reading slows down with their number.
"""

from collections.abc import Sequence

from psycopg_pool import AsyncConnectionPool

from store.postgres.queries import execute, fetch_rows

MAX_FAILURES = 10
"""Failures within a window after which a subject has to wait until the window ends."""
WINDOW_S = 300


class LoginFailures:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def fetch_wait_s(self, subjects: Sequence[str]) -> int:
        """Returns the seconds until the next attempt is allowed; 0 when it is allowed now."""
        rows = await fetch_rows(
            self._pool,
            "SELECT greatest(0, max(ceil(extract(epoch FROM since - now()) + %s)))::int FROM login_failures"
            " WHERE subject = ANY (%s::text[]) AND failures >= %s",
            (WINDOW_S, list(subjects), MAX_FAILURES),
        )
        return int(rows[0][0])

    async def record(self, subjects: Sequence[str]) -> None:
        """Adds a failure to each subject. A subject's window begins with its first failure."""
        window = f"interval '{WINDOW_S} seconds'"
        await execute(
            self._pool,
            f"INSERT INTO login_failures AS f SELECT subject, 1, now() FROM unnest(%s::text[]) AS subject"
            " ORDER BY subject ON CONFLICT (subject) DO UPDATE SET"
            f" failures = CASE WHEN f.since < now() - {window} THEN 1 ELSE f.failures + 1 END,"
            f" since = CASE WHEN f.since < now() - {window} THEN now() ELSE f.since END",
            (list(subjects),),
        )
        await execute(
            self._pool,
            "DELETE FROM login_failures WHERE subject IN (SELECT subject FROM login_failures"
            f" WHERE since < now() - {window} ORDER BY since LIMIT 10 FOR UPDATE SKIP LOCKED)",
        )

    async def clear(self, subject: str) -> None:
        await execute(self._pool, "DELETE FROM login_failures WHERE subject = %s", (subject,))
