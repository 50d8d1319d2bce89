"""Types of fields that all areas use, and functions that copy fields between structs."""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, structs

V = TypeVar("V", bound=msgspec.Struct)

MAX_ID = 2**53
"""Largest id: up to this number, every JSON reader reads whole numbers exactly."""

Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S")]
Email = Annotated[
    str, Meta(min_length=3, max_length=254, pattern=r"^[^\s<>@]+@[^\s<>@]+\Z", description="an email address")
]


def fields_of(body: msgspec.Struct, **renamed: str) -> dict[str, Any]:
    """Returns the fields that a body contains, as arguments of a command. If a field has another name in the command,
    `renamed` maps the name in the body to it.
    """
    given = structs.asdict(body).items()
    return {renamed.get(name, name): value for name, value in given if value is not UNSET}


def changes_in(body: msgspec.Struct, **renamed: str) -> dict[str, Any]:
    """Returns the fields that a body contains, as arguments of a command (see `fields_of`). Adds the argument
    `cleared`: the names of the fields that are null in the body.
    """
    cleared = tuple(name for name, value in fields_of(body).items() if value is None)
    return fields_of(body, **renamed) | ({"cleared": cleared} if cleared else {})


def to_view(view: type[V], source: msgspec.Struct, **more: Any) -> V:
    """Returns a `view` object. Each of its fields comes from `more`, or from the field of `source` with the same
    name.
    """
    common = {name: getattr(source, name) for name in view.__struct_fields__ if hasattr(source, name)}
    return view(**common | more)
