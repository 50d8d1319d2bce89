"""Commands on existing builds: restart, move to the top of the queue, comment, pin, delete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from commands.builds import must_have_repository
from commands.handler import Command, must_exist
from commands.selected_tests import describe_not_run
from commands.verdicts import (
    describe_fail_fast,
    describe_late,
    describe_lost_tests,
    describe_missing,
    describe_unexplained,
    describe_unloaded,
    describe_unreadable,
    join_sentences,
)
from domain.build_groups import find_counting_statuses, find_worst
from domain.build_reasons import Reason
from domain.builds import (
    BUILD,
    AnyBuild,
    Assigned,
    BuildApproved,
    BuildCommented,
    BuildDeleted,
    BuildFinished,
    BuildMovedToTop,
    BuildPinned,
    BuildQueued,
    BuildUnpinned,
    DeletedBuild,
    Finished,
    Queued,
    Running,
    status_of,
)
from domain.claims import CLAIM, Claim, release_claim
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job
from domain.pools import POOL, Pool
from domain.templates import TEMPLATE, Template, overlaid

ENDED_EARLY: frozenset[Reason | None] = frozenset(
    {
        "setup_failed",
        "checkout_failed",
        "timeout",
        "agent_lost",
        "not_acknowledged",
        "stopped_by_user",
        "agent_stopped",
        "node_removed",
        "job_deleted",
        "superseded",
        "pull_request_closed",
    }
)
"""Reasons that end a build before its command has run to the end."""


@dataclass(frozen=True)
class RestartBuild(Command):
    """Queues a new build of the same commit with the same configuration. With `test_ids`, the new build runs only these
    tests.

    The restart of an untrusted build runs the same commit. So if the build was approved, its restart is approved, too.
    If not, the restart keeps the trigger: it then ends, like other unapproved builds, when the pull request is closed
    or gets a newer commit.
    """

    build_id: int
    restarted_from: int
    job_id: int
    test_ids: tuple[str, ...] | None = None
    which: str = ""
    """Kind of the tests in `test_ids`: `failed` or `flaky`."""
    by_admin: bool = False
    """Whether an admin restarts the build, whoever queued the original build."""
    project_repository: str | None = None
    """Address of the repository of the project's SCM endpoint; empty without an endpoint. None if the caller does not
    know it: then a missing repository is not refused.
    """

    def reads(self) -> Sequence[AnyStream]:
        return BUILD.at(self.build_id), BUILD.at(self.restarted_from), JOB.at(self.job_id)

    def then_reads(self, build: AnyBuild | None, source: AnyBuild | None, job: Job | None) -> Sequence[AnyStream]:
        """Returns the stream of the pool of `source`, the build that is restarted. If `source` is an external build,
        also returns the stream of its job's template.
        """
        if source is None or job is None:
            return ()
        queued, template_id = source.queued, job.pipeline_template_id
        pool = () if queued.node_pool_id is None else (POOL.at(queued.node_pool_id),)
        template = () if template_id is None or not queued.external else (TEMPLATE.at(template_id),)
        return (*pool, *template)

    def decide(
        self, build: AnyBuild | None, source: AnyBuild | None, job: Job | None, *named: Pool | Template | None
    ) -> Iterable[Event]:
        if build is not None:
            return
        if source is None or isinstance(source, DeletedBuild) or job is None or job.deleted:
            raise NotFound(f"There is no build {self.restarted_from}.")
        if not isinstance(source, Finished):
            raise Conflict(f"Build {self.restarted_from} is {status_of(source)}; only a finished one can be restarted.")
        if not job.enabled:
            raise Conflict(f"Job {job.job_id} is disabled; enable it by PUT /api/v3/jobs/{job.job_id}.")
        if self.test_ids == ():
            raise Conflict(f"Build {self.restarted_from} has no {self.which} tests, so there is nothing to run again.")
        if self.which == "failed" and self.test_ids and (missing := describe_lost_results(source)):
            raise Conflict(
                f"Not all tests of build {self.restarted_from} have a result, so that running only its failed tests"
                f" would leave others out: {missing} Restart it without failed_only."
            )
        queued = source.queued
        if any(isinstance(state, Pool) and not state.serves(job.project_id) for state in named):
            raise Conflict(
                f"Build {self.restarted_from} of project {job.project_id} may not use node pool {queued.node_pool_id}"
                " any more, which was deleted or is not shared; start a new build by POST /api/v3/builds/start."
            )
        configuration = queued.configuration
        if queued.external:
            # An external build has no command of its own, so the new build runs the job's command.
            configuration = job.configuration
            for state in named:
                if isinstance(state, Template) and not state.deleted:
                    configuration = overlaid(state.configuration, configuration)
            if configuration.matrix is not None:
                raise Conflict(
                    f"External build {self.restarted_from} has no values of the matrix that job {job.job_id} has; start"
                    " new builds by POST /api/v3/builds/start."
                )
        if self.project_repository is not None:
            must_have_repository(queued, self.project_repository)
        if not configuration.command:
            raise Conflict(
                f"Job {job.job_id} has no command to run; set one by PUT /api/v3/jobs/{job.job_id}/configuration."
            )
        commit_sha = source.commit_sha or queued.commit_sha
        yield self.event(
            BuildQueued,
            queued,
            configuration=configuration,
            commit_sha=commit_sha,
            external=False,
            trigger=queued.trigger if queued.untrusted and source.approved_by is None else None,
            by_admin=self.by_admin and not queued.untrusted,
        )
        if source.approved_by is not None:
            yield self.event(BuildApproved, queued, commit_sha=commit_sha)


@dataclass(frozen=True)
class MoveBuildToTop(Command, of=BUILD):
    build_id: int

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        match build:
            case None | DeletedBuild():
                raise NotFound(f"There is no build {self.build_id}.")
            case Queued():
                yield BuildMovedToTop(**build.ids)
            case Assigned():
                raise Conflict(f"Build {self.build_id} has just been assigned to a node, so it waits no more.")
            case Running() | Finished():
                raise Conflict(f"Build {self.build_id} is {status_of(build)}; only a queued build can be moved.")


@dataclass(frozen=True)
class SupersedeBuild(Command, of=BUILD):
    """Ends a build that is still queued, because its branch has a newer change. Does nothing if the build was already
    assigned to a node, or has ended.
    """

    build_id: int
    change_id: int
    """Id of the newer change. It may be smaller than that of the build's change, since messages may come late."""
    only_unapproved: bool = False
    """If True, ends the build only while it waits for an approval."""

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        if not isinstance(build, Queued) or (trigger := build.queued.trigger) is None:
            return
        if self.only_unapproved and not build.awaits_approval:
            return
        if trigger.change_id not in (None, self.change_id):
            detail = (
                f"{build.queued.branch} has a newer commit, so nobody needs to approve this one."
                if self.only_unapproved
                else f"A newer change of {build.queued.branch} has started another build."
            )
            yield BuildFinished(**build.ids, status="aborted", reason="superseded", detail=detail)


