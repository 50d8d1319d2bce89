"""Checks the bodies of requests against their types and the checks in these types (`commands.value_checks`). Unknown
fields are errors.

An error names every wrong field and its possible values, and the wrong value unless it may be a secret. The search for
wrong fields ends at MAX_ERRORS, since it occupies the event loop.
"""

import difflib
import json
import math
import re
import types
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import chain, islice
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, inspect

from commands.value_checks import ValueCheck
from domain.core.errors import FieldError, Invalid

MAX_ERRORS = 50
"""Largest number of wrong fields that an error names."""
MAX_SHOWN = 60
"""Largest number of characters of a wrong value, or of a name, that an error repeats."""
SECRET = re.compile(r"secret|token|password|(^|[._])url\b", re.IGNORECASE)
"""Matches paths of fields whose values are secrets, or URLs that may contain a token. Errors do not repeat these
values, since clients write errors into their logs.
"""
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
Time = Annotated[datetime, Meta(tz=True)]
"""Type of a time in a request, with its offset. `complete_dates` also allows a date."""
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def convert_body(value: Any, expected: Any, path: str = "", *, ignore_unknown: bool = False) -> Any:
    """Converts a decoded body, or the part of it at `path`, to the type `expected`. Raises Invalid with an error for
    each wrong and each unknown field. With `ignore_unknown`, unknown fields are allowed.
    """
    unknown = iter(()) if ignore_unknown else find_unknown(value, expected, path)
    value = complete_dates(value, expected)
    refused = find_refused(value, expected, path)
    try:
        converted = msgspec.convert(value, expected)
    except msgspec.ValidationError:
        wrong = list(islice(chain(find_wrong(value, expected, path), refused, unknown), MAX_ERRORS))
        raise Invalid.fields(wrong or [FieldError(path or "body", "does not have the documented form")]) from None
    if errors := list(islice(chain(find_far_times(converted), refused, unknown), MAX_ERRORS)):
        raise Invalid.fields(errors)
    return converted


def complete_dates(value: Any, expected: Any) -> Any:
    """Returns a copy of a decoded value in which a date becomes midnight UTC (`2026-05-20T00:00:00Z`) wherever the type
    expects a time.
    """
    match value:
        case str() if datetime in alternatives(expected) and DATE.fullmatch(value):
            return f"{value}T00:00:00Z"
        case dict() if (struct := struct_of(expected)) is not None:
            members = struct_members(struct)
            return {name: complete_dates(item, members.get(name)) for name, item in value.items()}
        case _:
            return value


def find_far_times(body: Any) -> Iterator[FieldError]:
    """Yields an error for each field of a request body that is a time before EARLIEST or after LATEST. Such times
    cannot be stored, or cannot be calculated with.
    """
    for name, value in msgspec.structs.asdict(body).items() if isinstance(body, msgspec.Struct) else ():
        if isinstance(value, datetime) and not EARLIEST <= value < LATEST:
            yield FieldError(name, f"must be a time of the years {EARLIEST.year} to {LATEST.year - 1}")


def drop_read_only(value: Any, expected: Any, answered: Any) -> Any:
    """Returns the body of a PUT without the fields that only GET's answer has, so that a client may send that answer
    back. Returns the body unchanged unless it contains all fields of GET's answer.
    """
    body, view = struct_of(expected), struct_of(answered)
    if body is None or view is None or not isinstance(value, dict) or not value.keys() >= struct_members(view).keys():
        return value
    return {
        name: item for name, item in value.items() if name in struct_members(body) or name not in struct_members(view)
    }


def find_unknown(value: Any, expected: Any, path: str = "") -> Iterator[FieldError]:
    """Yields an error for each field, at any depth, that the body has but the type `expected` does not."""
    for member, item, where in children(value, expected, path):
        if member is None:
            yield FieldError(where, f"is not known here{suggestion(where, item)}")
        else:
            yield from find_unknown(item, member, where)


def find_wrong(value: Any, expected: Any, path: str = "") -> Iterator[FieldError]:
    """Yields an error for each field of a decoded body that is missing or does not fit its type."""
    if (refusal := refuse(value, expected)) is None:
        return
    struct = struct_of(expected)
    is_explained = False
    for fault in find_wrong_parts(value, expected, path):
        is_explained = True
        yield fault
    # An unknown field makes the object around it wrong, which needs no error of its own.
    if not is_explained and next(find_unknown(value, expected), None) is None:
        is_whole = struct is not None and isinstance(value, dict)
        value_shown = "" if SECRET.search(path) or holds_secret(expected) else f", not {shown(value)}"
        yield FieldError(path or "body", refusal if is_whole else f"must be {describe(expected)}{value_shown}")


def find_refused(value: Any, expected: Any, path: str) -> Iterator[FieldError]:
    """Yields the errors of the checks (ValueCheck) of all parts of a decoded value that have the right type."""
    if value is None or not has_checks(expected):
        return
    for check in checks_of(expected) if refuse(value, expected) is None else ():
        try:
            check(path, msgspec.convert(value, expected))
        except Invalid as refused:
            yield from refused.errors
    for member, item, where in children(value, expected, path):
        if member is not None:
            yield from find_refused(item, member, where)


def find_wrong_parts(value: Any, expected: Any, path: str) -> Iterator[FieldError]:
    for member, item, where in children(value, expected, path):
        if member is not None:
            yield from find_wrong(item, member, where)
    struct = struct_of(expected)
    if struct is not None and isinstance(value, dict):
        for field in msgspec.structs.fields(struct):
            if field.required and field.encode_name not in value:
                yield FieldError(join(path, field.encode_name), "is required")


