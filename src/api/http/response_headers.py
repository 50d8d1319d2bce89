"""Headers of every response, also of errors and streams: they protect browsers, contain the request's id, and allow
CORS.
"""

import re
from collections.abc import Collection, Iterable
from secrets import token_hex
from typing import Any

from litestar.types import HTTPScope, Message, Send

RawHeaders = list[tuple[bytes, bytes]]

REQUEST_ID = "request_id"
"""Key in the state of a request whose value is the request's id. Events have this id as their correlation id."""
RATE_LIMIT = "rate_limit"
"""Key in the state of a request whose value is the list of headers that say how many further requests the caller may
send.
"""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,64}")
_DEFAULTS: RawHeaders = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
"""Headers that are added to a response unless the handler sets them itself."""
_HSTS = (b"strict-transport-security", b"max-age=31536000")

_CORS_METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
_CORS_REQUEST = (
    b"Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Prefer, Range,"
    b" Testhide-Min-Position, X-Request-ID"
)
_CORS_RESPONSE = (
    b"Content-Disposition, Content-Range, ETag, Idempotent-Replayed, Link, Location, RateLimit-Limit,"
    b" RateLimit-Policy, RateLimit-Remaining, RateLimit-Reset, Retry-After, Testhide-As-Of, Testhide-Position,"
    b" Testhide-Projected, Testhide-Total, X-Request-ID"
)
_CORS_MAX_AGE_S = b"600"


def complete_headers(scope: HTTPScope, send: Send, cors_origins: Collection[str]) -> Send:
    """Returns a `send` that adds the headers of every response. Also stores the request's id in the request's state:
    the caller's `X-Request-ID` if it is well-formed, otherwise a new id.
    """
    given, origin = _find(scope["headers"])
    state = scope.setdefault("state", {})
    request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else token_hex(16).encode()
    state[REQUEST_ID] = request_id.decode()
    added: RawHeaders = [(b"x-request-id", request_id)]
    if scope["scheme"] == "https":
        added.append(_HSTS)
    if cors_origins:
        added += _allow_origin(origin, cors_origins)

    async def send_completed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Any = message["headers"]
            names = {name.lower() for name, _ in headers}
            message["headers"] = [
                *headers,
                *(item for item in _DEFAULTS if item[0] not in names),
                *added,
                *state.get(RATE_LIMIT, ()),
            ]
        await send(message)

    return send_completed


async def answer_preflight(scope: HTTPScope, send: Send, cors_origins: Collection[str]) -> bool:
    """Answers the request and returns True if it is a CORS preflight, by which a browser asks whether a page of another
    origin may send a request. Returns False, without an answer, for any other request, or if no other origin is
    allowed.
    """
    if scope["method"] != "OPTIONS" or not cors_origins:
        return False
    if b"access-control-request-method" not in (name.lower() for name, _ in scope["headers"]):
        return False
    headers = [
        (b"access-control-allow-methods", _CORS_METHODS),
        (b"access-control-allow-headers", _CORS_REQUEST),
        (b"access-control-max-age", _CORS_MAX_AGE_S),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return True


def _find(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None]:
    """Returns the values of `X-Request-ID` and `Origin`; None for a header that is missing."""
    request_id = origin = None
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value
        elif name == b"origin":
            origin = value
    return request_id, origin


def _allow_origin(origin: bytes | None, cors_origins: Collection[str]) -> RawHeaders:
    # Caches must not give the answer for one origin to another origin.
    allowed: RawHeaders = [(b"vary", b"Origin")]
    if origin is not None and origin.decode("latin-1") in cors_origins:
        allowed += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _CORS_RESPONSE)]
    return allowed
