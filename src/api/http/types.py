"""Types of fields that all areas share, and views made from the fields of other structs."""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, structs

V = TypeVar("V", bound=msgspec.Struct)

MAX_ID = 2**53
"""The largest integer up to which every JSON reader keeps numbers exact."""

Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S")]
Email = Annotated[
    str, Meta(min_length=3, max_length=254, pattern=r"^[^\s<>@]+@[^\s<>@]+\Z", description="an email address")
]


def fields_of(body: msgspec.Struct, **renamed: str) -> dict[str, Any]:
    """Returns the fields that a body gives, for a command. `renamed` has other names that the command has for them."""
    given = structs.asdict(body).items()
    return {renamed.get(name, name): value for name, value in given if value is not UNSET}


def changes_in(body: msgspec.Struct, **renamed: str) -> dict[str, Any]:
    """Returns the fields as `fields_of` does, and in `cleared` the names of those that are null."""
    cleared = tuple(name for name, value in fields_of(body).items() if value is None)
    return fields_of(body, **renamed) | ({"cleared": cleared} if cleared else {})


def to_view(view: type[V], source: msgspec.Struct, **more: Any) -> V:
    """Returns a view made of the fields that it shares with `source`, and of `more`."""
    common = {name: getattr(source, name) for name in view.__struct_fields__ if hasattr(source, name)}
    return view(**common | more)