def most_parts(expected: Any) -> float:
    """Returns the largest number of items of a list, or of names of an object, that a type allows. Infinity if there is
    no limit.
    """
    arguments = get_args(expected)
    if get_origin(expected) is Annotated:
        sizes = [item.max_length for item in arguments[1:] if isinstance(item, Meta) and item.max_length is not None]
        return min(sizes, default=most_parts(arguments[0]))
    if get_origin(expected) in (Union, types.UnionType):
        return max(most_parts(item) for item in arguments if item is not types.NoneType)
    return math.inf


def children(value: Any, expected: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """Yields (type, value, path) for each part of a decoded value, one level down.

    For a field that the struct does not have, yields None as the type, and the names of the struct's fields as the
    value. Yields nothing if the value has more parts than its type allows, since it is then wrong as a whole.
    """
    if isinstance(value, dict | list) and len(value) > most_parts(expected):
        return
    match value:
        case dict() if (struct := struct_of(expected)) is not None:
            members = struct_members(struct)
            for name, item in value.items():
                where = join(path, name)
                yield (members[name], item, where) if name in members else (None, tuple(members), where)
        case dict() if (arguments := arguments_of(expected, dict)) is not None:
            for key, item in value.items():
                yield arguments[0], key, join(path, key)
                yield arguments[1], item, join(path, key)
        case list() if (arguments := arguments_of(expected, list)) is not None:
            yield from ((arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
        case _:
            return


def checks_of(expected: Any) -> Iterator[Callable[[str, Any], None]]:
    """Yields the checks of a type, or of the members of a union, but not the checks of its fields and items."""
    arguments = get_args(expected)
    if get_origin(expected) is Annotated:
        yield from (item.check for item in arguments[1:] if isinstance(item, ValueCheck))
        yield from checks_of(arguments[0])
    elif get_origin(expected) in (Union, types.UnionType):
        for member in arguments:
            yield from checks_of(member)


@cache
def has_checks(expected: Any) -> bool:
    """Returns whether a type, or one of its parts at any depth, has a check."""
    if any(True for _ in checks_of(expected)):
        return True
    if (struct := struct_of(expected)) is not None:
        return any(has_checks(member) for member in struct_members(struct).values())
    return any(has_checks(part) for option in alternatives(expected) for part in get_args(option))


@cache
def struct_members(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(struct, include_extras=True)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(struct)}


@cache
def alternatives(expected: Any) -> tuple[Any, ...]:
    """Returns the types that an annotation allows: the members of a union, or the type itself, without `Annotated`."""
    origin = get_origin(expected)
    if origin is Annotated:
        return alternatives(get_args(expected)[0])
    if origin is Union or origin is types.UnionType:
        return tuple(chain.from_iterable(map(alternatives, get_args(expected))))
    return (expected,)


@cache
def struct_of(expected: Any) -> type[msgspec.Struct] | None:
    plain = (item for item in alternatives(expected) if isinstance(item, type))
    return next((item for item in plain if issubclass(item, msgspec.Struct)), None)


def holds_secret(expected: Any) -> bool:
    """Returns whether a type has a field whose value is a secret, at any depth."""
    if (struct := struct_of(expected)) is not None:
        return any(SECRET.search(name) or holds_secret(item) for name, item in struct_members(struct).items())
    return any(holds_secret(item) for option in alternatives(expected) for item in get_args(option))


def arguments_of(expected: Any, container: type) -> tuple[Any, ...] | None:
    return next((get_args(item) for item in alternatives(expected) if get_origin(item) is container), None)


def refuse(value: Any, expected: Any) -> str | None:
    """Returns msgspec's reason why a value does not fit a type; None if it fits."""
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        return str(error).partition(" - at ")[0]
    return None


def join(path: str, name: str) -> str:
    name = shorten(name)
    return f"{path}.{name}" if path else name


def shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"


def shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False, default=str))


def suggestion(name: str, known: Collection[str]) -> str:
    """Returns the end of an error message about the unknown `name`: it suggests the most similar known name or, if none
    is similar, lists all known names.
    """
    near = difflib.get_close_matches(shorten(name).rpartition(".")[2], sorted(known), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; possible are {', '.join(sorted(known))}" if known else ""


def describe(expected: Any) -> str:
    """Returns a description of the values that a type allows, such as `a whole number from 1 to 10`."""
    return describe_type(inspect.type_info(expected))


def describe_type(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            description = (kind.extra_json_schema or {}).get("description")
            is_noun = str(description).startswith(("a ", "an ", "the "))
            return str(description) if is_noun else describe_type(kind.type)
        case inspect.UnionType():
            return " or ".join(describe_type(item) for item in kind.types)
        case inspect.IntType() | inspect.FloatType():
            return f"a {'whole ' * isinstance(kind, inspect.IntType)}number{describe_range(kind.ge, kind.le)}"
        case inspect.StrType():
            form = " that is not blank" if kind.pattern == r"\S" else " of another form" if kind.pattern else ""
            return f"a text{describe_size(kind.min_length, kind.max_length, 'characters')}{form}"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case inspect.DateTimeType():
            return "a time with its offset, like 2026-05-20T14:00:00Z, or a date"
        case inspect.ListType():
            return f"a list{describe_size(kind.min_length, kind.max_length, 'items')}"
        case inspect.DictType():
            return f"an object{describe_size(kind.min_length, kind.max_length, 'names')}"
        case _:
            return "an object"


def describe_range(low: float | None, high: float | None) -> str:
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f" of at least {low}"
        case None, _:
            return f" of at most {high}"
        case _:
            return f" from {low} to {high}"


def describe_size(low: int | None, high: int | None, unit: str) -> str:
    if high is None:
        return f" of at least {low} {unit}" if low else ""
    return f" of {low} to {high} {unit}" if low else f" of at most {high} {unit}"
