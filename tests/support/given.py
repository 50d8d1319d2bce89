"""Given a history, when a command is decided, then these events follow: the words of these tests."""

import contextlib
import dataclasses
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from commands.handler import Command
from domain.core.columns import Column
from domain.core.errors import Rejection
from domain.core.events import UNSTAMPED, AnyStream, Category, Event, ExpectedVersion

STAMP = {"at", "actor", "correlation_id", "causation"}


def decided(command: Command, *history: Event) -> list[Event]:
    """What follows from the command after this history of all the streams that it reads."""

    def folded(reads: Sequence[AnyStream]) -> list[Any]:
        states: list[Any] = []
        for read in reads:
            assert not isinstance(read, ExpectedVersion)
            states.append(read.fold(event for event in history if event.stream == read.name))
        return states

    states = folded(command.reads())
    return list(command.decide(*states, *folded(command.then_reads(*states))))


def is_decided_once(command: Command, history: Sequence[Event]) -> None:
    """A property of every command: decided again on what it made true, it does nothing, or says why it is refused."""
    try:
        first = decided(command, *history)
    except Rejection:
        return
    with contextlib.suppress(Rejection):
        assert decided(command, *history, *first) == []


def folds(category: Category[Any], history: Iterable[Event]) -> None:
    """A property of every category: no history makes its fold fail."""
    state = category.initial
    for event in history:
        state = category.evolve(state, event)


def histories(*events: type[Event]) -> SearchStrategy[list[Event]]:
    """Any events of these types in any order, of few streams, so that they meet."""
    return st.lists(st.one_of([structs(event) for event in events]), max_size=12)


def structs(cls: type[msgspec.Struct]) -> SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{name: values(hints[name]) for name in cls.__struct_fields__ if name not in STAMP})


def commands(cls: type[Any], **fixed: SearchStrategy[Any]) -> SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)} | fixed)


def values(hint: Any) -> SearchStrategy[Any]:
    origin, inner = get_origin(hint), get_args(hint)
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
