"""Read models: which events an operator dismissed from them, because they cannot be applied."""

from typing import ClassVar

from domain.core.events import Category, Event


class EventDismissed(Event, frozen=True):
    """A read model goes on without an event that it could not apply, also when it is built again."""

    name: ClassVar[str] = "projection.event_dismissed"
    projection: str
    position: int
    """The position of the event that is left out."""
    reason: str
    operator: str
    """The account of the operating system that dismissed it."""

    @property
    def stream(self) -> str:
        return f"projection-{self.projection}"


def evolve(state: frozenset[int], event: Event) -> frozenset[int]:
    match event:
        case EventDismissed():
            return state | {event.position}
        case _:
            return state


PROJECTION = Category[frozenset[int]]("projection", frozenset(), evolve)
"""The state of a read model's stream: the positions of its dismissed events."""
EVENTS = (EventDismissed,)
