"""Commands on changes of repositories: record the changes, and start the builds that the triggers of jobs ask for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from commands.build_actions import EndBuildOfClosedPullRequest
from commands.builds import start_build
from commands.handler import Command, CommandContext, Handler, Receipt
from commands.projects import must_be_open
from commands.triggers import StartBuildForChange, StartDeferredBuild, StartTriggeredBuild
from domain.builds import BuildQueued
from domain.changes import (
    CHANGE,
    DEFERRALS,
    ChangePathsDropped,
    ChangeReceived,
    Deferrals,
    JobDeferred,
    JobLeftOut,
    Reporter,
)
from domain.claims import CLAIM
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event, LoadedState
from domain.needs import StartPlan, find_blocked
from domain.projects import PROJECT, Project
from domain.triggers import BuildTrigger, RepositoryChange
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.log.ids import Ids


@dataclass(frozen=True)
class ReceiveChanges(Command):
    """Records the changes of a repository that one message reports. `changes` has a pair (id, change) for each."""

    project_id: int
    reporter: Reporter
    changes: Sequence[tuple[int, RepositoryChange]]
    delivery_id: str = ""
    loaded: LoadedState[Project] | None = None
    """State of the project, if the caller has loaded it already."""

    def reads(self) -> Sequence[AnyStream]:
        return (self.loaded or PROJECT.at(self.project_id),)

    def decide(self, project: Project | None) -> Iterable[Event]:
        must_be_open(project, self.project_id)
        for change_id, change in self.changes:
            yield self.event(ChangeReceived, change_id=change_id, change=change)


@dataclass(frozen=True)
class DropPaths(Command, of=CHANGE):
    """Records that the reported paths of a change are ignored, since the push may have dropped commits that had changed
    other paths. Has no effect if that was recorded before, or if the change has no paths.
    """

    change_id: int
    why: str

    def decide(self, received: ChangeReceived | None) -> Iterable[Event]:
        if received is not None and received.change.paths is not None:
            yield self.event(ChangePathsDropped, project_id=received.project_id)


@dataclass(frozen=True)
class DeferJobs(Command, of=DEFERRALS):
    """Records which jobs a change starts only after other jobs, and which jobs it leaves out. A job that already waits
    goes on waiting for the same jobs, even if a repeated evaluation of the change names others.
    """

    key: str
    change_id: int
    project_id: int
    deferred: Mapping[int, list[int]]
    left_out: Mapping[int, str]
    """Job id -> why the change does not start the job."""
    blocked: Mapping[int, str]
    """Id of a deferred job -> why the job can have no build after all."""

    def decide(self, deferrals: Deferrals) -> Iterable[Event]:
        for job_id, needs in self.deferred.items():
            if job_id not in deferrals.needs:
                yield self.event(JobDeferred, job_id=job_id, needs=needs)
        left_out = {job_id: why for job_id, why in self.left_out.items() if job_id not in deferrals.needs}
        for job_id, why in {**left_out, **self.blocked}.items():
            if deferrals.left_out.get(job_id) != why:
                yield self.event(JobLeftOut, job_id=job_id, why=why)


class StartedBuilds(NamedTuple):
    build_ids: dict[int, list[int]]
    """Job id -> ids of the builds that this call queued. If an earlier call has already started the job for this
    change, the list has only the id of the first build that the earlier call queued.
    """
    waiting: dict[int, list[int]]
    """Job id -> ids of the jobs that must have passed for the change before the job's build starts."""
    refused: dict[int, str]
    """Job id -> why the job can have no build, although its triggers ask for one."""
    position: int | None
    """Position of the last appended event; None if no event was appended."""


