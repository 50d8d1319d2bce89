"""Commands on groups of builds: abort and restart all builds of a group, in one append."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commands.build_actions import RestartBuild
from commands.builds import AbortBuild
from commands.handler import Command
from domain.builds import BUILD, AnyBuild, Assigned, DeletedBuild, Queued, Running
from domain.claims import CLAIM, Claim, ClaimTaken
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from store.tables.build_logs import LogEnd


@dataclass(frozen=True)
class AbortGroup(Command):
    """Aborts those builds of a group that have not finished."""

    group_id: int
    build_ids: Sequence[int]
    logs: Mapping[int, Mapping[int, LogEnd]] = field(default_factory=dict)
    """Build id -> attempt -> number of lines and hash of the attempt's build log."""

    def reads(self) -> Sequence[AnyStream]:
        return [BUILD.at(build_id) for build_id in self.build_ids]

    def decide(self, *builds: AnyBuild | None) -> Iterable[Event]:
        unfinished = [build for build in builds if isinstance(build, Queued | Assigned | Running)]
        if not unfinished:
            raise Conflict(f"All builds of group {self.group_id} have ended.")
        for build in unfinished:
            logs = self.logs.get(build.build_id, {})
            yield from AbortBuild(build.build_id, "stopped_by_user", logs=logs).decide(build)


@dataclass(frozen=True)
class RestartGroup(Command):
    """Restarts several builds of a group, all or none. Raises Conflict if an earlier restart of the group has restarted
    one of these builds, unless the resulting build was deleted.
    """

    restarts: Sequence[RestartBuild]
    claims: Sequence[str]
    """Ids of claims, one for each restart. The claim ensures that the original build is restarted only once with its
    group.
    """

    def reads(self) -> Sequence[AnyStream]:
        restarts = [stream for restart in self.restarts for stream in restart.reads()]
        return [*restarts, *(CLAIM.at(claim) for claim in self.claims)]

    def then_reads(self, *states: Any) -> Sequence[AnyStream]:
        newer = [BUILD.at(build_id) for *_, claim in self._share(states) if (build_id := _owner(claim)) is not None]
        return [*newer, *(stream for restart, its, _ in self._share(states) for stream in restart.then_reads(*its))]

    def decide(self, *states: Any) -> Iterable[Event]:
        newer = iter(states[4 * len(self.restarts) :])
        for (restart, _, claim), claim_id in zip(self._share(states), self.claims, strict=True):
            name = BUILD.at(restart.build_id).name
            if claim.owner:
                build = next(newer)
                if claim.owner != name and build is not None and not isinstance(build, DeletedBuild):
                    raise Conflict(f"Build {restart.restarted_from} was restarted as build {build.build_id} just now.")
            if claim.owner != name:
                yield ClaimTaken(claim=claim_id, owner=name)
        named = tuple(newer)
        for restart, its, _ in self._share(states):
            yield from restart.decide(*its, *named)

    def _share(self, states: Sequence[Any]) -> Iterator[tuple[RestartBuild, tuple[Any, Any, Any], Claim]]:
        """Yields each restart with the states of the three streams that it reads, and with the state of its claim."""
        for number, restart in enumerate(self.restarts):
            new, source, job = states[3 * number : 3 * number + 3]
            yield restart, (new, source, job), states[3 * len(self.restarts) + number]


def _owner(claim: Claim) -> int | None:
    """Returns the id of the build that owns the claim; None if the claim has no owner."""
    return int(claim.owner.rpartition("-")[2]) if claim.owner else None
