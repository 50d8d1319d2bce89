"""Commands on read models: dismiss an event that cannot be applied."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from domain.core.events import AnyStream, Event
from domain.projections import PROJECTION, EventDismissed


@dataclass(frozen=True)
class DismissEvent(Command):
    projection: str
    position: int
    reason: str
    operator: str

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECTION.at(self.projection),)

    def decide(self, dismissed: frozenset[int]) -> Iterable[Event]:
        if self.position not in dismissed:
            yield self.event(EventDismissed)