@dataclass(frozen=True)
class EndBuildOfClosedPullRequest(Command, of=BUILD):
    """Ends a build of a closed pull request if no node has the build yet. Also releases the claim that allows the job
    only one build of the commit. So if somebody opens the pull request again, the job gets another build.
    """

    build_id: int
    change_id: int
    """Id of the change that reports the end of the pull request."""
    claim: str

    def then_reads(self, build: AnyBuild | None) -> Sequence[AnyStream]:
        return (CLAIM.at(self.claim),)

    def decide(self, build: AnyBuild | None, claim: Claim) -> Iterable[Event]:
        if not isinstance(build, Queued) or (trigger := build.queued.trigger) is None:
            return
        if trigger.change_id is not None and trigger.change_id < self.change_id:
            detail = f"Pull request {trigger.pull_request} was closed before a node ran the build."
            yield BuildFinished(**build.ids, status="aborted", reason="pull_request_closed", detail=detail)
            yield from release_claim(self.claim, claim, BUILD.at(build.queued.group_id or self.build_id).name)


@dataclass(frozen=True)
class CommentOnBuild(Command, of=BUILD):
    build_id: int
    comment_id: int
    text: str
    author: int

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        found = must_exist(build, f"build {self.build_id}")
        if self.comment_id not in found.comments:
            yield self.event(BuildCommented, **found.ids)


