"""Commands on builds: start, finish, abort."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from commands.build_assignment import must_hold
from commands.build_caches import find_cache_ref
from commands.configurations import shorten_branch
from commands.handler import Command, Receipt, must_exist
from commands.selected_tests import describe_not_run
from commands.untrusted_builds import withhold_secrets
from commands.verdicts import (
    count_unloaded,
    decide_verdict,
    describe_empty,
    describe_ignored,
    describe_lost_tests,
    describe_missing,
    describe_unexcused,
    describe_unreadable,
    find_excused_exit_codes,
    find_reported_verdict,
    join_sentences,
)
from domain.build_reasons import Reason
from domain.builds import (
    BUILD,
    AnyBuild,
    Assigned,
    BuildFinished,
    BuildQueued,
    BuildStarted,
    DeletedBuild,
    Finished,
    Queued,
    Running,
    Verdict,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Configuration, Job
from domain.matrix import SHARD_NAME, SHARDS_VARIABLE, count_shards, expand, fill_tags, variable_of
from domain.pools import POOL, Pool
from domain.templates import TEMPLATE, Template, overlaid
from domain.triggers import BuildTrigger
from store.log.ids import Ids
from store.tables.build_logs import EMPTY_LOG, LogEnd

EXTERNAL_ATTEMPT = 1
"""Number of the only attempt of an external build."""


class MissingIds(Exception):
    """The job's matrix has more combinations than the command has build ids."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} ids are missing")
        self.count = count


def needs_checkout(queued: BuildQueued) -> bool:
    """Returns whether the server must know a repository for the build: True if a change started the build. The command
    of a build that a user started may check out the commit itself.
    """
    return queued.trigger is not None and queued.trigger.is_change


def must_have_repository(queued: BuildQueued, project_repository: str) -> None:
    """Raises Conflict if a change started the build and there is no repository to check out from. Otherwise the build
    would run in an empty folder, and its verdict would count for the commit.
    """
    if needs_checkout(queued) and not (queued.repository or project_repository):
        raise Conflict(
            f"{describe_no_repository(queued.job_id)}: give the job a `repository` by PUT"
            f" /api/v3/jobs/{queued.job_id}, or the project an SCM endpoint by POST /api/v3/scm."
        )


def describe_no_repository(job_id: int) -> str:
    return f"Job {job_id} has no repository and its project no SCM endpoint, so nothing can be checked out"


