"""Hypothesis strategies: any command, and any history of events."""

import dataclasses
import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from domain.core.columns import Column
from domain.core.events import UNSTAMPED, Event

METADATA = {"at", "actor", "correlation_id", "causation"}


def histories(*events: type[Event]) -> SearchStrategy[list[Event]]:
    """Generates any events of these types in any order. They belong to few streams, so several events share a
    stream.
    """
    return st.lists(st.one_of([structs(event) for event in events]), max_size=12)


@cache
def structs(cls: type[msgspec.Struct], **fixed: SearchStrategy[Any]) -> SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    drawn = {name: values(hints[name]) for name in cls.__struct_fields__ if name not in METADATA}
    return st.builds(cls, **drawn | fixed)


def commands(cls: type[Any], **fixed: SearchStrategy[Any]) -> SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)} | fixed)


@cache
def values(hint: Any) -> SearchStrategy[Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        shortest = max((meta.min_length or 0 for meta in inner[1:] if isinstance(meta, msgspec.Meta)), default=0)
        return values(inner[0]).filter(lambda value: len(value) >= shortest) if shortest else values(inner[0])
    if origin in (Union, types.UnionType):
        return st.one_of([values(one) for one in inner])
    if origin is Literal:
        return st.sampled_from(inner)
    if (origin is not None and issubclass(origin, dict)) or getattr(origin, "__name__", "") == "Mapping":
        return st.dictionaries(values(inner[0]), values(inner[1]), max_size=2)
    if origin is tuple:
        return st.lists(values(inner[0]), max_size=2).map(tuple)
    if origin is not None:
        return st.lists(values(inner[0]), max_size=2)
    if hint is Any:
        return st.one_of(st.none(), st.integers(1, 3), st.sampled_from(["a", "b"]))
    if hint is int:
        return st.integers(1, 3)
    if hint is str:
        return st.sampled_from(["a", "b"])
    if hint is bytes:
        return st.sampled_from([b"a", b"b"])
    if isinstance(hint, type) and issubclass(hint, Column):
        return st.lists(st.integers(1, 3), max_size=2).map(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs(hint)
    if isinstance(hint, type) and issubclass(hint, tuple):  # a NamedTuple
        return st.builds(hint, **{name: values(each) for name, each in get_type_hints(hint).items()})
    simple = {type(None): st.none(), bool: st.booleans(), float: st.floats(0, 9), type(UNSTAMPED): st.just(UNSTAMPED)}
    return simple[hint]
