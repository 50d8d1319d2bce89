"""Commands on the triggers of jobs: set them, and start the builds that they ask for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from commands.builds import StartBuild
from commands.handler import Command, must_exist
from commands.jobs import must_be_free
from domain.builds import BUILD, AnyBuild
from domain.claims import CLAIM, Claim, ClaimTaken
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job, JobTriggersChanged
from domain.pools import Pool
from domain.templates import Template
from domain.triggers import CronTrigger, RepositoryChange, Triggers, evaluate, find_repository_path


@dataclass(frozen=True)
class SetTriggers(Command, of=JOB):
    """Replaces all triggers of a job."""

    job_id: int
    triggers: Triggers

    def decide(self, job: Job | None) -> Iterable[Event]:
        job = must_exist(job, f"job {self.job_id}")
        if self.triggers != job.triggers:
            must_be_free(job)
            yield JobTriggersChanged(job_id=self.job_id, project_id=job.project_id, triggers=self.triggers)


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
        if build is not None or claim.owner or job is None or job.deleted or not job.enabled or not self.is_wanted(job):
            return
        yield from super().decide(build, job, *named)
        yield ClaimTaken(claim=self.claim, owner=BUILD.at(self.build_id).name)

    def is_wanted(self, job: Job) -> bool:
        """Returns whether the job's triggers ask for the build."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StartBuildForChange(StartTriggeredBuild):
    """Queues the build that a change of a repository starts."""

    change: RepositoryChange

    def is_wanted(self, job: Job) -> bool:
        repository = find_repository_path(job.repository or self.project_repository)
        return evaluate(self.change, job.triggers, repository).starts


@dataclass(frozen=True, kw_only=True)
class StartScheduledBuild(StartTriggeredBuild):
    """Queues the build that a time of a time table starts."""

    time_table: CronTrigger
    scheduled_at: datetime

    def is_wanted(self, job: Job) -> bool:
        return self.time_table in job.triggers.cron and self.scheduled_at > job.scheduled_since.astimezone(UTC)