@dataclass(frozen=True)
class StartBuild(Command):
    """Queues a build; for a job with a matrix, one build for each combination, all in one append. `env` and `secrets`
    override those of the job. Without `branch` and `commit_sha`, the build uses the newest commit of the job's default
    branch.

    `decide` raises MissingIds if `more_ids` has too few ids, so execute the command by `start_build`.
    """

    build_id: int
    job_id: int
    branch: str | None = None
    commit_sha: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    priority: int = 5
    external: bool = False
    by_admin: bool = False
    """Whether an admin starts the build: some nodes run only builds that an admin started."""
    trigger: BuildTrigger | None = None
    more_ids: Sequence[int] = ()
    """Ids of the second and later builds of a matrix."""
    project_repository: str = ""
    """Address of the repository of the project's SCM endpoint; empty if the project has no endpoint."""

    fork: str = ""
    """Path that the fork of the pull request has at its host, such as `alice/shop`; empty if there is no fork, or if
    the host does not report the path.
    """
    fork_url: str = ""
    """Address of the fork that has the commit; empty if the repository of the job or project has the commit."""

    def reads(self) -> Sequence[AnyStream]:
        return BUILD.at(self.build_id), JOB.at(self.job_id)

    def then_reads(self, build: AnyBuild | None, job: Job | None) -> Sequence[AnyStream]:
        """Returns the streams of the job's template and pool."""
        if build is not None or job is None:
            return ()
        template = () if job.pipeline_template_id is None else (TEMPLATE.at(job.pipeline_template_id),)
        pool = () if job.node_pool_id is None else (POOL.at(job.node_pool_id),)
        return (*template, *pool)

    def decide(self, build: AnyBuild | None, job: Job | None, *named: Template | Pool | None) -> Iterable[Event]:
        if build is not None:
            return
        job = must_exist(job, f"job {self.job_id}")
        if not job.enabled:
            raise Conflict(f"Job {self.job_id} is disabled; enable it by PUT /api/v3/jobs/{self.job_id}.")
        if any(isinstance(state, Pool) and not state.serves(job.project_id) for state in named):
            raise Conflict(
                f"Job {self.job_id} of project {job.project_id} may not use node pool {job.node_pool_id} any more,"
                f" which was deleted or is not shared; choose another by PUT /api/v3/jobs/{self.job_id}."
            )
        if self.is_untrusted and any(isinstance(state, Pool) and not state.untrusted for state in named):
            raise Conflict(
                f"Node pool {job.node_pool_id} of job {self.job_id} runs no builds of pull requests from forks: an"
                f' admin allows it by PUT /api/v3/node-pools/{job.node_pool_id} {{"untrusted": true}}.'
            )
        if any(isinstance(state, Template) and state.deleted for state in named):
            # The job was given the template while the template was being deleted, and its contents are erased.
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
        if hidden := sorted(self.env.keys() & {*configuration.secrets, *self.secrets}):
            raise Conflict(
                f"The variable {hidden[0]} of `env` is also a secret, whose value the build would get instead: leave it"
                " out, or give it in `secrets`."
            )
        combinations = [] if configuration.matrix is None or self.external else expand(configuration.matrix)
        if len(combinations) > 1 + len(self.more_ids):
            raise MissingIds(len(combinations) - 1 - len(self.more_ids))
        configuration = msgspec.structs.replace(
            configuration,
            env=configuration.env | self.env,
            secrets=configuration.secrets | self.secrets,
            matrix=None,
        )
        if self.is_untrusted:
            configuration = withhold_secrets(configuration)
        branch, is_chosen = self.branch or job.default_branch, bool(self.commit_sha or self.env or self.secrets)
        if self.trigger is None:
            branch = shorten_branch(branch, self.external)
        more = {
            "branch": branch,
            "cache_ref": find_cache_ref(branch, self.trigger, is_chosen),
            "job_title": job.title,
            "untrusted": self.is_untrusted,
            "off_default_branch": self.is_untrusted or branch != shorten_branch(job.default_branch),
            "repository": self.fork_url or job.repository,
        }
        queued = self.event(BuildQueued, job, configuration=configuration, **more)
        must_have_repository(queued, self.project_repository)
        if not combinations:
            if not self.external:
                self.fill_tags(job, {})  # no node has a tag that stands for a value of a matrix
            yield queued
        shards = count_shards(combinations)
        for build_id, values in zip((self.build_id, *self.more_ids), combinations, strict=False):
            yield self.event(
                BuildQueued,
                job,
                configuration=self.with_values(configuration, values, shards),
                build_id=build_id,
                group_id=self.build_id,
                matrix=values,
                required_tags=self.fill_tags(job, values),
                **more,
            )
        if self.external:
            yield self.event(BuildStarted, job, node_id=None, attempt=EXTERNAL_ATTEMPT)

    @property
    def is_untrusted(self) -> bool:
        return self.trigger is not None and self.trigger.fork

    def with_values(self, configuration: Configuration, values: Mapping[str, str], shards: int) -> Configuration:
        """Returns `configuration` with the values of a combination as variables. `shards` is the number of shards of
        the matrix. Raises Conflict if `self.env` or a secret already sets one of these variables.
        """
        variables = {variable_of(name): value for name, value in values.items()}
        if SHARD_NAME in values:
            variables[SHARDS_VARIABLE] = str(shards)
        if taken := sorted(variables.keys() & {*self.env, *configuration.secrets}):
            raise Conflict(
                f"The matrix of job {self.job_id} sets the variable {taken[0]}: leave it out of env, and of the job's"
                " secrets."
            )
        return msgspec.structs.replace(configuration, env=configuration.env | variables)

    def fill_tags(self, job: Job, values: Mapping[str, str]) -> list[str]:
        try:
            return fill_tags(job.required_tags, values)
        except KeyError as missing:
            raise Conflict(
                f"A required tag of job {self.job_id} stands for the value {missing.args[0]} of the matrix, which the"
                " matrix or one of its combinations does not have: change required_tags, or the matrix."
            ) from None


async def start_build(execute: Callable[[StartBuild], Awaitable[Receipt]], ids: Ids, command: StartBuild) -> Receipt:
    """Executes `command`. If the job's matrix needs more build ids, draws them and executes the command again."""
    while True:
        try:
            return await execute(command)
        except MissingIds as missing:
            first = await ids.draw_range("builds", missing.count)
            command = replace(command, more_ids=(*command.more_ids, *range(first, first + missing.count)))


