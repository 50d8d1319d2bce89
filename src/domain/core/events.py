"""What an event, a stream and a folded state are.

An event says what happened, in the past tense, and belongs to one stream. A category is a kind of stream (`build`,
`job`) with the state that its events fold to. `evolve` never fails: an event that makes no sense for a state leaves
it as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from domain.core.errors import StreamDamaged

S = TypeVar("S")

UNSTAMPED = datetime.fromtimestamp(0, UTC)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all events. A decision returns events without a stamp; the handler stamps them before they are appended.

    `name` and `class_version` are stored data: a class may move or be renamed, these may not.
    """

    name: ClassVar[str]
    class_version: ClassVar[int] = 1
    sealed: ClassVar[tuple[str, ...]] = ()
    """Fields that are stored under the data key. Each has a default: what an erased event shows."""

    at: datetime = UNSTAMPED
    actor: str = ""
    correlation_id: str = ""
    causation: int | None = None

    @property
    def stream(self) -> str:
        """The stream that this event belongs to."""
        raise NotImplementedError

    @property
    def data_key(self) -> str | None:
        """The key under which the sealed fields are stored; destroying it erases them for good."""
        return None

    @property
    def erases(self) -> str | None:
        """The data key that is destroyed in the commit that appends this event."""
        return None

    @property
    def notifies(self) -> str | None:
        """The payload of the notification to waiting agents that is sent in the commit that appends this event."""
        return None


class Damaged(Event, frozen=True):
    """Stands where the log holds an event that cannot be read. Never stored, and of no meaning to any `evolve`."""

    name: ClassVar[str] = "damaged"

    type: str
    """The name of the event that was stored."""
    reason: str


class EventMetadata(msgspec.Struct, frozen=True):
    """When, by whom and in the course of what: the part of an event that a decision does not make up."""

    at: datetime
    actor: str
    correlation_id: str = ""
    causation: int | None = None

    def on(self, event: Event) -> Event:
        return msgspec.structs.replace(
            event,
            at=self.at,
            actor=self.actor,
            correlation_id=self.correlation_id,
            causation=self.causation,
        )


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event at its place: `version` in its stream (from 1), `position` in the whole log (from 1)."""

    stream: str
    version: int
    position: int
    event: Event
    erased: bool = False
    """Its data key was destroyed: the sealed fields show their defaults."""


def readable(events: Sequence[Recorded]) -> Sequence[Recorded]:
    """The same events. Raises StreamDamaged when one of them cannot be read."""
    for recorded in events:
        if isinstance(recorded.event, Damaged):
            raise StreamDamaged(
                f"{recorded.stream} cannot be used: its event at position {recorded.position} cannot be read"
                f" ({recorded.event.reason})."
            )
    return events


@dataclass(frozen=True)
class Category(Generic[S]):
    """A kind of stream: how its events fold to a state."""

    prefix: str
    initial: S
    evolve: Callable[[S, Event], S]

    def at(self, key: int | str) -> "Stream[S]":
        return Stream(f"{self.prefix}-{key}", self)


@dataclass(frozen=True)
class Stream(Generic[S]):
    name: str
    category: Category[S]

    def fold(self, events: Iterable[Event]) -> S:
        return reduce(self.category.evolve, events, self.category.initial)


@dataclass(frozen=True)
class ExpectedVersion(Generic[S]):
    """A state that the caller already has at a version. It is not loaded again, but a decision made on it only holds
    at that version.
    """

    stream: str
    version: int
    state: S
    position: int = 0
    """The position of the event of this version."""


AnyStream = Stream[Any] | ExpectedVersion[Any]
