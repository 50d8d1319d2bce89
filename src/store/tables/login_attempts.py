"""Counts attempts to sign in during the last minutes, by subject. Attempts are not events.

A subject is an account, a network address, or an account together with an address; it is stored as an HMAC. An attempt
is counted before its password is checked, so that simultaneous attempts cannot exceed a limit. A successful attempt is
subtracted again. Each attempt also deletes a few expired rows, so the table stays small. The limits are in
`api/auth.py` and `api/passwords.py`.
"""

from collections.abc import Mapping

from psycopg_pool import AsyncConnectionPool

from store.postgres.queries import execute, fetch_row

ATTEMPT_WINDOW_S = 300
"""Seconds from the first attempt of a subject until its count starts again at zero. A subject with too many attempts is
locked out for the rest of this time. `api/auth.py` and `api/passwords.py` set the numbers of attempts.
"""
KNOWN_ADDRESS_DAYS = 30
"""Days for which a network address is known at an account after somebody signed in to the account from there. Attempts
from known addresses do not count for the limit of an account (`api.auth.MAX_FAILED_SIGN_INS_AT_ACCOUNT`).
"""
_WINDOW = f"interval '{ATTEMPT_WINDOW_S} seconds'"
_KNOWN = f"interval '{KNOWN_ADDRESS_DAYS} days'"


class LoginAttempts:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def reserve(self, limits: Mapping[str, int]) -> int:
        """Counts one attempt for each subject, unless one of them has reached its limit. `limits` maps subjects to
        limits.

        Returns 0 if the attempt was counted; otherwise the seconds after which the next attempt is allowed.
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
            (list(limits), list(limits.values()), ATTEMPT_WINDOW_S),
        )
        await self._delete_expired()
        if row is None or row[0] is None:
            return 0
        await self.release(limits)
        return max(1, int(row[0]))

    async def release(self, subjects: Mapping[str, int]) -> None:
        """Subtracts one attempt from the count of each subject."""
        await execute(
            self._pool,
            "UPDATE login_failures SET failures = greatest(failures - 1, 0) WHERE subject = ANY (%s::text[])",
            (list(subjects),),
        )

    async def _delete_expired(self) -> None:
        """Deletes up to ten expired rows. One attempt adds fewer rows, so the table does not grow even if all attempts
        fail.
        """
        await execute(
            self._pool,
            "DELETE FROM login_failures WHERE subject IN (SELECT subject FROM login_failures"
            f" WHERE since < now() - {_WINDOW} ORDER BY since LIMIT 10 FOR UPDATE SKIP LOCKED)",
        )

    async def is_known(self, subject: str) -> bool:
        """Returns whether somebody signed in to the account from the address in the last KNOWN_ADDRESS_DAYS. `subject`
        stands for the account together with the address.
        """
        query = f"SELECT 1 FROM known_logins WHERE subject = %s AND at > now() - {_KNOWN}"
        return await fetch_row(self._pool, query, (subject,)) is not None

    async def succeed(self, subject: str) -> None:
        """Records that somebody signed in to an account from an address. `subject` stands for the account together with
        the address. Deletes the count of attempts of this subject.
        """
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
