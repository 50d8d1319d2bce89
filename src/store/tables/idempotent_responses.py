"""What was answered to a request with an idempotency key, for when it comes again.

The append function notes the key in the transaction of the events (`store.log.append.IdempotencyKey`); the
answer is added, sealed, when there is one. A day later all of it is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import msgspec
from psycopg_pool import AsyncConnectionPool

from store.crypto.secrets import Secrets, decrypt, encrypt

KEPT = timedelta(hours=24)
SECRETS_KEPT = timedelta(minutes=5)
"""How long an answer is kept that shows what is shown only once."""


class StoredResponse(msgspec.Struct, frozen=True, array_like=True):
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class EarlierRequest:
    body: bytes
    """Hash of its body."""
    position: int
    age: timedelta
    made: int | None
    """Id of what was made, where the answer shows a secret of it."""
    answer: StoredResponse | None
    """None while it is still in flight, for ever when its process died in between, and when it is not shown again."""


_answers = msgspec.msgpack.Decoder(StoredResponse)


class IdempotentResponses:
    def __init__(self, pool: AsyncConnectionPool, secrets: Secrets) -> None:
        self._pool = pool
        self._key = secrets.responses_key

    async def find(self, scope: bytes) -> EarlierRequest | None:
        await self.delete_expired(scope)
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT body, position, now() - at, made, answer FROM stored_events_once WHERE scope = %s",
                (scope,),
                prepare=True,
                binary=True,
            )
            row = await cursor.fetchone()
        if row is None:
            return None
        body, position, age, made, sealed = row
        answer = None if sealed is None else _answers.decode(decrypt(self._key, sealed, scope))
        return EarlierRequest(body, position, age, made, answer)

    async def store(self, scope: bytes, answer: StoredResponse, made: int | None) -> None:
        sealed = encrypt(self._key, msgspec.msgpack.encode(answer), scope)
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE stored_events_once SET answer = %s, made = %s WHERE scope = %s", (sealed, made, scope)
            )

    async def delete_expired(self, scope: bytes | None = None) -> None:
        """Forgets what is too old: all of it, or one."""
        async with self._pool.connection() as connection:
            for statement, kept in (
                ("DELETE FROM stored_events_once WHERE at < now() - %s", KEPT),
                (
                    "UPDATE stored_events_once SET answer = NULL WHERE made IS NOT NULL AND at < now() - %s",
                    SECRETS_KEPT,
                ),
            ):
                await connection.execute(f"{statement} AND coalesce(scope = %s, true)".encode(), (kept, scope))
