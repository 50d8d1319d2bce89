"""Commands on builds: start, finish, abort."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from commands.build_assignment import must_hold
from commands.handler import Command, must_exist
from commands.selected_tests import describe_not_run
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
    Reason,
    Running,
    Verdict,
    find_reported_verdict,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job
from domain.pools import POOL, Pool
from domain.reports import UNEXPLAINED, Report
from domain.templates import TEMPLATE, Template, overlaid
from store.tables.build_logs import EMPTY_LOG, LogEnd

TEST_FAILURE_EXIT_CODES = "TESTHIDE_TEST_FAILURE_EXIT_CODES"
"""Environment variable of a job: its test runner's exit codes when tests failed, separated by commas. Default: 1."""


@dataclass(frozen=True)
class StartBuild(Command):
    """Queues a build. `env` and `secrets` override those of the job. Without a branch and a commit, the build uses the
    job's branch and its newest commit.
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
    """Whether an admin starts the build: some nodes run no others."""

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
        yield self.event(
            BuildQueued,
            job,
            configuration=msgspec.structs.replace(
                configuration,
                env=configuration.env | self.env,
                secrets=configuration.secrets | self.secrets,
            ),
            branch=self.branch or job.default_branch,
            job_title=job.title,
        )
        if self.external:
            yield self.event(BuildStarted, job, node_id=None, attempt=1)


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
    """Whether the build may pass with unreadable reports. Simulations set it for builds that passed in older
    releases.
    """
    excuse_pytest: bool = False
    """Whether failures in quarantine excuse the exit code that a report of pytest explains. Simulations set it, since
    pytest did not know their quarantine.
    """

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
                self.detail or (ignored_failures(held) if status == "passed" else describe_unexcused(held, reason)),
                not_run if reason == "selected_tests_not_run" else None,
                unreadable,
                describe_missing(held),
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
    """Whether a build that the pipeline reports as passed may pass although results of its reports are missing."""

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
                        ignored_failures(build) if status == "passed" else describe_unexcused(build, reason), unreadable
                    ),
                )
            case _:
                raise Conflict(
                    f"Build {self.build_id} runs on a node of this server; it finishes by itself, or stop it."
                )

    def repeats(self, build: Finished) -> bool:
        """Returns whether the command repeats what was recorded before: its verdict is that of the build, or the one
        that the pipeline reported first and that failed tests or unreadable reports overruled.
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
    """Attempt -> end of its build log."""

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


def decide_verdict(
    exit_code: int | None,
    reason: Reason | None,
    failed: int,
    excused: Collection[int] = (),
    lacks_selected_tests: bool = False,
) -> tuple[Verdict, Reason | None]:
    """Returns the verdict and its reason. A `reason` from the agent decides first, then failed tests, then the exit
    code, then selected tests without a result.

    `failed` is the number of failures that count. `excused` lists the exit codes that failures which do not count
    explain. `lacks_selected_tests` says that a selected test has no result.
    """
    if reason == "agent_stopped":
        return "aborted", reason
    if reason is not None:
        return "failed", reason
    if failed:
        return "failed", "tests_failed"
    if exit_code != 0 and exit_code not in excused:
        return "failed", "command_failed"
    if lacks_selected_tests:
        return "failed", "selected_tests_not_run"
    return "passed", None


def find_excused_exit_codes(build: AnyBuild, *, excuse_pytest: bool = False) -> set[int]:
    """Returns the exit codes that ignored failures explain. Ignored failures are those in quarantine and those that the
    reporter marks as known issues.

    The job lists the exit codes with which its test runner reports failed tests. A report of the agent's pytest plugin
    explains no exit code, since pytest itself ends with 0 if all of its failures are in quarantine; with
    `excuse_pytest` it explains the exit code that it contains. Returns no exit code if a suite, a report or results are
    missing, or if a test runner ended for another reason than failed tests. Returns none either if a wildcard found a
    report, since another report may be missing, unless the job lists the exit codes.
    """
    reports = build.counting_reports
    if find_reports_by_wildcard(build) or any(
        report.unloaded or report.unreadable or report.missing or report.explained_exit_code == UNEXPLAINED
        for report in reports
    ):
        return set()
    runners = find_exit_codes_of_failed_tests(build.queued.configuration.env)
    excused = [
        runners if report.explained_exit_code is None else {report.explained_exit_code}
        for report in reports
        if report.ignored and (excuse_pytest or report.explained_exit_code is None)
    ]
    return set().union(*excused)


