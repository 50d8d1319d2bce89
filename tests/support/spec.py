"""Specifications in three words. Given a history, when a command is decided or a projection applies it, then these
events or rows follow.

Tests over HTTP use the same words: the builders of `tests.support.builders` are given, `Client.when` sends a request,
and `Answer.then` checks what came back.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from commands.handler import Command
from domain.core.errors import Rejection
from domain.core.events import AnyStream, Category, Event, LoadedState
from projections.engine.model import Projection
from tests.support.memory_rows import MemoryRows


class Decided(list[Event]):
    """The events that a command has decided on."""

    def then(self, *events: Event) -> None:
        assert self == list(events)

    def then_nothing(self) -> None:
        assert not self


@dataclass(frozen=True)
class Given:
    history: Sequence[Event]

    @overload
    def when(self, subject: Command, /) -> Decided: ...
    @overload
    def when(self, subject: Projection, /, *others: Projection) -> MemoryRows: ...
    def when(self, subject: Any, /, *others: Projection) -> Any:
        """Decides a command, or applies the history to projections. Raises Rejection like the command."""
        if isinstance(subject, Command):
            return self._decide(subject)
        return MemoryRows(subject, *others).apply(*self.history)

    def _decide(self, command: Command) -> Decided:
        states = self._fold(command.reads())
        return Decided(command.decide(*states, *self._fold(command.then_reads(*states))))

    def _fold(self, streams: Sequence[AnyStream]) -> list[Any]:
        states: list[Any] = []
        for stream in streams:
            assert not isinstance(stream, LoadedState)
            states.append(stream.fold(event for event in self.history if event.stream == stream.name))
        return states


def given(*history: Event) -> Given:
    """Begins a specification: these events are the history of all streams that the subject reads."""
    return Given(history)


def is_decided_once(command: Command, history: Sequence[Event]) -> None:
    """Asserts a property of every command: decided again on its own result, it does nothing or is rejected."""
    try:
        first = given(*history).when(command)
    except Rejection:
        return
    with contextlib.suppress(Rejection):
        given(*history, *first).when(command).then_nothing()


def folds(category: Category[Any], history: Iterable[Event]) -> None:
    """Asserts a property of every category: no history makes its fold fail."""
    state = category.initial
    for event in history:
        state = category.evolve(state, event)
