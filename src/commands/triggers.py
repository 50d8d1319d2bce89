"""Commands on the triggers of jobs: set them, and start the builds that they ask for."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from commands.builds import StartBuild
from commands.handler import Command, Receipt, must_exist
from commands.jobs import must_be_free
from domain.builds import BUILD, AnyBuild
from domain.claims import CLAIM, Claim, ClaimTaken
from domain.core.errors import Invalid
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job, JobTriggersChanged
from domain.needs import find_circle
from domain.pools import Pool
from domain.templates import Template
from domain.triggers import CronTrigger, RepositoryChange, Triggers, evaluate, find_repository_path


class UnreadJobs(Exception):
    """The command has not read all jobs that the needed jobs need in turn. `job_ids` lists the missing ones."""

    def __init__(self, job_ids: Sequence[int]) -> None:
        super().__init__(f"jobs {job_ids} are missing")
        self.job_ids = job_ids


@dataclass(frozen=True)
class SetTriggers(Command):
    """Replaces all triggers of a job.

    `decide` raises UnreadJobs if `more_jobs` lacks a job that the needed jobs need in turn, so execute the command by
    `set_triggers`.
    """

    job_id: int
    triggers: Triggers
    more_jobs: Sequence[int] = ()
    """Ids of further jobs to read. With them, the command finds jobs that need each other in a circle."""

    def reads(self) -> Sequence[AnyStream]:
        return [JOB.at(job_id) for job_id in (self.job_id, *self.triggers.needs, *self.more_jobs)]

    def decide(self, job: Job | None, *others: Job | None) -> Iterable[Event]:
        job = must_exist(job, f"job {self.job_id}")
        if self.triggers == job.triggers:
            return
        must_be_free(job)
        needs = self.triggers.needs
        for number, (need, other) in enumerate(zip(needs, others, strict=False)):
            if need == self.job_id:
                raise Invalid.field(f"needs[{number}]", "is the job itself")
            if other is None or other.deleted or other.project_id != job.project_id:
                raise Invalid.field(f"needs[{number}]", f"there is no job {need} in project {job.project_id}")
        graph = {other.job_id: other.triggers.needs for other in others if other is not None} | {self.job_id: needs}
        if unread := {need for needed in graph.values() for need in needed} - graph.keys() - {*self.more_jobs}:
            raise UnreadJobs(sorted(unread))
        if (circle := find_circle(graph)) is not None:
            raise Invalid.field("needs", f"is a circle: {' needs '.join(f'job {job_id}' for job_id in circle)}")
        yield JobTriggersChanged(job_id=self.job_id, project_id=job.project_id, triggers=self.triggers)


async def set_triggers(execute: Callable[[SetTriggers], Awaitable[Receipt]], command: SetTriggers) -> Receipt:
    """Executes the command, and lets it read all jobs that the needed jobs need in turn."""
    while True:
        try:
            return await execute(command)
        except UnreadJobs as unread:
            command = replace(command, more_jobs=(*command.more_jobs, *unread.job_ids))


@dataclass(frozen=True, kw_only=True)
class StartTriggeredBuild(StartBuild):
    """Queues a build that a trigger asks for. The command takes a claim together with the build, so that a trigger
    cannot start two builds.

    Does nothing if the trigger has already started its build, or if the job's triggers no longer ask for the build.
    """

    claim: str

    def reads(self) -> Sequence[AnyStream]:
        return (*super().reads(), CLAIM.at(self.claim))

    def then_reads(self, build: AnyBuild | None, job: Job | None, claim: Claim) -> Sequence[AnyStream]:  # type: ignore[override]
        return () if claim.owner else super().then_reads(build, job)

    def decide(  # type: ignore[override]
        self, build: AnyBuild | None, job: Job | None, claim: Claim, *named: Template | Pool | None
    ) -> Iterable[Event]:
        if build is not None or claim.owner or job is None or job.deleted or not self.is_wanted(job):
            return
        yield from super().decide(build, job, *named)
        yield ClaimTaken(claim=self.claim, owner=BUILD.at(self.build_id).name)

    def is_wanted(self, job: Job) -> bool:
        """Returns whether the job still asks for the build."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StartBuildForChange(StartTriggeredBuild):
    """Queues the build that a change of a repository starts."""

    change: RepositoryChange

    def is_wanted(self, job: Job) -> bool:
        repository = find_repository_path(job.repository or self.project_repository)
        wants_it = job.enabled and not job.triggers.needs
        return wants_it and evaluate(self.change, job.triggers, repository).starts


@dataclass(frozen=True, kw_only=True)
class StartDeferredBuild(StartTriggeredBuild):
    """Queues the build of a job that had to wait until other jobs had passed for a change. Whether the change starts
    the job was decided when the change was received.
    """

    def is_wanted(self, job: Job) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class StartScheduledBuild(StartTriggeredBuild):
    """Queues the build that a time table starts at `scheduled_at`."""

    time_table: CronTrigger
    scheduled_at: datetime

    def is_wanted(self, job: Job) -> bool:
        return (
            job.enabled
            and self.time_table in job.triggers.cron
            and self.scheduled_at > job.scheduled_since.astimezone(UTC)
        )
