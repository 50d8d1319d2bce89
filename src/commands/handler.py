"""The handler of all commands: loads streams, folds them to states, decides, appends, and retries on a version
conflict.

`reads` of a command names the streams to read. `then_reads` chooses further streams by the states of these streams.
`decide` returns the events to append. It is pure: times, ids and randomness are fields of the command. The events are
appended only if every stream that was read still has the version that `decide` saw.
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
    LoadedState,
    Recorded,
    Stream,
    changes_of,
    updatable_fields,
)
from store.log.append import IdempotencyKey, VersionConflict
from store.log.event_log import EventLog, Write

MAX_TRIES = 12
"""Largest number of times that a command is tried again because other writers have changed its streams. After that, the
command fails with Conflict.
"""


class Deletable(Protocol):
    @property
    def deleted(self) -> bool: ...


S = TypeVar("S")
E = TypeVar("E", bound=Event)
D = TypeVar("D", bound=Deletable)


class Command:
    """Base class of commands: a request, and the pure decision about which events follow from it.

    A subclass with `of=CATEGORY` reads one stream of that category; the stream's id is the first field of the command.
    Any other subclass overrides `reads`.
    """

    _category: ClassVar[Category[Any]]

    def __init_subclass__(cls, of: Category[Any] | None = None) -> None:
        if of is not None:
            cls._category = of

    def reads(self) -> Sequence[AnyStream]:
        """Returns the streams whose states are the parameters of `decide`, in the same order."""
        first_field = next(iter(vars(self)))
        return (self._category.at(getattr(self, first_field)),)

    def then_reads(self, *states: Any, **more: Any) -> Sequence[AnyStream]:
        """Returns further streams to read, chosen by the states of the streams of `reads`. The handler passes the
        states of these further streams to `decide` as its last parameters.
        """
        return ()

    def decide(self, *states: Any, **more: Any) -> Iterable[Event]:
        """Returns the events to append; none if there is nothing to do. Raises a Rejection to refuse the command."""
        raise NotImplementedError

    def event(self, event_type: type[E], /, *states: Any, **more: Any) -> E:
        """Returns an event of the type `event_type`. The value of each field of the event is looked up by the field's
        name: first in `more`, then in the fields of the command, then in `states`, the last state first.
        """
        names = [name for name in event_type.__struct_fields__ if name not in Event.__struct_fields__]
        shared = {name: getattr(of, name) for of in (*states, self) for name in names if hasattr(of, name)}
        return msgspec.convert(shared | more, event_type)

    def update(self, event_type: type[E], state: Any, /, **more: Any) -> Iterator[E]:
        """Yields one event with those fields of the command that differ from `state`; nothing if no field differs.
        Fields that do not differ are None, which stands for no change. Fields that the command sets to None are in the
        event's `cleared`.
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
    """Returns `state`. Raises NotFound if it is None or marked as deleted, with the message "There is no `name`"."""
    if state is None or state.deleted:
        raise NotFound(f"There is no {name}.")
    return state


@dataclass(frozen=True)
class CommandContext:
    """Metadata of a command: who executes it, and which request or reaction it belongs to."""

    actor: str
    """Actor who executes the command: for example `user:7`, `node:12` or `system:dispatch`."""
    correlation_id: str = ""
    causation: int | None = None
    once: IdempotencyKey | None = None
    """Idempotency key of the request; None if the request has none. A command with a key that was used before is not
    executed.
    """


@dataclass(frozen=True)
class Receipt:
    """The events that a command appended, and the states of its streams after these events."""

    events: tuple[Recorded, ...]
    states_before: Mapping[str, Any]
    """Stream name -> state before the command, for the streams that it read."""

    @property
    def position(self) -> int | None:
        """Position of the last event; None if the command appended none."""
        return self.events[-1].position if self.events else None

    @property
    def at(self) -> datetime:
        """Time of the events. Raises IndexError if the command appended none."""
        return self.events[-1].event.at

    def existing(self, stream: Stream[S | None]) -> S:
        """Returns the state of a stream after the command. Use it instead of `state` for a stream that has events, so
        that the type of its state does not include None.
        """
        state = self.state(stream)
        assert state is not None, f"{stream.name} has not begun"
        return state

    def state(self, stream: Stream[S]) -> S:
        """Returns the state of a stream after the command. Raises LookupError for a stream that the command neither
        read nor began.
        """
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
        """Executes a command and returns its receipt.

        Raises Conflict if other writers changed the streams in every try, and another Rejection if the command refuses.
        If the caller has loaded one of the streams (LoadedState), raises VersionConflict after the first try, since
        only the caller can load this stream again. Raises AlreadyDone if a command with the same idempotency key
        (`caller.once`) was executed before.
        """
        try:
            return await self._once(command, caller)
        except VersionConflict:
            # Only the caller can load a LoadedState again.
            if any(isinstance(stream, LoadedState) for stream in command.reads()):
                raise
        # Other commands may use the same streams: wait for those in this process, instead of racing them.
        async with AsyncExitStack() as stack:
            for name in sorted({stream.name for stream in command.reads() if not isinstance(stream, LoadedState)}):
                await stack.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
            for _ in range(MAX_TRIES):
                try:
                    return await self._once(command, caller)
                except VersionConflict:
                    continue
        raise Conflict("Other requests keep changing the same data at the same time; try again.")

    async def preview(self, command: Command) -> Receipt:
        """Returns the receipt that `execute` would return now, but without versions and positions. Appends nothing."""
        before: dict[str, Any] = {}
        states = await self._states(command.reads(), {}, before)
        states += await self._states(command.then_reads(*states), {}, before)
        events = (Recorded(event.stream, 0, 0, event) for event in command.decide(*states))
        return Receipt(tuple(events), before)

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
        """Returns the states of `reads`. Adds the version of each stream to `versions`, and its state to
        `states_before`.
        """
        loaded = await self._log.load_states(read for read in reads if isinstance(read, Stream))
        states: list[Any] = []
        for read in reads:
            at = loaded[read.name] if isinstance(read, Stream) else read
            if isinstance(read, Stream):
                # If a stream is read twice, its first version counts, so that the guard fails if the stream changed in
                # between.
                versions.setdefault(at.stream, at.version)
                states_before.setdefault(at.stream, at.state)
            else:
                versions[at.stream] = at.version
                states_before[at.stream] = at.state
            states.append(at.state)
        return states
