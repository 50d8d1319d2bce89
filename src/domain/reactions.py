"""Cancelled reactions: an operator has ended a reaction to one event for good."""

from typing import ClassVar

from domain.core.events import Category, Event


class ReactionCancelled(Event, frozen=True):
    """An operator cancelled a reaction to an event. Effects of earlier tries of the reaction stay."""

    name: ClassVar[str] = "reaction.cancelled"
    reaction: str
    position: int
    """Position of the event for which the reaction will not run any more."""
    reason: str
    operator: str
    """Operating system account of the operator."""

    @property
    def stream(self) -> str:
        return f"reaction-{self.reaction}"


def evolve(state: frozenset[int], event: Event) -> frozenset[int]:
    match event:
        case ReactionCancelled():
            return state | {event.position}
        case _:
            return state


REACTION = Category[frozenset[int]]("reaction", frozenset(), evolve)
"""The state of a reaction's stream: the positions of the events for which the reaction was cancelled."""
EVENTS = (ReactionCancelled,)
