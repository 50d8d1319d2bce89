"""Carries out a POST with an `Idempotency-Key` only once, and answers repetitions with the first response.

A key is valid for one caller and one path. A repetition must have the query and the body of the first request.

The transaction that appends the request's first events also registers the key, so the server knows that a request was
carried out even if its response was lost. A repetition runs up to its first command. So the handler checks access
again, and everything else that it checks before its first command.

Responses with a 5xx status are not stored, nor are responses to requests that changed nothing (refusals, reads).
"""

import hashlib
from typing import Any, cast

import msgspec
import psycopg
import structlog
from litestar import Request, Response
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.http.permissions import Agent, User
from api.http.services import Services
from domain.core.errors import Conflict, Invalid
from store.log.append import IdempotencyKey
from store.tables.idempotent_responses import EarlierRequest, StoredResponse

log = structlog.get_logger()

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
MAX_KEY_LENGTH = 255
LOST_AFTER_S = 60
"""Seconds after which a request without a response counts as lost, since the process that handled it must have died.
`store/tables/idempotent_responses.py` says for how long responses are stored.
"""
SHOWN_ONCE = {"shown_once": True}
"""Value of `opt` for handlers whose response contains a secret that is never shown again. The response is stored for 5
minutes only. After that a repetition is refused, with the id of the object that the secret belongs to.
"""
BODY_HASH = "body_hash"
"""Name under which the request's state contains the hash of a streamed body, which cannot be read again."""
STORED_HEADERS = ("content-type", "location", "testhide-position")


class ReplayedResponse(Exception):
    """Raised to answer a repeated request with the stored response to the first request."""

    def __init__(self, stored: StoredResponse) -> None:
        self.stored = stored


class InFlight(Conflict):
    """The first request with the same key is still being answered."""


class IdempotentRequest:
    """A request with an `Idempotency-Key`. The state of the HTTP request contains this object under the name
    `idempotent`.
    """

    def __init__(self, scope: bytes) -> None:
        self.scope = scope
        self.is_carried_out = False

    async def register(self, request: Request[Any, Any, Any]) -> IdempotencyKey:
        """Returns the idempotency key, which the caller appends together with the events of the request's first
        command. Raises ReplayedResponse or Conflict if an earlier request has used the key.
        """
        services: Services = request.app.state.services
        key = IdempotencyKey(self.scope, await _hash_body(request))
        await self.refuse_repeated(services, key)
        return key

    async def refuse_repeated(self, services: Services, key: IdempotencyKey) -> None:
        """Raises ReplayedResponse if an earlier request with this key and the same body has a stored response. Raises
        Conflict if the earlier request had another body or query, or if it has no stored response.
        """
        first = await services.idempotent_responses.find(self.scope)
        if first is None:
            return
        if first.body != key.body:
            raise Conflict(f"This {HEADER} was used for another body or query; take a new key for a new request.")
        if first.answer is not None:
            raise ReplayedResponse(first.answer)
        raise _conflict(first)


def _conflict(first: EarlierRequest) -> Conflict:
    if first.is_altered:
        return Conflict(
            f"The first request with this {HEADER} was carried out (position {first.position}), but its stored answer"
            " is not the one that was given: somebody altered it. Look at what the request made."
        )
    if first.made is not None:
        return Conflict(f"The first request made {first.made}; its secret is not shown again.")
    if first.age.total_seconds() < LOST_AFTER_S:
        return InFlight(f"The first request with this {HEADER} is still being answered; try again.")
    return Conflict(
        f"The first request with this {HEADER} was carried out (position {first.position}), but its answer was lost:"
        " look at what it made instead of sending it again."
    )


class IdempotencyMiddleware(ASGIMiddleware):
    """Middleware that stores the response to a POST with an `Idempotency-Key`."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        key = next((value for name, value in scope["headers"] if name == HEADER.lower().encode()), None)
        caller: User | Agent | None = scope.get("user")
        if key is None or caller is None or cast(HTTPScope, scope)["method"] != "POST":
            await next_app(scope, receive, send)
            return
        if not 0 < len(key) <= MAX_KEY_LENGTH or not all(32 <= byte < 127 for byte in key):
            raise Invalid.field(HEADER, f"must have 1 to {MAX_KEY_LENGTH} visible ASCII characters")
        idempotent = IdempotentRequest(_hash_scope(caller, scope, key))
        scope["state"]["idempotent"] = idempotent
        services: Services = scope["litestar_app"].state.services
        body = bytearray()
        start: dict[str, Any] = {}

        async def store_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                # Store the response before its last part is sent, so that a client which has got it gets the same
                # one again.
                if not message.get("more_body") and idempotent.is_carried_out and start["status"] < 500:
                    shows = _secret_owner(scope, bytes(body)) if scope["route_handler"].opt.get("shown_once") else None
                    try:
                        await services.idempotent_responses.store(idempotent.scope, _stored(start, bytes(body)), shows)
                    except psycopg.OperationalError as error:
                        # The client gets the response all the same. A repetition is told that the response was lost.
                        log.warning("a response was not stored", path=scope["path"], error=str(error).strip())
            await send(message)

        await next_app(scope, receive, store_and_send)


def replay(request: Request[Any, Any, Any], replayed: ReplayedResponse) -> Response[bytes]:
    """Handles ReplayedResponse: returns the stored response with the header `Idempotent-Replayed: true`."""
    stored = replayed.stored
    headers = {name: value for name, value in stored.headers.items() if name != "content-type"}
    media_type = stored.headers.get("content-type", "application/json")
    return Response(stored.body, status_code=stored.status, media_type=media_type, headers=headers | {REPLAYED: "true"})


def _secret_owner(scope: Scope, body: bytes) -> int:
    """Returns the id of the object whose secret the response shows: the `id` in the response or, if there is none, the
    id in the path.
    """
    shown = msgspec.json.decode(body)
    return int(shown["id"] if "id" in shown else next(iter(scope["path_params"].values())))


def _stored(start: dict[str, Any], body: bytes) -> StoredResponse:
    headers = MutableScopeHeaders({"headers": start["headers"]})
    return StoredResponse(start["status"], {name: headers[name] for name in STORED_HEADERS if name in headers}, body)


def _hash_scope(caller: User | Agent, scope: Scope, key: bytes) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((caller.actor, scope["path"], key))).digest()


async def _hash_body(request: Request[Any, Any, Any]) -> bytes:
    """Returns a hash of the query and the body. For a streamed body, uses the hash that the request's state
    contains.
    """
    streamed: bytes | None = getattr(request.state, BODY_HASH, None)
    query = hashlib.sha256(request.scope["query_string"]).digest()
    return hashlib.sha256(query + (await request.body() if streamed is None else streamed)).digest()
