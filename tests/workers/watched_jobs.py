"""A project with a job that has triggers, and read models that follow the log when they are waited for."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from commands.changes import ReceiveChanges
from commands.handler import Command, CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob
from commands.projects import CreateProject
from commands.scm import CreateScmEndpoint
from commands.triggers import SetTriggers, set_triggers
from domain.builds import (
    BUILD,
    AnyBuild,
    BuildAssigned,
    BuildFinished,
    BuildQueued,
    BuildStarted,
    Queued,
    Verdict,
    status_of,
)
from domain.changes import ChangeReceived, Reporter
from domain.core.events import Event
from domain.triggers import RepositoryChange, Triggers
from integrations.scm.hosts import ScmHosts
from integrations.source_ports import SourceHosts
from projections.engine.engine import Engine, fetch_positions
from projections.registry import PROJECTIONS
from testhide.processes import Core
from tests.support.read_models import begin_read_models
from workers.changes import ChangeEvaluator
from workers.time_tables import TimeTableClock


@dataclass(frozen=True)
class RunBuild(Command, of=BUILD):
    """Lets a node run a build to its end."""

    build_id: int
    status: Verdict
    commit: str | None = None
    """Commit that the node checks out."""

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        assert isinstance(build, Queued)
        yield BuildAssigned(**build.ids, node_id=1, attempt=1)
        yield BuildStarted(**build.ids, node_id=1, attempt=1, commit_sha=self.commit)
        yield BuildFinished(**build.ids, status=self.status, node_id=1)


TODAY = datetime(2026, 5, 20, 12, tzinfo=UTC)
ANN = CommandContext("user:1")


class WatchedJobs:
    def __init__(self, parts: Core, hosts: SourceHosts | None = None) -> None:
        self.parts = parts
        outgoing: Any = None  # nobody is called
        hosts = hosts or ScmHosts(outgoing, parts.secrets.unseal, [])
        self.now = TODAY
        self.handler = Handler(parts.log, lambda: self.now)
        self.evaluator = ChangeEvaluator(
            parts.pool, parts.log, self.handler, parts.ids, parts.secrets, hosts, self.wait_reached
        )
        self.clock = self.new_clock()
        self._projecting = asyncio.Lock()

    def new_clock(self) -> TimeTableClock:
        """The clock of another process."""
        return TimeTableClock(self.parts.pool, self.handler, self.parts.ids, self.parts.secrets, lambda: self.now)

    async def does(self, *commands: Command) -> None:
        for command in commands:
            await self.handler.execute(command, ANN)

    async def begin(self, *, with_endpoint: bool = True) -> None:
        async with self.parts.pool.connection() as connection:
            await begin_read_models(connection)
        await self.does(CreateProject(1, "P", 1, (("p", "slug"),), b""))
        if with_endpoint:
            await self.does(CreateScmEndpoint(1, 1, "github", "Web", "acme/web"))

    async def add_job(self, job_id: int, triggers: Triggers, **fields: Any) -> None:
        await self.does(CreateJob(job_id, 1, f"Job {job_id}", **fields), ConfigureJob(job_id, "make"))
        await set_triggers(partial(self.handler.execute, caller=ANN), SetTriggers(job_id, triggers))

    async def wait_reached(self, position: int) -> bool:
        async with self._projecting, self.parts.pool.connection() as connection:
            shown = min((await fetch_positions(connection, PROJECTIONS)).values())
            events = await self.parts.log.read(shown, 10_000)
            await Engine(connection, PROJECTIONS, announce=True).apply(events, shown)
        return True

    async def receive(self, change: RepositoryChange, reporter: Reporter = "github") -> ChangeReceived:
        """Records a change, and does not evaluate it."""
        change_id = await self.parts.ids.draw("changes")
        receipt = await self.handler.execute(ReceiveChanges(1, reporter, ((change_id, change),)), ANN)
        received = receipt.events[-1].event
        assert isinstance(received, ChangeReceived)
        return received

    async def push(self, branch: str = "main", **more: Any) -> ChangeReceived:
        received = await self.receive(RepositoryChange("push", branch, **more))
        await self.evaluator.evaluate(received)
        return received

    async def run(self, build_id: int, status: Verdict = "passed", commit: str | None = None) -> None:
        """Runs a queued build, and starts what has waited for it."""
        receipt = await self.handler.execute(RunBuild(build_id, status, commit), ANN)
        for end in await self.evaluator.select(receipt.events[-1:]):
            assert isinstance(end.event, BuildFinished)
            await self.evaluator.continue_after(end.event)

    async def run_job(self, job_id: int, status: Verdict = "passed") -> None:
        """Runs the newest build of a job."""
        await self.run(max(build.build_id for build in await self.queued() if build.job_id == job_id), status)

    async def sweep(self) -> int:
        await self.wait_reached(0)
        return await self.clock.sweep()

    async def queued(self) -> list[BuildQueued]:
        """All builds that were ever queued."""
        events = await self.parts.log.read(0, 10_000, [BuildQueued.name])
        return [recorded.event for recorded in events if isinstance(recorded.event, BuildQueued)]

    async def statuses(self) -> list[str]:
        """The status of each build, in the order in which they were queued."""
        states = [await self.parts.log.load_state(BUILD.at(event.build_id)) for event in await self.queued()]
        return [status_of(state) for state in states if state is not None]
