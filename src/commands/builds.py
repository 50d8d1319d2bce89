"""What is asked of builds, and what follows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from commands.handler import Command
from domain.builds import (
    BUILD,
    AnyBuild,
    Assigned,
    BuildAssigned,
    BuildFinished,
    BuildMovedToTop,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    Deleted,
    Finished,
    Queued,
    Reason,
    Running,
    Verdict,
    status_of,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.dispatch import LEADER
from domain.jobs import JOB, Job
from domain.pools import POOL, Pool
from domain.templates import TEMPLATE, Template, overlaid
from store.tables.build_logs import EMPTY_LOG, LogEnd

MAX_ATTEMPTS = 3
"""How often a build is given to a node before its loss ends it."""


@dataclass(frozen=True)
class StartBuild(Command):
    """`env` and `secrets` go over the job's; None takes the job's branch and the newest commit."""

    build_id: int
    job_id: int
    branch: str | None = None
    commit_sha: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    priority: int = 5
    external: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return BUILD.at(self.build_id), JOB.at(self.job_id)

    def then_reads(self, build: AnyBuild | None, job: Job | None) -> Sequence[AnyStream]:
        """The job's template and pool, where it has them."""
        if build is not None or job is None:
            return ()
        template = () if job.pipeline_template_id is None else (TEMPLATE.at(job.pipeline_template_id),)
        pool = () if job.node_pool_id is None else (POOL.at(job.node_pool_id),)
        return (*template, *pool)

    def decide(self, build: AnyBuild | None, job: Job | None, *named: Template | Pool | None) -> Iterable[Event]:
        if build is not None:
            return
        if job is None or job.deleted:
            raise NotFound(f"There is no job {self.job_id}.")
        if not job.enabled:
            raise Conflict(f"Job {self.job_id} is disabled; enable it by PUT /api/v3/jobs/{self.job_id}.")
        if any(isinstance(state, Pool) and state.deleted for state in named):
            raise Conflict(
                f"Node pool {job.node_pool_id} of job {self.job_id} was deleted;"
                f" choose another by PUT /api/v3/jobs/{self.job_id}."
            )
        if any(isinstance(state, Template) and state.deleted for state in named):
            # The job took it in the very moment in which it was deleted; what it said is erased.
            raise Conflict(
                f"Pipeline template {job.pipeline_template_id} of job {self.job_id} was deleted;"
                f" choose another, or null, by PUT /api/v3/jobs/{self.job_id}."
            )
        configuration = job.configuration
        for template in named:
            if isinstance(template, Template):
                configuration = overlaid(template.configuration, configuration)
        if not configuration.command and not self.external:
            raise Conflict(
                f"Job {self.job_id} has no command yet; set one by PUT /api/v3/jobs/{self.job_id}/configuration."
            )
        ids: dict[str, Any] = {"build_id": self.build_id, "job_id": self.job_id, "project_id": job.project_id}
        yield BuildQueued(
            **ids,
            configuration=msgspec.structs.replace(
                configuration,
                env=configuration.env | self.env,
                secrets=configuration.secrets | self.secrets,
            ),
            branch=self.branch or job.default_branch,
            commit_sha=self.commit_sha,
            repository=job.repository,
            priority=self.priority,
            timeout_minutes=job.timeout_minutes,
            node_pool_id=job.node_pool_id,
            job_title=job.title,
            external=self.external,
            required_tags=job.required_tags,
            pool_labels=job.pool_labels,
            quarantine_mode=job.quarantine_mode,
        )
        if self.external:
            yield BuildStarted(**ids, node_id=None, attempt=1, commit_sha=self.commit_sha)


@dataclass(frozen=True)
class AssignBuild(Command):
    """Only holds while `leader` leads: the leader stream that it reads is its fence."""

    build_id: int
    node_id: int
    leader: str

    def reads(self) -> Sequence[AnyStream]:
        return BUILD.at(self.build_id), LEADER.at("leader")

    def decide(self, build: AnyBuild | None, leader: str) -> Iterable[Event]:
        if leader != self.leader:
            raise Conflict("Another dispatcher leads.")
        if not isinstance(build, Queued):
            return
        yield BuildAssigned(**ids_of(build), node_id=self.node_id, attempt=build.attempt + 1)


@dataclass(frozen=True)
class AcknowledgeBuild(Command):
    """The agent is about to run the first command."""

    build_id: int
    node_id: int
    attempt: int
    commit_sha: str | None

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        held = must_hold(build, self.build_id, self.node_id, self.attempt)
        if isinstance(held, Assigned):
            yield BuildStarted(
                **ids_of(held),
                node_id=self.node_id,
                attempt=self.attempt,
                commit_sha=self.commit_sha or held.queued.commit_sha,
            )


@dataclass(frozen=True)
class FinishBuild(Command):
    """The agent's last word. `reason` is the agent's; without one the exit code and the results decide."""

    build_id: int
    node_id: int
    attempt: int
    exit_code: int | None
    reason: Reason | None
    detail: str | None
    log: LogEnd = EMPTY_LOG

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        if isinstance(build, Finished) and (build.node_id, build.attempt) == (self.node_id, self.attempt):
            return
        held = must_hold(build, self.build_id, self.node_id, self.attempt)
        status, reason = verdict(self.exit_code, self.reason, held.failed, held.quarantined + held.known_issues)
        yield BuildFinished(
            **ids_of(held),
            status=status,
            reason=reason,
            detail=self.detail or (ignored_failures(held) if status == "passed" else None),
            exit_code=self.exit_code,
            log_lines=self.log.lines,
            log_digest=self.log.digest,
            node_id=self.node_id,
        )


