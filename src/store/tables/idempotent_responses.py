"""Idempotent responses: stored answers to requests with an idempotency key. A request that comes again gets the stored
answer.

The append function stores the key in the transaction of the events (`store.log.append.IdempotencyKey`). The answer is
added later, encrypted. Key and answer are deleted after a day.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import structlog
from psycopg_pool import AsyncConnectionPool

from store.crypto.secrets import SecretMismatch, Secrets
from store.postgres.queries import execute, fetch_row

log = structlog.get_logger()

RETENTION = timedelta(hours=24)
"""Time for which the response to a request with an idempotency key is stored."""
SECRET_RETENTION = timedelta(minutes=5)
"""Time for which a response with a secret, such as a new token, is stored."""


class StoredResponse(msgspec.Struct, frozen=True, array_like=True):
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class EarlierRequest:
    body: bytes
    """SHA-256 of the request's body."""
    position: int
    age: timedelta
    made: int | None
    """The id of the resource that the request created, if the response shows a secret of this resource; else None."""
    answer: StoredResponse | None
    """The stored answer. None while the request is running, if its process died before it answered, or if the answer
    was altered. An answer with a secret becomes None after SECRET_RETENTION.
    """
    is_altered: bool = False
    """True if somebody changed the stored answer in the database."""


_answers = msgspec.msgpack.Decoder(StoredResponse)


class IdempotentResponses:
    def __init__(self, pool: AsyncConnectionPool, secrets: Secrets) -> None:
        self._pool = pool
        self._secrets = secrets

    async def find(self, scope: bytes) -> EarlierRequest | None:
        await self.delete_expired(scope)
        query = "SELECT body, position, now() - at, made, answer FROM stored_events_once WHERE scope = %s"
        if (row := await fetch_row(self._pool, query, (scope,))) is None:
            return None
        body, position, age, made, sealed = row
        try:
            answer = None if sealed is None else _answers.decode(self._secrets.unseal_response(scope, sealed))
        except SecretMismatch:
            log.error("the stored response to an idempotency key was altered", position=position)
            return EarlierRequest(body, position, age, made, None, is_altered=True)
        return EarlierRequest(body, position, age, made, answer)

    async def store(self, scope: bytes, answer: StoredResponse, made: int | None) -> None:
        sealed = self._secrets.seal_response(scope, msgspec.msgpack.encode(answer))
        query = "UPDATE stored_events_once SET answer = %s, made = %s WHERE scope = %s"
        await execute(self._pool, query, (sealed, made, scope))

    async def delete_expired(self, scope: bytes | None = None) -> None:
        """Deletes keys with their responses after RETENTION, and responses with a secret after SECRET_RETENTION. With
        `scope`, deletes only those of the request with this scope.
        """
        for statement, age in (
            ("DELETE FROM stored_events_once WHERE", RETENTION),
            ("UPDATE stored_events_once SET answer = NULL WHERE made IS NOT NULL AND", SECRET_RETENTION),
        ):
            await execute(self._pool, f"{statement} at < now() - %s AND coalesce(scope = %s, true)", (age, scope))