@dataclass(frozen=True)
class PinBuild(Command, of=BUILD):
    build_id: int
    pinned: bool

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        found = must_exist(build, f"build {self.build_id}")
        if found.pinned != self.pinned:
            yield BuildPinned(**found.ids) if self.pinned else BuildUnpinned(**found.ids)


@dataclass(frozen=True)
class DeleteBuild(Command, of=BUILD):
    """Deletes a build for good, by destroying its data key. Raises Conflict if the status of the build's group would be
    better without the build. For a build without a group, the builds that are restarts of one original build count as
    the group.
    """

    build_id: int
    reason: Literal["requested", "retention"] = "requested"
    others: Sequence[int] = ()
    """Ids of the other builds of the group; for a build without a group, of all builds that restart the same original
    build directly or indirectly, and of the original.
    """

    def then_reads(self, build: AnyBuild | None) -> Sequence[AnyStream]:
        return [BUILD.at(build_id) for build_id in self.others]

    def decide(self, build: AnyBuild | None, *others: AnyBuild | None) -> Iterable[Event]:
        match build:
            case None | DeletedBuild():
                raise NotFound(f"There is no build {self.build_id}.")
            case Queued() | Assigned() | Running():
                raise Conflict(f"Build {self.build_id} is {status_of(build)}; stop it first.")
            case Finished(pinned=True):
                raise Conflict(
                    f"Build {self.build_id} is kept for ever;"
                    f" first take that back by DELETE /api/v3/builds/{self.build_id}/keep-forever."
                )
            case Finished():
                _check_status_without(build, [other for other in others if other is not None])
                results = [(report.first_result_id, report.cases) for report in build.reports]
                yield BuildDeleted(**build.ids, results=results, reason=self.reason)


def _check_status_without(build: Finished, others: Sequence[AnyBuild]) -> None:
    """Raises Conflict if the status of `build` and `others` together would be better without `build`."""
    group_id = build.queued.group_id
    kept = others if group_id is not None else _without_restarts(build, others)
    after = find_counting_statuses(kept)
    if not after:
        return
    before = find_worst(find_counting_statuses([build, *others]))
    if find_worst([before, *after]) != find_worst(after):
        first_id = min(other.build_id for other in kept if not other.deleted)
        which = f"build {first_id} and its restarts" if group_id is None else f"group {group_id}"
        raise Conflict(
            f"Without build {build.build_id}, the status of {which} would be {find_worst(after)} instead of {before}:"
            " delete the other builds first, the oldest one before its restarts, or restart this one."
        )


def _without_restarts(build: AnyBuild, others: Sequence[AnyBuild]) -> list[AnyBuild]:
    """Returns `others` without the direct and indirect restarts of `build`, which nothing connects with the older
    builds once `build` is deleted.
    """
    gone, kept = {build.build_id}, list[AnyBuild]()
    for other in sorted(others, key=lambda other: other.build_id):
        if other.queued.restarted_from in gone:
            gone.add(other.build_id)
        else:
            kept.append(other)
    return kept


def describe_lost_results(build: Finished) -> str | None:
    """Returns sentences about why results of a finished build may be missing; None if no results seem to be missing."""
    is_early = build.status == "aborted" or build.reason in ENDED_EARLY
    is_by_plugin = all(report.explained_exit_code is not None for report in build.counting_reports)
    return join_sentences(
        f"it ended early ({build.reason})." if is_early else None,
        None if is_early else describe_unexplained(build),
        None if is_by_plugin else describe_fail_fast(build),
        describe_unloaded(build),
        describe_unreadable(build),
        describe_missing(build),
        describe_lost_tests(build),
        describe_late([report.path for report in build.reports if report.late]),
        describe_not_run(build),
    )