@dataclass(frozen=True)
class FinishExternalBuild(Command):
    build_id: int
    status: Verdict

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        match build:
            case None | Deleted():
                raise NotFound(f"There is no build {self.build_id}.")
            case Finished() if build.status == self.status:
                return
            case Finished():
                raise Conflict(f"Build {self.build_id} has already {build.status}.")
            case Running(node_id=None):
                status, reason = self.status, None if self.status == "passed" else "reported"
                if status == "passed" and build.failed:
                    status, reason = "failed", "tests_failed"
                yield BuildFinished(
                    **ids_of(build),
                    status=status,
                    reason=reason,  # type: ignore[arg-type]
                    detail=ignored_failures(build) if status == "passed" else None,
                )
            case _:
                raise Conflict(
                    f"Build {self.build_id} runs on a node of this server; it finishes by itself, or stop it."
                )


@dataclass(frozen=True)
class AbortBuild(Command):
    """Ends a build that has not finished: a user stopped it, or its job or node was removed."""

    build_id: int
    reason: Reason
    detail: str | None = None
    logs: Mapping[int, LogEnd] = field(default_factory=dict)
    """The ends of the build's logs, by attempt."""

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        match build:
            case None | Deleted():
                raise NotFound(f"There is no build {self.build_id}.")
            case Finished():
                raise Conflict(f"Build {self.build_id} has already {build.status}.")
            case Queued() | Assigned() | Running():
                log = self.logs.get(build.attempt, EMPTY_LOG)
                yield BuildFinished(
                    **ids_of(build),
                    status="aborted",
                    reason=self.reason,
                    detail=self.detail,
                    log_lines=log.lines,
                    log_digest=log.digest,
                    node_id=node_of(build),
                )


@dataclass(frozen=True)
class MoveBuildToTop(Command):
    build_id: int

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        match build:
            case None | Deleted():
                raise NotFound(f"There is no build {self.build_id}.")
            case Queued():
                yield BuildMovedToTop(**ids_of(build))
            case Assigned():
                raise Conflict(f"Build {self.build_id} has just been assigned to a node, so it waits no more.")
            case Running() | Finished():
                raise Conflict(f"Build {self.build_id} is {status_of(build)}; only a queued build can be moved.")


@dataclass(frozen=True)
class LoseBuild(Command):
    """Its node did not acknowledge it or is gone: back to the queue, or aborted after MAX_ATTEMPTS."""

    build_id: int
    node_id: int
    attempt: int
    reason: str
    log: LogEnd = EMPTY_LOG

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        if not isinstance(build, Assigned | Running) or build.node_id != self.node_id or build.attempt != self.attempt:
            return
        if self.reason == "not_acknowledged" and isinstance(build, Running):
            return
        if build.attempt >= MAX_ATTEMPTS:
            yield BuildFinished(
                **ids_of(build),
                status="aborted",
                reason="agent_lost",
                detail=f"{MAX_ATTEMPTS} nodes lost this build one after the other.",
                log_lines=self.log.lines,
                log_digest=self.log.digest,
                node_id=self.node_id,
            )
            return
        reason = "not_acknowledged" if self.reason == "not_acknowledged" else "agent_lost"
        yield BuildRequeued(**ids_of(build), node_id=self.node_id, attempt=self.attempt, reason=reason)  # type: ignore[arg-type]


def must_hold(build: AnyBuild | None, build_id: int, node_id: int | None, attempt: int) -> Assigned | Running:
    """The build, if this node holds it in this attempt; else Conflict, which tells an agent to drop it."""
    match build:
        case None | Deleted():
            raise NotFound(f"There is no build {build_id}.")
        case Assigned() | Running() if build.node_id == node_id and build.attempt == attempt:
            return build
        case _:
            raise Conflict(f"Build {build_id} is {status_of(build)} and not this node's (any more), attempt {attempt}.")


def verdict(
    exit_code: int | None, reason: Reason | None, failed: int, ignored: int = 0
) -> tuple[Verdict, Reason | None]:
    """What the agent saw and what the reports say, reconciled: a lost report never turns a build green.

    Test runners exit with 1 when tests failed and with something else when anything else is wrong. So a 1 is explained
    by the `ignored` failures, which do not count, if there are any.
    """
    if reason == "agent_stopped":
        return "aborted", reason
    if reason is not None:
        return "failed", reason
    if failed:
        return "failed", "tests_failed"
    if exit_code == 0 or (exit_code == 1 and ignored > 0):
        return "passed", None
    return "failed", "command_failed"


def ignored_failures(build: AnyBuild) -> str | None:
    """What a passed build says of its failures in quarantine."""
    match build.quarantined:
        case 0:
            return None
        case 1:
            return "1 quarantined failure was ignored."
        case many:
            return f"{many:,} quarantined failures were ignored."


def node_of(build: AnyBuild) -> int | None:
    return build.node_id if isinstance(build, Assigned | Running | Finished) else None


def ids_of(build: AnyBuild) -> dict[str, Any]:
    queued = build.queued
    return {"build_id": queued.build_id, "job_id": queued.job_id, "project_id": queued.project_id}