@dataclass(frozen=True)
class FinishBuild(Command, of=BUILD):
    """Ends a build that an agent ran. If the agent gives no `reason`, the exit code and the results decide the
    verdict.
    """

    build_id: int
    node_id: int
    attempt: int
    exit_code: int | None
    reason: Reason | None
    detail: str | None
    log: LogEnd = EMPTY_LOG
    ignore_unreadable: bool = False
    """Whether the build may pass with unreadable reports. Simulations set this for builds that passed, since older
    releases let builds with unreadable reports pass.
    """
    excuse_pytest: bool = False
    """Whether failures in quarantine excuse an exit code of pytest. Only simulations set this: pytest itself ends with
    0 if all failures are in quarantine, but in the real build it did not know the simulated quarantine.
    """
    has_repository: bool = True
    """Whether the job or its project has a repository, so that a commit can be checked out."""

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        if isinstance(build, Finished) and (build.node_id, build.attempt) == (self.node_id, self.attempt):
            return
        held = must_hold(build, self.build_id, self.node_id, self.attempt)
        failed = held.failed or count_unloaded(held)
        unreadable, not_run = describe_unreadable(held), describe_not_run(held)
        excused = find_excused_exit_codes(held, excuse_pytest=self.excuse_pytest)
        status, reason = decide_verdict(self.exit_code, self.reason, failed, excused, not_run is not None)
        if status == "passed" and unreadable and not self.ignore_unreadable:
            status, reason = "failed", "reports_unreadable"
        yield self.event(
            BuildFinished,
            **held.ids,
            status=status,
            reason=reason,
            detail=join_sentences(
                self.detail or (describe_ignored(held) if status == "passed" else describe_unexcused(held, reason)),
                not_run if reason == "selected_tests_not_run" else None,
                unreadable,
                describe_missing(held),
                None if not_run else describe_empty(held),
                describe_lost_tests(held),
                None
                if self.has_repository or not held.queued.commit_sha
                else f"{describe_no_repository(held.queued.job_id)}.",
            ),
            log_lines=self.log.lines,
            log_digest=self.log.digest,
        )


@dataclass(frozen=True)
class FinishExternalBuild(Command, of=BUILD):
    """Ends an external build with the verdict that its pipeline reports."""

    build_id: int
    status: Verdict
    ignore_unreadable: bool = False
    """Whether a build that the pipeline reports as passed may pass with unreadable reports."""
    log: LogEnd = EMPTY_LOG

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        match build:
            case None | DeletedBuild():
                raise NotFound(f"There is no build {self.build_id}.")
            case Finished() if build.queued.external:
                if not self.repeats(build):
                    raise Conflict(f"Build {self.build_id} has already {build.status}.")
            case Finished():
                raise Conflict(f"Build {self.build_id} ran on a node of this server; it has {build.status}.")
            case Running(node_id=None):
                status, reason = self.status, None if self.status == "passed" else "reported"
                if status == "passed" and (build.failed or count_unloaded(build)):
                    status, reason = "failed", "tests_failed"
                unreadable = describe_unreadable(build)
                if status == "passed" and unreadable and not self.ignore_unreadable:
                    status, reason = "failed", "reports_unreadable"
                yield BuildFinished(
                    **build.ids,
                    status=status,
                    reason=reason,  # type: ignore[arg-type]
                    detail=join_sentences(
                        describe_ignored(build) if status == "passed" else describe_unexcused(build, reason),
                        unreadable,
                        describe_empty(build),
                        describe_lost_tests(build),
                    ),
                    log_lines=self.log.lines,
                    log_digest=self.log.digest,
                )
            case _:
                raise Conflict(
                    f"Build {self.build_id} runs on a node of this server; it finishes by itself, or stop it."
                )

    def repeats(self, build: Finished) -> bool:
        """Returns whether the pipeline has already reported the verdict `status`: it is the status of the build, or was
        overruled by failed tests or unreadable reports. With `ignore_unreadable`, returns False for a build that failed
        because of unreadable reports.
        """
        if build.reason == "reports_unreadable" and self.ignore_unreadable:
            return False
        return self.status in (build.status, find_reported_verdict(build))


@dataclass(frozen=True)
class AbortBuild(Command, of=BUILD):
    """Aborts a build that has not finished: a user stopped it, or its job or node was deleted."""

    build_id: int
    reason: Reason
    detail: str | None = None
    logs: Mapping[int, LogEnd] = field(default_factory=dict)
    """Attempt -> number of lines and hash of the attempt's build log."""

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        match build:
            case None | DeletedBuild():
                raise NotFound(f"There is no build {self.build_id}.")
            case Finished():
                raise Conflict(f"Build {self.build_id} has already {build.status}.")
            case Queued() | Assigned() | Running():
                log = self.logs.get(build.attempt, EMPTY_LOG)
                yield self.event(
                    BuildFinished,
                    **build.ids,
                    status="aborted",
                    log_lines=log.lines,
                    log_digest=log.digest,
                    node_id=None if isinstance(build, Queued) else build.node_id,
                )
