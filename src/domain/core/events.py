"""Events, streams and the states that they fold to.

An event is a fact in the past tense and belongs to one stream. A category is a kind of stream (`build`, `job`) with the
state that its events fold to. `evolve` never fails: an event that makes no sense in a state leaves the state unchanged.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, reduce
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from domain.core.errors import StreamDamaged

S = TypeVar("S")
T = TypeVar("T", bound=msgspec.Struct)

UNSTAMPED = datetime.fromtimestamp(0, UTC)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all events. `decide` returns events without metadata, which the handler adds.

    `name` and `class_version` are stored data: a class may move or be renamed, but these two must not change.
    """

    name: ClassVar[str]
    class_version: ClassVar[int] = 1
    sealed: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that are encrypted under the data key. Each has a default value, which readers get once the
    data key is destroyed.
    """
    destroys_key: ClassVar[bool] = False
    """Whether appending the event destroys the data key."""

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
        """The name of the data key that encrypts the sealed fields; None if the event has no data key. Destroying the
        key erases these fields for good.
        """
        return None

    @property
    def erases(self) -> str | None:
        """The name of the data key that appending this event destroys; None for most events."""
        return self.data_key if self.destroys_key else None

    @property
    def notifies(self) -> str | None:
        """The payload of the notification that appending this event sends to waiting agents; None when none is sent."""
        return None


@cache
def updatable_fields(kind: type[Event]) -> tuple[str, ...]:
    """Returns the names of the fields that an update event of type `kind` can change. A field that is None in such an
    event stays unchanged.
    """
    fields = msgspec.structs.fields(kind)
    return tuple(field.name for field in fields if field.default is None and field.name not in Event.__struct_fields__)


def changes_of(event: Event) -> dict[str, Any]:
    """Returns the fields that an update event changes, with their new values. The fields that `cleared` names have the
    value None.
    """
    given = {name: value for name in updatable_fields(type(event)) if (value := getattr(event, name)) is not None}
    return given | dict.fromkeys(getattr(event, "cleared", ()))


def copy_fields(into: type[T], source: msgspec.Struct, **others: Any) -> T:
    """Returns a new instance of `into`. Its fields have the values in `others`; the remaining fields are copied from
    the fields of `source` with the same names.
    """
    return into(**{name: getattr(source, name) for name in _shared_fields(into, type(source))} | others)


@cache
def _shared_fields(into: type[msgspec.Struct], source: type[msgspec.Struct]) -> list[str]:
    return [name for name in into.__struct_fields__ if name in source.__struct_fields__]


class Damaged(Event, frozen=True):
    """Stands for a stored event that cannot be read. It is never stored itself, and every `evolve` ignores it."""

    name: ClassVar[str] = "damaged"

    type: str
    """The event name under which it was stored."""
    reason: str


class EventMetadata(msgspec.Struct, frozen=True):
    """Time, actor and origin of an event. `decide` leaves these fields out, and the handler adds them."""

    at: datetime
    actor: str
    correlation_id: str = ""
    causation: int | None = None

    def on(self, event: Event) -> Event:
        """Returns a copy of the event with this metadata."""
        return msgspec.structs.replace(
            event,
            at=self.at,
            actor=self.actor,
            correlation_id=self.correlation_id,
            causation=self.causation,
        )


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event in the log. `version` is its number in its stream, `position` its number in the whole log. Both begin at
    1.
    """

    stream: str
    version: int
    position: int
    event: Event
    erased: bool = False
    """Whether the event's data key was destroyed, so that the sealed fields have their defaults."""


def readable(events: Sequence[Recorded]) -> Sequence[Recorded]:
    """Returns the events unchanged. Raises StreamDamaged when one of them cannot be read."""
    for recorded in events:
        if isinstance(recorded.event, Damaged):
            raise StreamDamaged(
                f"{recorded.stream} cannot be used: its event at position {recorded.position} cannot be read"
                f" ({recorded.event.reason})."
            )
    return events


@dataclass(frozen=True)
class Category(Generic[S]):
    """A kind of stream, with the function that folds its events to a state."""

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


class LoadedState(msgspec.Struct, Generic[S], frozen=True):
    """A state that the caller has already loaded. The handler does not load it again.

    The command fails with a version conflict if the stream has got a newer event since.
    """

    stream: str
    version: int
    state: S
    position: int = 0
    """The log position of the stream's event with this version; 0 for an empty stream."""


AnyStream = Stream[Any] | LoadedState[Any]
