"""Dismissed events: events that a read model could not apply and that an operator therefore left out of it."""

from typing import ClassVar

from domain.core.events import Category, Event


class EventDismissed(Event, frozen=True):
    """A read model could not apply an event, and an operator left the event out of it. Rebuilds leave the event out,
    too.
    """

    name: ClassVar[str] = "projection.event_dismissed"
    projection: str
    position: int
    """The position of the event that is left out."""
    reason: str
    operator: str
    """Operating system account of the operator."""

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
