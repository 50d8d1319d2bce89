"""Instances of any event, made up by hypothesis from the types of its fields."""

import types
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from domain.core.columns import Column, Int32s
from domain.core.events import Event

STAMP = set(Event.__struct_fields__)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def events(cls: type[Event]) -> SearchStrategy[Any]:
    """Unstamped, as a decision returns them."""
    return structs(cls, leaving=STAMP)


def structs(cls: type[msgspec.Struct], leaving: set[str] | None = None) -> SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(
        cls, **{name: values(hints[name]) for name in cls.__struct_fields__ if name not in (leaving or ())}
    )


def values(hint: Any) -> SearchStrategy[Any]:
    """Anything of this type that can be stored: integers of 64 bits, text without surrogates."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = next(meta for meta in inner[1:] if isinstance(meta, msgspec.Meta))
        if limits.ge is not None:
            return st.integers(int(limits.ge), int(limits.le or 2**63 - 1))
        shortest = limits.min_length or 0
        return values(inner[0]).filter(lambda value: len(value) >= shortest)
    if origin in (Union, types.UnionType):
        return st.one_of([values(one) for one in inner])
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is dict:
        return st.dictionaries(values(inner[0]), values(inner[1]), max_size=3)
    if origin is list:
        return st.lists(values(inner[0]), max_size=3)
    if origin is tuple and inner[-1] is ...:
        return st.lists(values(inner[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(one) for one in inner))
    if isinstance(hint, type) and issubclass(hint, Column):
        bits = 31 if issubclass(hint, Int32s) else 15
        return st.lists(st.integers(-(2**bits), 2**bits - 1), max_size=3).map(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs(hint)
    simple: dict[Any, SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**63 - 1),
        str: TEXT,
        bytes: st.binary(max_size=20),
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
        Any: JSON,
        datetime: st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)),
    }
    return simple[hint]