@dataclass(frozen=True)
class ChangeStarter:
    """Starts the builds of one change. The change starts each job at most once, even if several processes call the
    methods of this class repeatedly. All changes that report one commit of a pull request count as one change.
    """

    handler: Handler
    ids: Ids
    secrets: Secrets
    received: ChangeReceived
    project_repository: str
    """Address of the repository of the project's SCM endpoint; empty if the project has no endpoint."""
    caller: CommandContext

    async def start(self, plan: StartPlan) -> StartedBuilds:
        """Starts the jobs of the plan that need no others. Records which jobs wait, and which are left out."""
        position = await self._defer(plan.deferred, plan.left_out, {})
        build_ids, refused = dict[int, list[int]](), dict(plan.left_out)
        for job_id in plan.at_once:
            command = StartBuildForChange(**await self._describe(job_id), change=self.received.change)
            try:
                receipt, first_id = await self._start(command)
            except Conflict as error:
                refused[job_id] = error.detail
                continue
            position = receipt.position or position
            if first_id is not None:
                queued = [recorded.event for recorded in receipt.events]
                new_ids = [event.build_id for event in queued if isinstance(event, BuildQueued)]
                build_ids[job_id] = new_ids or [first_id]
        if blocked := find_blocked(plan.deferred, refused):
            position = await self._defer({}, {}, blocked) or position
        waiting = {job_id: needs for job_id, needs in plan.deferred.items() if job_id not in blocked}
        return StartedBuilds(build_ids, waiting, refused | blocked, position)

    async def start_deferred(self, job_id: int, after: list[int], commit: str | None) -> None:
        """Starts a job that had to wait. `after` lists the builds that it waited for and that have passed. If the
        change was reported without a commit, the new build tests `commit`, which these builds have tested. If the job
        can have no build, records why.
        """
        fields = await self._describe(job_id, after)
        fields["commit_sha"] = fields["commit_sha"] or commit
        try:
            await self._start(StartDeferredBuild(**fields))
        except Conflict as error:
            await self._defer({}, {}, {job_id: error.detail})

    async def load_deferrals(self, log: EventLog) -> Deferrals:
        return await log.load_state(DEFERRALS.at(self._key))

    async def find_first_build(self, log: EventLog, job_id: int) -> int | None:
        """Returns the id of the build that the change started for a job: the first one if the job has a matrix. Returns
        None if the change did not start the job.
        """
        owner = (await log.load_state(CLAIM.at(self._claim(job_id)))).owner
        return int(owner.removeprefix("build-")) if owner else None

    async def end_build(self, build_id: int, job_id: int, closing_change: int) -> None:
        """Ends a build that the change has started, unless a node already has the build. `closing_change` is the id of
        the change that reports the end of the pull request.
        """
        command = EndBuildOfClosedPullRequest(build_id, closing_change, self._claim(job_id))
        await self.handler.execute(command, self.caller)

    async def _defer(
        self, deferred: Mapping[int, list[int]], left_out: Mapping[int, str], blocked: Mapping[int, str]
    ) -> int | None:
        if not deferred and not left_out and not blocked:
            return None
        received = self.received
        command = DeferJobs(self._key, received.change_id, received.project_id, deferred, left_out, blocked)
        return (await self.handler.execute(command, self.caller)).position

    async def _describe(self, job_id: int, after: Sequence[int] = ()) -> dict[str, Any]:
        """Returns the fields that all commands to start a build of the change have. No other code makes a build's
        trigger from a change.
        """
        change = self.received.change
        return {
            "build_id": await self.ids.draw("builds"),
            "job_id": job_id,
            "branch": change.head_ref or change.branch,
            "commit_sha": change.commit,
            "trigger": BuildTrigger(
                change.kind, self.received.change_id, change.pull_request, fork=change.fork, after=list(after)
            ),
            "fork": change.fork_repository,
            "fork_url": change.fork_url,
            "project_repository": self.project_repository,
            "claim": self._claim(job_id),
        }

    async def _start(self, command: StartTriggeredBuild) -> tuple[Receipt, int | None]:
        receipt = await start_build(partial(self.handler.execute, caller=self.caller), self.ids, command)
        owner = receipt.state(CLAIM.at(command.claim)).owner
        return receipt, int(owner.removeprefix("build-")) if owner else None

    def _claim(self, job_id: int) -> str:
        return self.secrets.claim("change", f"{_identify(self.received)} {job_id}")

    @property
    def _key(self) -> str:
        return self.secrets.claim("deferrals", _identify(self.received))


def _identify(received: ChangeReceived) -> str:
    """Returns a text that identifies a change. All messages about one commit of a pull request have the same text,
    since hosts send such a message again whenever somebody edits the pull request.
    """
    change = received.change
    if change.kind == "pull_request" and change.commit is not None:
        return f"{received.project_id} {change.repository} {change.pull_request} {change.commit}"
    return str(received.change_id)
