"""Who leads dispatch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from domain.core.events import AnyStream, Event
from domain.dispatch import LEADER, LeadershipTaken


@dataclass(frozen=True)
class TakeLeadership(Command):
    leader: str

    def reads(self) -> Sequence[AnyStream]:
        return (LEADER.at("leader"),)

    def decide(self, leader: str) -> Iterable[Event]:
        if leader != self.leader:
            yield LeadershipTaken(leader=self.leader)