def find_reports_by_wildcard(build: AnyBuild) -> list[Report]:
    """Returns the reports that a wildcard found. A wildcard does not say how many reports there should be, so a missing
    one shows only in the exit code.

    Leaves out reports of pytest. Returns an empty list if the job lists the exit codes that mean failed tests.
    """
    if TEST_FAILURE_EXIT_CODES in build.queued.configuration.env:
        return []
    return [report for report in build.counting_reports if report.by_wildcard and report.explained_exit_code is None]


def find_exit_codes_of_failed_tests(env: Mapping[str, str]) -> set[int]:
    """Returns the exit codes with which a job's test runner reports failed tests: those that TEST_FAILURE_EXIT_CODES in
    `env` lists. Returns 1 alone if `env` has no such variable.
    """
    return {int(code) for code in env.get(TEST_FAILURE_EXIT_CODES, "1").split(",") if code.strip().isdecimal()}


def count_unloaded(build: AnyBuild) -> int:
    """Returns the number of test suites that could not be loaded or failed as a whole. Nothing excuses them, since
    their tests may be missing from the reports.
    """
    return sum(report.unloaded for report in build.counting_reports)


def describe_unexcused(build: AnyBuild, reason: str | None) -> str | None:
    """Returns a sentence that says why a build failed although its failures are ignored: suites could not be loaded, or
    the ignored failures do not explain the exit code. Returns None if the build failed for another reason.
    """
    if reason not in ("command_failed", "tests_failed"):
        return None
    if count_unloaded(build):
        return describe_unloaded(build)
    reports = build.counting_reports
    by_wildcard = list_paths(
        "The report {} was found by a wildcard, so one beside it may be missing",
        "{:,} reports were found by a wildcard, so one beside them may be missing ({})",
        [report.path for report in find_reports_by_wildcard(build)],
    )
    if reason == "command_failed" and any(report.ignored for report in reports):
        return join_sentences(
            "The ignored failures do not account for the exit code of the command.",
            list_paths(
                "The report {} explains no exit code.",
                "{:,} reports explain no exit code: {}.",
                [report.path for report in reports if report.explained_exit_code == UNEXPLAINED],
            ),
            f"{by_wildcard}: name each report in the job's artifacts, or list in {TEST_FAILURE_EXIT_CODES} the exit"
            " codes that always mean failed tests."
            if by_wildcard
            else None,
        )
    return None


def describe_unloaded(build: AnyBuild) -> str | None:
    """Returns a sentence about the test suites that could not be loaded or failed as a whole; None if none did."""
    unloaded = count_unloaded(build)
    return (
        f"{unloaded:,} test suite{'s' * (unloaded > 1)} could not be loaded or failed as a whole." if unloaded else None
    )


def describe_unreadable(build: AnyBuild) -> str | None:
    """Returns a sentence that names the reports with missing results; None if there are no such reports."""
    return list_paths(
        "The report {} is incomplete or cannot be read.",
        "{:,} reports are incomplete or cannot be read: {}.",
        [report.path for report in build.counting_reports if report.unreadable],
    )


def describe_missing(build: AnyBuild) -> str | None:
    """Returns a sentence that names the job's patterns of reports for which no readable file was found; None if there
    are no such patterns.
    """
    return list_paths(
        "No readable file matches {}, which names reports.",
        "No readable file matches {:,} patterns that name reports: {}.",
        [report.path for report in build.counting_reports if report.missing],
    )


def list_paths(one: str, many: str, paths: Sequence[str]) -> str | None:
    """Returns a sentence that names these paths. Its template is `one` for a single path and `many` for several.
    Returns None without paths.
    """
    if not paths:
        return None
    if len(paths) == 1:
        return one.format(paths[0])
    more = f" and {len(paths) - 5:,} more" if len(paths) > 5 else ""
    return many.format(len(paths), ", ".join(paths[:5]) + more)


def join_sentences(*sentences: str | None) -> str | None:
    """Joins sentences, and adds a full stop where an agent left it out. Returns None if there are none."""
    *before, last = [*filter(None, sentences)] or [""]
    return " ".join([*(one if one.endswith((".", "!", "?")) else f"{one}." for one in before), last]) or None


def ignored_failures(build: AnyBuild) -> str | None:
    """Returns a sentence about the quarantined failures of a build; None if it has none."""
    match build.quarantined:
        case 0:
            return None
        case 1:
            return "1 quarantined failure was ignored."
        case many:
            return f"{many:,} quarantined failures were ignored."
