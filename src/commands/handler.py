"""Handler of all commands: loads streams, folds their states, decides, appends; retries after a version conflict.

A command names the streams that it reads (`reads`, and `then_reads` for those that the first states refer to) and
decides which events to append. `decide` is pure: times, ids and randomness are fields of the command. The events are
appended only if every stream that was read still has the version that the decision saw.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import WeakValueDictionary

import msgspec

from domain.core.errors import Conflict, NotFound
from domain.core.events import (
    AnyStream,
    Category,
    Event,
    EventMetadata,
    ExpectedVersion,
    Recorded,
    Stream,
    changes_of,
    updatable_fields,
)
from store.log.append import IdempotencyKey, VersionConflict
from store.log.event_log import EventLog, Write

MAX_TRIES = 12


class Deletable(Protocol):
    @property
    def deleted(self) -> bool: ...


S = TypeVar("S")
E = TypeVar("E", bound=Event)
D = TypeVar("D", bound=Deletable)


class Command:
    """Base of commands: a request, and the pure decision which events follow from it.

    A subclass with `of=CATEGORY` reads one stream of that category, whose id is its first field; any other overrides
    `reads`.
    """

    _category: ClassVar[Category[Any]]

    def __init_subclass__(cls, of: Category[Any] | None = None) -> None:
        if of is not None:
            cls._category = of

    def reads(self) -> Sequence[AnyStream]:
        """Names the streams whose states `decide` takes, in the order of its parameters."""
        first_field = next(iter(vars(self)))
        return (self._category.at(getattr(self, first_field)),)

    def then_reads(self, *states: Any, **more: Any) -> Sequence[AnyStream]:
        """Names further streams, given the states of the first; `decide` takes their states after those."""
        return ()

    def decide(self, *states: Any, **more: Any) -> Iterable[Event]:
        """Returns the events to append, none when there is nothing to do. Raises a Rejection to refuse the command."""
        raise NotImplementedError

    def event(self, event_type: type[E], /, *states: Any, **more: Any) -> E:
        """Returns an event with `more` and the fields of the same names that the command has, or else the states."""
        names = [name for name in event_type.__struct_fields__ if name not in Event.__struct_fields__]
        shared = {name: getattr(of, name) for of in (*states, self) for name in names if hasattr(of, name)}
        return msgspec.convert(shared | more, event_type)

    def update(self, event_type: type[E], state: Any, /, **more: Any) -> Iterator[E]:
        """Yields one event with only those fields of the command that differ from the state; the others are None, which
        means unchanged. Fields that `cleared` names are set to None for good. Yields nothing when nothing changes.
        """
        event, cleared = self.event(event_type, **more), getattr(self, "cleared", ())
        values: dict[str, Any] = {
            name: None
            for name in updatable_fields(event_type)
            if name in cleared or getattr(event, name) == getattr(state, name)
        }
        if cleared:
            values["cleared"] = tuple(name for name in cleared if getattr(state, name) is not None)
        event = msgspec.structs.replace(event, **values)
        if changes_of(event):
            yield event


def must_exist(state: D | None, name: str) -> D:
    """Returns the state of what a command is about. Raises NotFound when it never existed or was deleted."""
    if state is None or state.deleted:
        raise NotFound(f"There is no {name}.")
    return state


@dataclass(frozen=True)
class CommandContext:
    """Metadata of a command: who executes it, and as part of which request or reaction."""

    actor: str
    """`user:7`, `node:12`, `system:dispatch`."""
    correlation_id: str = ""
    causation: int | None = None
    once: IdempotencyKey | None = None
    """The key of a request that the client may repeat without a second effect."""


@dataclass(frozen=True)
class Receipt:
    """The events that a command appended, and the states of its streams after them."""

    events: tuple[Recorded, ...]
    states_before: Mapping[str, Any]
    """The states of the streams that the command read, by stream name."""

    @property
    def position(self) -> int | None:
        """The position of the last event; None when there was nothing to do."""
        return self.events[-1].position if self.events else None

    @property
    def at(self) -> datetime:
        """The time of the events. Raises IndexError when there was nothing to do."""
        return self.events[-1].event.at

    def existing(self, stream: Stream[S | None]) -> S:
        """Returns the state as `state` does, of a stream that has begun."""
        state = self.state(stream)
        assert state is not None, f"{stream.name} has not begun"
        return state

    def state(self, stream: Stream[S]) -> S:
        """Returns the state in which the command left a stream that it read or began. Raises LookupError for others."""
        appended = [recorded for recorded in self.events if recorded.stream == stream.name]
        if stream.name not in self.states_before and (not appended or appended[0].version != 1):
            raise LookupError(f"the command did not read {stream.name}")
        before: S = self.states_before.get(stream.name, stream.category.initial)
        return reduce(stream.category.evolve, (recorded.event for recorded in appended), before)


class Handler:
    def __init__(self, log: EventLog, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def execute(self, command: Command, caller: CommandContext) -> Receipt:
        """Carries out a command and returns its receipt.

        Raises Conflict when other writers won every try, another Rejection when the command is refused, and AlreadyDone
        when the caller's `once` was carried out before.
        """
        try:
            return await self._once(command, caller)
        except VersionConflict:
            # Only the caller can read the state of an ExpectedVersion again.
            if any(isinstance(stream, ExpectedVersion) for stream in command.reads()):
                raise
        # Others write the same streams: queue behind those in this process instead of racing them.
        async with AsyncExitStack() as stack:
            for name in sorted({stream.name for stream in command.reads() if not isinstance(stream, ExpectedVersion)}):
                await stack.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
            for _ in range(MAX_TRIES):
                try:
                    return await self._once(command, caller)
                except VersionConflict:
                    continue
        raise Conflict("Others keep changing the same thing at the same time; try again.")

    async def _once(self, command: Command, caller: CommandContext) -> Receipt:
        versions: dict[str, int] = {}
        before: dict[str, Any] = {}
        states = await self._states(command.reads(), versions, before)
        states += await self._states(command.then_reads(*states), versions, before)
        guards = dict(versions)
        writes: list[Write] = []
        for event in command.decide(*states):
            versions[event.stream] = versions.get(event.stream, 0) + 1
            writes.append(Write(versions[event.stream], event))
            guards.pop(event.stream, None)  # the version of the appended event is its guard
        if not writes:
            return Receipt((), before)
        stamp = EventMetadata(self._clock(), caller.actor, caller.correlation_id, caller.causation)
        return Receipt(tuple(await self._log.append(writes, stamp, guards.items(), caller.once)), before)

    async def _states(
        self, reads: Sequence[AnyStream], versions: dict[str, int], states_before: dict[str, Any]
    ) -> list[Any]:
        """Returns the states of `reads`; adds each stream's version to `versions` and its state to `states_before`."""
        loaded = (
            await self._log.load([read.name for read in reads if not isinstance(read, ExpectedVersion)])
            if reads
            else {}
        )
        states: list[Any] = []
        for read in reads:
            if isinstance(read, ExpectedVersion):
                versions[read.stream] = read.version
                states.append(read.state)
                states_before[read.stream] = read.state
            else:
                history = loaded[read.name]
                # For a stream that is read twice the first version counts, so the guard fails if it changed in between.
                versions.setdefault(read.name, history[-1].version if history else 0)
                states.append(read.fold(recorded.event for recorded in history))
                states_before.setdefault(read.name, states[-1])
        return states
