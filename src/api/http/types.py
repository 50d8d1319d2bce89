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
    """Returns the fields that a body contains, as arguments of a command. `renamed` maps a field's name in the body to
    its name in the command, if they differ.
    """
    given = structs.asdict(body).items()
    return {renamed.get(name, name): value for name, value in given if value is not UNSET}


def changes_in(body: msgspec.Struct, **renamed: str) -> dict[str, Any]:
    """Returns the fields that a body contains, as arguments of a command. `renamed` maps a field's name in the body to
    its name in the command, if they differ. The argument `cleared` lists the fields that are null, by their names in
    the body.
    """
    cleared = tuple(name for name, value in fields_of(body).items() if value is None)
    return fields_of(body, **renamed) | ({"cleared": cleared} if cleared else {})


def to_view(view: type[V], source: msgspec.Struct, **more: Any) -> V:
    """Returns an object of the type `view`. Its fields come from `more`, or else from the fields of `source` with the
    same names.
    """
    common = {name: getattr(source, name) for name in view.__struct_fields__ if hasattr(source, name)}
    return view(**common | more)
