"""Commands on groups of builds: abort and restart all builds of a group, in one append."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commands.build_actions import RestartBuild
from commands.builds import AbortBuild
from commands.handler import Command
from domain.builds import BUILD, AnyBuild, Assigned, Queued, Running
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from store.tables.build_logs import LogEnd


@dataclass(frozen=True)
class AbortGroup(Command):
    """Aborts those builds of a group that have not finished."""

    group_id: int
    build_ids: Sequence[int]
    logs: Mapping[int, Mapping[int, LogEnd]] = field(default_factory=dict)
    """Build id -> attempt -> end of the attempt's build log."""

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
    """Restarts several builds of a group, all or none."""

    restarts: Sequence[RestartBuild]

    def reads(self) -> Sequence[AnyStream]:
        return [stream for restart in self.restarts for stream in restart.reads()]

    def then_reads(self, *states: Any) -> Sequence[AnyStream]:
        return [stream for restart, its in self._share(states) for stream in restart.then_reads(*its)]

    def decide(self, *states: Any) -> Iterable[Event]:
        for restart, its in self._share(states):
            yield from restart.decide(*its, *states[3 * len(self.restarts) :])

    def _share(self, states: Sequence[Any]) -> Iterator[tuple[RestartBuild, tuple[Any, Any, Any]]]:
        """Yields each restart with the states of the three streams that it reads."""
        for number, restart in enumerate(self.restarts):
            new, source, job = states[3 * number : 3 * number + 3]
            yield restart, (new, source, job)
