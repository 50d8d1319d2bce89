"""Records how the known tests of a job are divided into the shards of a build group."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from commands.handler import Command
from domain.core.events import Event
from domain.divisions import DIVISION, Division, TestsDivided


@dataclass(frozen=True)
class DivideTests(Command, of=DIVISION):
    """Records how the tests of a job are divided into the shards of a build group, unless this is recorded already. So
    if two agents of the group begin at once, both use the division of the first.
    """

    group_id: int
    job_id: int
    project_id: int
    shards: int
    shard_of: Mapping[int, int]

    def decide(self, division: Division) -> Iterable[Event]:
        if division.shards:
            return
        yield self.event(TestsDivided, case_ids=list(self.shard_of), shard_of=list(self.shard_of.values()))
