"""Commands on reactions: cancel a reaction that is due or parked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from domain.core.events import AnyStream, Event
from domain.reactions import REACTION, ReactionCancelled


@dataclass(frozen=True)
class CancelReaction(Command):
    reaction: str
    position: int
    reason: str
    operator: str

    def reads(self) -> Sequence[AnyStream]:
        return (REACTION.at(self.reaction),)

    def decide(self, cancelled: frozenset[int]) -> Iterable[Event]:
        if self.position not in cancelled:
            yield self.event(ReactionCancelled)
