"""Turns errors into responses of `application/problem+json` (RFC 9457). No other module makes such responses."""

from typing import Any
from uuid import uuid4

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    InternalServerException,
    MethodNotAllowedException,
    NotFoundException,
    SerializationException,
    ValidationException,
)

from api.http.head import format_allowed
from api.http.idempotency import InFlight, ReplayedResponse, replay
from api.http.permissions import Agent, User
from api.http.response_headers import REQUEST_ID
from domain.core.errors import (
    Forbidden,
    Invalid,
    Rejection,
    StillRunning,
    StorageFull,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from store.log.append import AppendFailed

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2


class Problem(msgspec.Struct, omit_defaults=True):
    type: str
    """URN of the kind of problem."""
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


def response(status: int, slug: str, title: str, detail: str, **extra: Any) -> Response[Problem]:
    headers: dict[str, str] = extra.pop("headers", {})
    if status in (408, 413):
        # The connection cannot be used again, since the body was not read to its end.
        headers = headers | {"Connection": "close"}
    problem = Problem(f"urn:testhide:problem:{slug}", title, status, detail, **extra)
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def handle_rejection(request: Request[Any, Any, Any], error: Rejection) -> Response[Problem]:
    headers: dict[str, str] = {}
    errors: list[dict[str, str]] = []
    match error:
        case Unauthenticated():
            headers["WWW-Authenticate"] = "Bearer"
            if request.route_handler.opt.get("public"):
                log_refusal(request, "sign-in refused")
        case Forbidden():
            log_refusal(request, "not allowed")
        case TooManyRequests() | Unavailable():
            headers["Retry-After"] = str(error.retry_after_s)
        case InFlight():
            headers["Retry-After"] = str(RETRY_AFTER_S)
        case StillRunning():
            headers["Location"] = error.location
        case Invalid():
            errors = [field._asdict() for field in error.errors]
    return response(error.status, error.slug, error.title, error.detail, headers=headers, errors=errors)


def log_refusal(request: Request[Any, Any, Any], what: str) -> None:
    """Logs who was refused (id and address), and the request's method and path. Logs nothing else, since the request
    may contain secrets.
    """
    user = request.scope.get("user")
    actor = user.actor if isinstance(user, User | Agent) else "anonymous"
    address = request.client.host if request.client is not None else ""
    _log(request).info(what, actor=actor, address=address, method=request.method)


def handle_validation_error(request: Request[Any, Any, Any], error: ValidationException) -> Response[Problem]:
    """Answers that the body is missing: everything else has been checked before, so Litestar finds no other error."""
    return handle_rejection(request, Invalid.field("body", "is required"))


def handle_malformed_body(request: Request[Any, Any, Any], error: SerializationException) -> Response[Problem]:
    return response(400, "malformed", "Malformed body", error.detail)


def handle_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    match error:
        case NotFoundException():
            return response(404, "not-found", "Not found", f"There is nothing at {request.url.path}.")
        case MethodNotAllowedException():
            detail = f"{request.method} is not possible on {request.url.path}."
            headers = {"Allow": format_allowed(str((error.headers or {}).get("allow", "")).split(", "))}
            return response(405, "method-not-allowed", "Method not allowed", detail, headers=headers)
    if isinstance(error.__cause__, SerializationException):
        return handle_malformed_body(request, error.__cause__)
    if isinstance(error, InternalServerException):
        if "disconnected" not in error.detail:
            return handle_unexpected(request, error)
        return response(400, "malformed", "Malformed body", "The body is not complete, or its chunks are not valid.")
    if error.status_code == 413:
        return response(413, TooLarge.slug, TooLarge.title, "The body is larger than this operation takes.")
    if error.status_code == 415:
        return response(415, "unsupported-media-type", "Unsupported media type", error.detail)
    return response(error.status_code, "http", "Request refused", error.detail)


def handle_database_outage(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    _log(request).warning("database away", error=str(error).strip())
    detail = "The database cannot be reached right now; nothing was changed. Try again."
    return response(503, "unavailable", "Temporarily unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def handle_full_database(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    _log(request).error("the disk of the database is full", error=str(error).strip())
    return handle_rejection(request, StorageFull("database"))


def handle_lost_table(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    _log(request).error("a table is missing or broken", error=str(error).strip())
    detail = "A table that this release needs is missing or broken; GET /api/v3/readyz says which."
    return response(503, "unavailable", "Temporarily unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def handle_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answers 500 for an exception without a handler of its own. Logs the exception with its traceback under a number,
    and gives the caller that number.
    """
    number = uuid4().hex[:12]
    _log(request).error("unexpected error", error_id=number, method=request.method, exc_info=error)
    return response(500, "internal", "Internal error", f"Something went wrong on our side (error {number}).")


def _log(request: Request[Any, Any, Any]) -> Any:
    return log.bind(path=request.url.path, request_id=request.scope["state"][REQUEST_ID])


def handlers() -> dict[Any, Any]:
    import psycopg
    import psycopg_pool

    return {
        Rejection: handle_rejection,
        ReplayedResponse: replay,
        ValidationException: handle_validation_error,
        SerializationException: handle_malformed_body,
        HTTPException: handle_http_error,
        psycopg.OperationalError: handle_database_outage,
        psycopg.errors.DiskFull: handle_full_database,
        psycopg.errors.UndefinedTable: handle_lost_table,
        psycopg.errors.UndefinedColumn: handle_lost_table,
        psycopg_pool.PoolTimeout: handle_database_outage,
        AppendFailed: handle_database_outage,
        Exception: handle_unexpected,
    }
