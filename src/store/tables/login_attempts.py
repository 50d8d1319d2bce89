"""Attempts to sign in during the last minutes, counted by subject. They are not events.

A subject is an account, an address, or an account from an address, as an HMAC. An attempt is counted before its
password is checked, so that attempts at the same time cannot exceed a limit. An attempt that succeeds is uncounted.
Calls delete a few expired rows, so that they do not slow down with the number of rows.
"""

from collections.abc import Mapping

from psycopg_pool import AsyncConnectionPool

from store.postgres.queries import execute, fetch_row

WINDOW_S = 300
"""Seconds from the first attempt of a subject until counting its attempts begins again."""
KNOWN_DAYS = 30
"""Days that an address counts as known to an account after somebody signed in to it from there."""
_WINDOW = f"interval '{WINDOW_S} seconds'"
_KNOWN = f"interval '{KNOWN_DAYS} days'"


class LoginAttempts:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def reserve(self, limits: Mapping[str, int]) -> int:
        """Counts an attempt of each subject, unless a subject has reached its limit. `limits` are by subject.

        Returns 0 when the attempt is counted, else the seconds until the next attempt is allowed.
        """
        row = await fetch_row(
            self._pool,
            "WITH asked AS (SELECT * FROM unnest(%s::text[], %s::int[]) AS asked (subject, most)), counted AS ("
            " INSERT INTO login_failures AS f SELECT subject, 1, now() FROM asked ORDER BY subject"
            " ON CONFLICT (subject) DO UPDATE SET"
            f" failures = CASE WHEN f.since < now() - {_WINDOW} THEN 1 ELSE f.failures + 1 END,"
            f" since = CASE WHEN f.since < now() - {_WINDOW} THEN now() ELSE f.since END"
            " RETURNING subject, failures, since"
            ") SELECT max(ceil(extract(epoch FROM since - now()) + %s))::int FROM counted JOIN asked USING (subject)"
            " WHERE failures > most",
            (list(limits), list(limits.values()), WINDOW_S),
        )
        if row is None or row[0] is None:
            return 0
        await self.release(limits)
        return max(1, int(row[0]))

    async def release(self, subjects: Mapping[str, int]) -> None:
        """Takes back one counted attempt of each subject."""
        await execute(
            self._pool,
            "UPDATE login_failures SET failures = greatest(failures - 1, 0) WHERE subject = ANY (%s::text[])",
            (list(subjects),),
        )
        await execute(
            self._pool,
            "DELETE FROM login_failures WHERE subject IN (SELECT subject FROM login_failures"
            f" WHERE since < now() - {_WINDOW} ORDER BY since LIMIT 10 FOR UPDATE SKIP LOCKED)",
        )

    async def is_known(self, subject: str) -> bool:
        """Returns whether somebody signed in within KNOWN_DAYS. `subject` is an account from an address."""
        query = f"SELECT 1 FROM known_logins WHERE subject = %s AND at > now() - {_KNOWN}"
        return await fetch_row(self._pool, query, (subject,)) is not None

    async def succeed(self, subject: str) -> None:
        """Deletes the count of attempts and records the success. `subject` is an account from an address."""
        await execute(self._pool, "DELETE FROM login_failures WHERE subject = %s", (subject,))
        await execute(
            self._pool,
            "INSERT INTO known_logins (subject, at) VALUES (%s, now()) ON CONFLICT (subject) DO UPDATE SET at = now()",
            (subject,),
        )
        await execute(
            self._pool,
            "DELETE FROM known_logins WHERE subject IN (SELECT subject FROM known_logins"
            f" WHERE at < now() - {_KNOWN} ORDER BY at LIMIT 10 FOR UPDATE SKIP LOCKED)",
        )
