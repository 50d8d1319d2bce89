"""Types and checks that all areas share: ids, names, paging, and which text can be stored at all.

PostgreSQL holds no NUL character and JSON may spell half a surrogate pair; neither may get further than here.
`JsonRequest` (the application's `request_class`) sees every body; `storable` (an application guard) sees every
path and query string.
"""

import json
import re
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_to_bytes, urlencode

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, SerializationException
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from msgspec import Meta

from domain.core.errors import Invalid, NotFound

V = TypeVar("V", bound=msgspec.Struct)

MAX_ID = 2**53
"""The largest number that every JSON reader keeps exact."""

Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S")]

MISSING_FIELD = re.compile(r"Object missing required field `(\w+)`")
PLACE = re.compile(r" - at (?:`key` in )?`\$\.?(.*)`$")
"""Where msgspec found the fault, as it says it: ``Expected `str`, got `int` - at `$.env[...]` ``."""

NUL = "contains the character U+0000, which cannot be stored"

MAX_DEPTH = 100
"""Levels of lists and objects in a body."""


class JsonRequest(Request[Any, Any, Any]):
    """Bodies are JSON: 415 for another media type, 400 for what is no JSON, 422 for what cannot be stored."""

    async def json(self) -> Any:
        must_be_json(self.headers.get("content-type"))
        body = await self.body()
        try:
            value = await super().json()
        except (SerializationException, UnicodeDecodeError, RecursionError) as error:
            raise refusal(body) from error
        # What Python itself refuses depends on its version; the same body must have the same answer.
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH and is_deeper_than(MAX_DEPTH, value):
            raise Invalid("The body is nested too deeply.")
        if b"\\u0000" in body:
            if self.route_handler.opt.get("agents"):
                value = without_nul(value)  # what programs print is not the agent's to choose
            elif (field := nul_in(value)) is not None:
                raise Invalid.field(field, NUL)
        expected = self.route_handler.parsed_data_field
        return value if expected is None else strictly(value, expected.annotation)


def is_deeper_than(levels: int, value: Any) -> bool:
    if levels < 0:
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(is_deeper_than(levels - 1, item) for item in items if isinstance(item, dict | list))


def strictly(value: Any, expected: Any) -> Any:
    """A decoded body as `expected`. JSON says types: "5" is no number here, as it is in a query string."""
    try:
        return msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        message, field = str(error), ""
        if place := PLACE.search(message):
            message, field = message[: place.start()], place[1]
        if missing := MISSING_FIELD.fullmatch(message):
            raise Invalid.field(f"{field}.{missing[1]}" if field else missing[1], "is required") from None
        raise Invalid.field(field or "body", message) from None


def must_be_json(content_type: str | None) -> None:
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type not in ("application/json", "text/json") and not media_type.endswith("+json"):
        detail = f"The body must be JSON: send it with `Content-Type: application/json`, not {media_type}."
        raise HTTPException(detail, status_code=415)


def refusal(body: bytes) -> Exception:
    """Why a body could not be decoded. The standard library takes half surrogate pairs and huge numbers."""
    try:
        json.loads(body.decode(), parse_constant=_no_constant)
    except RecursionError:
        return Invalid("The body is nested too deeply.")
    except (json.JSONDecodeError, UnicodeDecodeError):
        return SerializationException("The body is not valid JSON.")
    except ValueError:
        pass  # a number of more digits than Python reads
    return Invalid(
        "The body holds half a surrogate pair or a number out of range; send characters and numbers in full."
    )


def _no_constant(name: str) -> None:
    """NaN and Infinity, which only Python takes for JSON."""
    raise json.JSONDecodeError("no JSON", name, 0)


def nul_in(value: Any, path: str = "") -> str | None:
    """The path of the first text with a NUL in a decoded body, e.g. `env.HOST`."""
    match value:
        case str():
            return (path or "body") if "\0" in value else None
        case dict():
            for key, item in value.items():
                if "\0" in key:
                    return path or "body"
                if (found := nul_in(item, f"{path}.{key}" if path else key)) is not None:
                    return found
        case list():
            for item in value:
                if (found := nul_in(item, path)) is not None:
                    return found
    return None


def without_nul(value: Any) -> Any:
    """A decoded body with U+FFFD in the place of each NUL."""
    match value:
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            return {without_nul(key): without_nul(item) for key, item in value.items()}
        case list():
            return [without_nul(item) for item in value]
        case _:
            return value


async def storable(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """A guard: ids beyond any that are given out do not exist, and parameters are text that can be stored."""
    if any(isinstance(value, int) and not 0 < value <= MAX_ID for value in connection.path_params.values()):
        raise NotFound(f"There is nothing at {connection.url.path}.")
    if not is_text(connection.scope["path"].encode("utf-8", "surrogatepass")):
        raise NotFound("There is nothing at this path.")
    if not is_text(unquote_to_bytes(connection.scope["query_string"])):
        raise Invalid("The query string must be UTF-8 and without the character U+0000.")


def is_text(raw: bytes) -> bool:
    try:
        return "\0" not in raw.decode()
    except UnicodeDecodeError:
        return False


def to_view(view: type[V], source: msgspec.Struct, **more: Any) -> V:
    """Returns a view with the fields of `source` that it has too, and those in `more`."""
    common = {name: getattr(source, name) for name in view.__struct_fields__ if hasattr(source, name)}
    return view(**common | more)


class Paged(msgspec.Struct, frozen=True):
    """Which part of a list is wanted: a page, or what follows an item, which costs the same at any depth."""

    page: int
    limit: int
    after: int

    @property
    def offset(self) -> int:
        return 0 if self.after else (self.page - 1) * self.limit


def provide_paged(
    page: Annotated[int, Parameter(ge=1, le=1_000_000, description="Page of the list, from 1")] = 1,
    limit: Annotated[int, Parameter(ge=1, le=500, description="Items on a page")] = 200,
    after: Annotated[int, Parameter(ge=0, le=MAX_ID, description="Only items after this id, instead of a page")] = 0,
) -> Paged:
    """The dependency `paged` of lists that are bare arrays ordered by id."""
    return Paged(page, limit, after)


def next_page(request: Request[Any, Any, Any], paged: Paged, ids: list[int], *, key: str = "after") -> dict[str, str]:
    """The `Link` header to the items that follow; nothing on the last page."""
    if len(ids) < paged.limit:
        return {}
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("page", key)]
    return {"Link": f'<{request.url.path}?{urlencode([*kept, (key, ids[-1])])}>; rel="next"'}
