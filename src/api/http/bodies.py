"""Reads request bodies, and refuses texts that PostgreSQL cannot store: NUL characters and half surrogate pairs, which
JSON allows.

`JsonRequest`, the application's `request_class`, checks every body. `refuse_unstorable` checks every path and query
string.
"""

import json
import math
from collections import Counter
from itertools import islice
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException, SerializationException

from api.http.types import MAX_ID
from commands.validation import MAX_ERRORS, convert_body, drop_read_only, shorten
from domain.core.errors import FieldError, Invalid, NotFound

NUL = "contains the character U+0000, which cannot be stored"

MAX_DEPTH = 100
"""Largest depth of nested lists and objects in a body."""
MAX_EXACT = 2**53
"""Largest number up to which a float represents every whole number exactly."""


def read_number(text: str) -> float:
    """Returns the value of a JSON number that is written with a fraction or an exponent. 5.0 becomes the integer 5,
    since some clients write every number with a fraction. JSON Schema, which describes the bodies, treats 5.0 and 5
    alike, too. Raises ValueError if the number is too large for a float.
    """
    number = float(text)
    if math.isinf(number):
        raise ValueError("Number out of range")
    return int(number) if number.is_integer() and abs(number) <= MAX_EXACT else number


DECODER = msgspec.json.Decoder(float_hook=read_number)


class JsonRequest(Request[Any, Any, Any]):
    """Request with a JSON body. Answers 415 for another media type, 400 for wrong syntax, and 422 for text that cannot
    be stored.
    """

    async def json(self) -> Any:
        check_media_type(self.headers.get("content-type"))
        body = await self.body()
        try:
            value = DECODER.decode(body or b"null")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise explain_undecodable(body) from error
        # Python's own limit for nesting depends on its version, but the same body must always get the same answer.
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH and is_deeper_than(MAX_DEPTH, value):
            raise Invalid("The body is nested too deeply.")
        is_for_agents = bool(self.route_handler.opt.get("agents"))
        if not is_for_agents:
            DOUBLED_NAMES.decode(body.decode() or "null")
        if b"\\u0000" in body:
            if is_for_agents:
                value = replace_nul(value)  # agents cannot choose what programs print
            elif (field := find_nul(value)) is not None:
                raise Invalid.field(field, NUL)
        expected = self.route_handler.parsed_data_field
        if expected is None:
            return value
        if self.method == "PUT":
            answered = self.route_handler.parsed_fn_signature.return_type.annotation
            representation = self.route_handler.opt.get("representation", answered)
            value = drop_read_only(value, expected.annotation, representation)
        # Agents of a newer release may send fields that this server does not know.
        return convert_body(value, expected.annotation, ignore_unknown=is_for_agents)


async def refuse_unexpected_body(request: Request[Any, Any, Any]) -> None:
    """Raises Invalid if a request has a body but its operation takes none. Accepts such bodies from agents, since an
    agent of a newer release may send more.
    """
    handler = request.route_handler
    if handler.parsed_data_field is not None or handler.opt.get("agents") or "content" in handler.opt:
        return
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return
    if (await request.body()).strip() not in (b"", b"{}", b"null"):
        raise Invalid.field("body", "is not taken by this operation; leave it out")


def refuse_doubled(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the members of a JSON object as a dict. Raises Invalid if a name occurs twice."""
    named = dict(members)
    if len(named) < len(members):
        counts = Counter(name for name, _ in members)
        doubled = (name for name, count in counts.items() if count > 1)
        raise Invalid.fields([FieldError(shorten(name), "is given twice") for name in islice(doubled, MAX_ERRORS)])
    return named


DOUBLED_NAMES = json.JSONDecoder(object_pairs_hook=refuse_doubled, parse_int=str, parse_float=str)
"""Decoder that raises Invalid for an object with a name that occurs twice. Its results are not used."""


def is_deeper_than(levels: int, value: Any) -> bool:
    if levels < 0:
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(is_deeper_than(levels - 1, item) for item in items if isinstance(item, dict | list))


def refuse_compressed_body(request: Request[Any, Any, Any]) -> None:
    """Raises HTTPException (415) if the body has a content coding, such as gzip."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise HTTPException(f"Send the body as it is, without `Content-Encoding: {coding}`.", status_code=415)


def check_media_type(content_type: str | None) -> None:
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type not in ("application/json", "text/json") and not media_type.endswith("+json"):
        detail = f"The body must be JSON: send it with `Content-Type: application/json`, not {media_type}."
        raise HTTPException(detail, status_code=415)


def explain_undecodable(body: bytes) -> Exception:
    """Returns the error for a body that cannot be decoded: the body is not valid JSON, or it contains half a surrogate
    pair or a huge number.
    """
    try:
        json.loads(body.decode(), parse_constant=_no_constant)
    except RecursionError:
        return Invalid("The body is nested too deeply.")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        return SerializationException(f"The body is not valid JSON: {error.msg}, in {where}.")
    except UnicodeDecodeError:
        return SerializationException("The body is not valid JSON: it is not encoded in UTF-8.")
    except SerializationException as error:
        return error
    except ValueError:
        pass  # a number with more digits than Python converts
    return Invalid(
        "The body holds half a surrogate pair or a number out of range; send characters and numbers in full."
    )


def _no_constant(name: str) -> None:
    """Raises SerializationException for `NaN` and `Infinity`, which Python's parser accepts although they are not
    JSON.
    """
    raise SerializationException(f"The body is not valid JSON, which has no {name}.")


def find_nul(value: Any, path: str = "") -> str | None:
    """Returns the path, such as `env.HOST`, of the first text in a decoded body that contains a NUL. Returns None if no
    text contains one.
    """
    match value:
        case str():
            return (path or "body") if "\0" in value else None
        case dict():
            for key, item in value.items():
                if "\0" in key:
                    return path or "body"
                if (found := find_nul(item, f"{path}.{key}" if path else key)) is not None:
                    return found
        case list():
            for item in value:
                if (found := find_nul(item, path)) is not None:
                    return found
    return None


def replace_nul(value: Any) -> Any:
    """Returns a copy of a decoded body with U+FFFD in place of each NUL."""
    match value:
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            return {replace_nul(key): replace_nul(item) for key, item in value.items()}
        case list():
            return [replace_nul(item) for item in value]
        case _:
            return value


def refuse_unstorable(request: Request[Any, Any, Any]) -> None:
    """Raises NotFound for an id in the path that cannot exist, and for a path that cannot be stored. Raises Invalid for
    a query string that cannot be stored.
    """
    segments = request.scope["path"].split("/")
    for value in request.path_params.values():
        # Only one path leads to an id: Litestar also reads `+7`, `007` and digits of other scripts as 7.
        if isinstance(value, int) and not (0 < value <= MAX_ID and str(value) in segments):
            raise NotFound(f"There is nothing at {request.url.path}.")
    if not is_text(request.scope["path"].encode("utf-8", "surrogatepass")):
        raise NotFound("There is nothing at this path.")
    if not is_text(unquote_to_bytes(request.scope["query_string"])):
        raise Invalid("The query string must be UTF-8 and without the character U+0000.")


def is_text(raw: bytes) -> bool:
    try:
        return "\0" not in raw.decode()
    except UnicodeDecodeError:
        return False
