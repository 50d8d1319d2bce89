"""Checks query strings against the parameters of handlers. Refuses every parameter that a handler does not have. An
error names all wrong parameters, their values and the possible values.
"""

import re
import types
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, Union, get_args, get_origin
from urllib.parse import parse_qsl, urlencode

import msgspec
from litestar import Request
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler
from litestar.params import ParameterKwarg
from msgspec import inspect

from commands.validation import (
    MAX_ERRORS,
    Time,
    alternatives,
    arguments_of,
    complete_dates,
    describe,
    shorten,
    shown,
    suggestion,
)
from domain.core.errors import FieldError, Invalid

RESERVED = frozenset({"request", "data", "body", "headers", "cookies", "query", "scope", "state", "socket", "self"})
"""Names of handlers' parameters that Litestar provides itself."""
AS_OF = "as_of"
NO_PAST = (
    "is not possible here; it is when builds are listed, or a build, its report or tests, a job, its configuration or"
    " quarantine, a node, or a user's permissions are read"
)
MAX_PARAMETERS = 100
"""Largest number of parameters in a query string."""
INTEGER = re.compile(r"-?[0-9]+")
"""Pattern of a whole number. Python and msgspec accept more: digits of other scripts, `1_000`, `1e3`."""


class QueryParameter(NamedTuple):
    expected: Any
    """Type of the parameter or, for a list, of its items. Null is left out, since a URL cannot contain it."""
    is_required: bool = False
    max_given: int | None = 1
    """Largest number of times that a URL may contain the parameter; None for a list without a limit."""


def check_query(request: Request[Any, Any, Any]) -> None:
    """Raises Invalid for parameters that are unknown, missing or wrong. Replaces dates in the query string by times.

    Call this before anything reads `request.query_params`, which remembers the query string as it was at the first
    reading.
    """
    query = request.scope["query_string"].decode()
    if query.count("&") >= MAX_PARAMETERS:
        raise Invalid(f"The query string has more than {MAX_PARAMETERS} parameters.")
    given = parse_qsl(query, keep_blank_values=True)
    known = query_parameters(request.route_handler, frozenset(request.path_params))
    if errors := find_errors(given, known):
        raise Invalid.fields(errors)
    completed = [(name, complete_dates(value, known[name].expected)) for name, value in given]
    if completed != given:
        request.scope["query_string"] = urlencode(completed).encode()


def find_errors(given: Sequence[tuple[str, str]], known: Mapping[str, QueryParameter]) -> list[FieldError]:
    values: dict[str, list[str]] = {}
    for name, value in given:
        values.setdefault(name, []).append(value)
    missing = (name for name, parameter in known.items() if parameter.is_required and name not in values)
    refusals = ((name, refuse(name, texts, known)) for name, texts in values.items())
    found = [
        *(FieldError(name, "is required") for name in missing),
        *(FieldError(shorten(name), message) for name, message in refusals if message is not None),
    ]
    return found[:MAX_ERRORS]


def refuse(name: str, texts: Sequence[str], known: Mapping[str, QueryParameter]) -> str | None:
    """Returns the reason why a parameter may not have the values `texts`, or None if it may."""
    if name not in known:
        return NO_PAST if name == AS_OF else f"is not known here{suggestion(name, known)}"
    parameter = known[name]
    if parameter.max_given is not None and len(texts) > parameter.max_given:
        most = "once" if parameter.max_given == 1 else f"at most {parameter.max_given} times"
        return f"is given {len(texts)} times; give it {most}"
    wrong = next((text for text in texts if not fits(text, parameter.expected)), None)
    if wrong is None:
        return None
    hint = "; write `+` as `%2B`" if " " in wrong and datetime in alternatives(parameter.expected) else ""
    return f"must be {describe(parameter.expected)}, not {shown(wrong)}{hint}"


def fits(text: str, expected: Any) -> bool:
    kinds = set(alternatives(expected))
    if int in kinds and not INTEGER.fullmatch(text):
        return False
    try:
        if datetime in kinds:
            msgspec.convert(complete_dates(text, expected), Time)
        else:
            msgspec.convert(text, expected, strict=False)
    except msgspec.ValidationError:
        return False
    return True


@cache
def query_parameters(handler: BaseRouteHandler, path_names: frozenset[str]) -> dict[str, QueryParameter]:
    """Returns name -> query parameter, for a handler and its dependencies. Leaves out `path_names`, the parameters in
    the path.
    """
    dependencies = handler.resolve_dependencies()
    injected = [dependencies[name] for name in handler.parsed_fn_signature.parameters if name in dependencies]
    parameters: dict[str, QueryParameter] = {}
    parts: list[BaseRouteHandler | Provide] = [handler, *injected]
    for part in parts:
        for field in msgspec.structs.fields(part.signature_model):
            described = part.parsed_fn_signature.parameters[field.name].kwarg_definition
            if field.name in RESERVED or field.name in dependencies or field.name in path_names:
                continue
            if isinstance(described, ParameterKwarg) and (described.header or described.cookie):
                continue
            name = (described.query if isinstance(described, ParameterKwarg) else None) or field.name
            parameters[name] = to_parameter(field.type, field.required)
    return parameters


def find_bounds(expected: Any) -> dict[str, float]:
    """Returns the smallest and the largest number that the type of a parameter allows, under their names in JSON
    Schema: `minimum` and `maximum`. A bound that the type lacks is left out.
    """
    kind = inspect.type_info(expected)
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if not isinstance(kind, inspect.IntType | inspect.FloatType):
        return {}
    return {name: bound for name, bound in (("minimum", kind.ge), ("maximum", kind.le)) if bound is not None}


def to_parameter(expected: Any, is_required: bool) -> QueryParameter:
    if get_origin(expected) in (Union, types.UnionType):
        expected = Union[tuple(item for item in get_args(expected) if item is not types.NoneType)]  # noqa: UP007
    items = arguments_of(expected, list)
    if items is None:
        return QueryParameter(expected, is_required)
    kind = inspect.type_info(expected)
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    assert isinstance(kind, inspect.ListType)
    return QueryParameter(items[0], is_required, kind.max_length)
