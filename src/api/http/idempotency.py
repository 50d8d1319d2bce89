"""`Idempotency-Key`: a POST that comes again gets the first answer again, and is carried out once.

The key belongs to (caller, path); query and body have to be the same. It is noted in the transaction that appends the
request's first events, so what was carried out is known even if the answer was lost. The handler of a repeated request
runs as far as its first command: everything that it checks before, rights first of all, is checked again. What changed
nothing (refusals, reads) and 5xx are not kept.
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
MAX_KEY = 255
MAX_ANSWER = 1024 * 1024
IN_FLIGHT_S = 60
"""Whoever has not answered after this time never will."""
SHOWN_ONCE = {"shown_once": True}
"""`opt=SHOWN_ONCE` on a handler: its answer has the id of something and a secret of it."""
RECEIVED = "received_hash"
"""In the request's state: what tells a streamed body from others, but for the form it was sent in."""
OWN_HEADERS = ("content-type", "location", "testhide-position")


class Replay(Exception):
    def __init__(self, answer: StoredResponse) -> None:
        self.answer = answer


class InFlight(Conflict):
    """The first request with this key has not been answered yet."""


class IdempotentRequest:
    """A request with a key. Lies in the request's state as `repeatable`."""

    def __init__(self, scope: bytes) -> None:
        self.scope = scope
        self.carried_out = False

    async def once(self, request: Request[Any, Any, Any]) -> IdempotencyKey:
        """Before the first command. Raises Replay or a Conflict when the key was used before."""
        services: Services = request.app.state.services
        once = IdempotencyKey(self.scope, await _body_hash(request))
        await self.must_be_first(services, once)
        return once

    async def must_be_first(self, services: Services, once: IdempotencyKey) -> None:
        first = await services.idempotent_responses.find(self.scope)
        if first is None:
            return
        if first.body != once.body:
            raise Conflict(f"This {HEADER} was used for another body; take a new key for a new request.")
        if first.answer is not None:
            raise Replay(first.answer)
        _not_shown(first)


def _not_shown(first: EarlierRequest) -> None:
    if first.made is not None:
        raise Conflict(f"The first request made {first.made}; its secret is not shown again.")
    if first.age.total_seconds() < IN_FLIGHT_S:
        raise InFlight(f"The first request with this {HEADER} is still being answered; try again.")
    raise Conflict(
        f"The first request with this {HEADER} was carried out (position {first.position}), but its answer was lost:"
        " look at what it made instead of sending it again."
    )


class IdempotencyMiddleware(ASGIMiddleware):
    """Notes the key of a request, and keeps the answer to it."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        key = next((value for name, value in scope["headers"] if name == HEADER.lower().encode()), None)
        caller: User | Agent | None = scope.get("user")
        if key is None or caller is None or cast(HTTPScope, scope)["method"] != "POST":
            await next_app(scope, receive, send)
            return
        if not 0 < len(key) <= MAX_KEY or not all(32 <= byte < 127 for byte in key):
            raise Invalid.field(HEADER, f"must have 1 to {MAX_KEY} visible ASCII characters")
        repeatable = IdempotentRequest(_scope_hash(caller, scope, key))
        scope["state"]["repeatable"] = repeatable
        services: Services = scope["litestar_app"].state.services
        body = bytearray()
        start: dict[str, Any] = {}

        async def keeping(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body" and len(body) <= MAX_ANSWER:
                body.extend(message.get("body", b""))
                # Kept before its end is sent: whoever has the answer gets the same one again.
                if not message.get("more_body") and repeatable.carried_out and start["status"] < 500:
                    made = _made(scope, bytes(body)) if scope["route_handler"].opt.get("shown_once") else None
                    try:
                        await services.idempotent_responses.store(repeatable.scope, _answer(start, bytes(body)), made)
                    except psycopg.OperationalError as error:
                        # It was carried out and is told so; who asks again is told that its answer was lost.
                        log.warning("an answer was not kept", path=scope["path"], error=str(error).strip())
            await send(message)

        await next_app(scope, receive, keeping)


def replayed(request: Request[Any, Any, Any], replay: Replay) -> Response[bytes]:
    answer = replay.answer
    headers = {name: value for name, value in answer.headers.items() if name != "content-type"}
    media_type = answer.headers.get("content-type", "application/json")
    return Response(answer.body, status_code=answer.status, media_type=media_type, headers=headers | {REPLAYED: "true"})


def _made(scope: Scope, body: bytes) -> int:
    """The id of what has a secret now: just made, or named by the path."""
    shown = msgspec.json.decode(body)
    return int(shown["id"] if "id" in shown else next(iter(scope["path_params"].values())))


def _answer(start: dict[str, Any], body: bytes) -> StoredResponse:
    headers = MutableScopeHeaders({"headers": start["headers"]})
    return StoredResponse(start["status"], {name: headers[name] for name in OWN_HEADERS if name in headers}, body)


def _scope_hash(caller: User | Agent, scope: Scope, key: bytes) -> bytes:
    asked = (caller.actor, scope["path"], key)
    return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()


async def _body_hash(request: Request[Any, Any, Any]) -> bytes:
    """Of the query and the body. Of one that was streamed and is gone by now, what its reader left of it counts."""
    received: bytes | None = getattr(request.state, RECEIVED, None)
    query = hashlib.sha256(request.scope["query_string"]).digest()
    return hashlib.sha256(query + (await request.body() if received is None else received)).digest()
