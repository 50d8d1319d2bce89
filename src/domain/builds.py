"""Builds: one run of a job, from the queue to its verdict.

    Queued -> Assigned -> Running -> Finished
       ^         |           |
       +---------+-----------+   requeued: not acknowledged, or its agent is lost

An external build (its pipeline runs elsewhere) starts as Running and never has a node. A finished build can be deleted:
its data key is destroyed, and with it all its texts.
"""

from datetime import datetime
from operator import add
from typing import Any, ClassVar, Literal

import msgspec

from domain.build_reasons import LossReason, Reason
from domain.core.data_keys import build_key
from domain.core.events import UNSTAMPED, Category, Event, copy_fields
from domain.failures.log_explanations import Excerpt
from domain.jobs import Configuration, QuarantineMode
from domain.nodes import agent_notification
from domain.reports import COUNTS, Report
from domain.triggers import BuildTrigger

Verdict = Literal["passed", "failed", "aborted"]
VisibleStatus = Literal["queued", "running", "passed", "failed", "aborted"]
Status = Literal[VisibleStatus, "deleted"]


class BuildEvent(Event, frozen=True):
    build_id: int
    job_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"build-{self.build_id}"

    @property
    def data_key(self) -> str | None:
        return build_key(self.project_id, self.job_id, self.build_id)


class BuildQueued(BuildEvent, frozen=True):
    """A build was queued. Contains the build's configuration, so later changes of the job do not affect the build."""

    name: ClassVar[str] = "build.queued"
    sealed: ClassVar[tuple[str, ...]] = (
        *("configuration", "branch", "commit_sha", "repository", "job_title", "test_ids"),
        *("required_tags", "pool_labels", "matrix", "fork", "cache_ref"),
    )
    configuration: Configuration = Configuration()
    branch: str = ""
    commit_sha: str | None = None
    repository: str | None = None
    priority: int = 5
    timeout_minutes: int = 60
    node_pool_id: int | None = None
    job_title: str = ""
    external: bool = False
    restarted_from: int | None = None
    test_ids: list[str] | None = None
    """Node ids of the tests to run; None for all tests."""
    required_tags: list[str] = []
    pool_labels: dict[str, str] = {}
    quarantine_mode: QuarantineMode = "run"
    by_admin: bool = False  # whether an admin queued it; unknown, thus false, in events of older releases
    trigger: BuildTrigger | None = None
    """The change or time that started the build, or the unapproved build that it restarts; None for other builds."""
    group_id: int | None = None
    """Id of the build's group, which is the id of the group's first build; None for a job without a matrix."""
    matrix: dict[str, str] = {}
    """The build's combination of matrix values, by name; empty for a job without a matrix."""
    untrusted: bool = False
    """Whether anybody may have written the commit, because its pull request is from a fork. Restarts copy this."""
    fork: str = ""
    """Path of the fork that an untrusted build's commit is in; empty if it is unknown."""
    cache_ref: str = ""
    """Ref in whose scope the build saves caches (`commands.build_caches`); empty in older events. Restarts copy it."""
    off_default_branch: bool = False  # whether it is of a fork, or of another branch than the job's default one


class BuildApproved(BuildEvent, frozen=True):
    """A writer of the project has approved that an untrusted build runs this commit."""

    name: ClassVar[str] = "build.approved"
    sealed: ClassVar[tuple[str, ...]] = ("commit_sha",)
    commit_sha: str | None = None


class BuildAssigned(BuildEvent, frozen=True):
    name: ClassVar[str] = "build.assigned"
    node_id: int
    attempt: int

    @property
    def notifies(self) -> str:
        return agent_notification(self.node_id, self.build_id)


class BuildRequeued(BuildEvent, frozen=True):
    name: ClassVar[str] = "build.requeued"
    node_id: int
    attempt: int
    reason: LossReason
    blocks: int = 0
    """Number of `results.replaced` events that withdraw the lost attempt's results. 0 in older events."""
    detail: str | None = None
    """End of a sentence that says how the build was lost; None if `reason` says it all."""


class BuildStarted(BuildEvent, frozen=True):
    name: ClassVar[str] = "build.started"
    sealed: ClassVar[tuple[str, ...]] = ("commit_sha",)
    node_id: int | None
    attempt: int
    commit_sha: str | None = None


class ReportRecorded(BuildEvent, frozen=True):
    """A report was recorded, together with `blocks` events in the build's results stream that contain its results.

    The fields in `domain.reports.COUNTS` are added to the build's counts. They count only the last attempt of each
    test. If the report replaces another, the counts of the replaced report are subtracted, so a field may be negative.
    """

    name: ClassVar[str] = "build.report_recorded"
    sealed: ClassVar[tuple[str, ...]] = ("path", "suites", "warnings", "digest", "detail")
    attempt: int
    first_result_id: int
    cases: int
    """Number of all results, including earlier attempts of retried tests."""
    passed: int
    failed: int
    skipped: int
    known_issues: int
    """How many of `failed` the report itself calls known issues. These do not fail the build."""
    duration_ms: int
    """Sum of the durations of the tests' last attempts."""
    blocks: int
    quarantined: int = 0
    """How many of `failed` would fail the build if their tests were not in the job's quarantine."""
    path: str = ""
    suites: list[str] = []
    warnings: list[str] = []
    explained_exit_code: int | None = None
    """Exit code of pytest if tests alone explain it (0 or 1), UNEXPLAINED if not, None if the report does not say."""
    unloaded: int = 0
    """Number of suites that could not be loaded, ended early or failed as a whole. Their tests may lack results."""
    digest: bytes = b""
    """SHA-256 of the file; empty in older events. A file with the same hash and path is not recorded again."""
    replaces: int | None = None
    """First result id of the report that this one replaces; None if this one replaces no report."""
    unreadable: bool = False
    """Whether results are missing because the file is empty, cut off, or no report at all."""
    flaky: int | None = None
    """Number of flaky results (`domain.flakiness` defines which results are flaky). None in older events."""
    missing: bool = False
    """Whether the report is missing: `path` is a pattern in the job's artifacts, and no file matches it."""
    detail: str | None = None
    """New value of the build's `detail`. Set only if a report without results came after the end of the build."""
    selected_ran: bytes | None = None
    """A byte for each selected test of the build: 1 if it ran or quarantine skips it, else 0. None in older events."""
    by_wildcard: bool = False
    """Whether a wildcard or folder of the job's artifacts found the file. False in older events."""
    lost_tests: bool = False
    """Whether the report says that it lacks results of tests. False in older events."""
    line: int = 0  # number of the build's line; NO_LINE or OTHER_BRANCHES of `domain.run_lines` if none


class BuildFinished(BuildEvent, frozen=True):
    name: ClassVar[str] = "build.finished"
    sealed: ClassVar[tuple[str, ...]] = ("detail",)
    status: Verdict
    reason: Reason | None = None
    detail: str | None = None
    exit_code: int | None = None
    log_lines: int = 0
    log_digest: bytes = b""
    """Hash of the build log when the build ended (`store.tables.build_logs`)."""
    node_id: int | None = None

    @property
    def notifies(self) -> str | None:
        """Payload of the notification that makes the agent stop an aborted build. None if there is nothing to stop: the
        build was not aborted, the agent is lost, or the agent stopped the build itself.
        """
        unreachable = ("agent_stopped", "agent_lost", "not_acknowledged")
        if self.status != "aborted" or self.node_id is None or self.reason in unreachable:
            return None
        return agent_notification(self.node_id, self.build_id)


class BuildExplained(BuildEvent, frozen=True):
    """The excerpts of a failed build's log that explain the failure were found. The best one comes first."""

    name: ClassVar[str] = "build.explained"
    sealed: ClassVar[tuple[str, ...]] = ("lines",)
    attempt: int
    ranking: int
    """Version of the ranking that found the excerpts: `domain.failures.log_explanations.VERSION`."""
    excerpts: list[Excerpt] = []
    lines: list[list[str]] = []
    """The lines of each excerpt, long ones cut."""


class BuildMovedToTop(BuildEvent, frozen=True):
    """A user moved the build ahead of all builds that are waiting at this moment, whatever their priority."""

    name: ClassVar[str] = "build.moved_to_top"


class BuildPinned(BuildEvent, frozen=True):
    """The build was pinned: until it is unpinned, nobody can delete it or its artifacts, and retention keeps both."""

    name: ClassVar[str] = "build.pinned"


class BuildUnpinned(BuildEvent, frozen=True):
    name: ClassVar[str] = "build.unpinned"


class BuildCommented(BuildEvent, frozen=True):
    name: ClassVar[str] = "build.commented"
    sealed: ClassVar[tuple[str, ...]] = ("text",)
    comment_id: int
    author: int
    """The id of a user."""
    text: str = ""


class BuildDeleted(BuildEvent, frozen=True):
    name: ClassVar[str] = "build.deleted"
    destroys_key: ClassVar[bool] = True
    results: list[tuple[int, int]] = []
    """(first result id, number of results) for each report of the build."""
    reason: Literal["requested", "retention"] = "requested"


class Build(msgspec.Struct, frozen=True):
    """Base of the states of a build. Each phase of a build has a subclass."""

    queued: BuildQueued
    reports: tuple[Report, ...] = ()
    results_version: int = 0
    """The version of the build's results stream."""
    failed: int = 0
    """Number of failures that make the build fail."""
    quarantined: int = 0
    """Number of failures that do not count, because their tests were in quarantine when the report was recorded."""
    known_issues: int = 0
    """Number of failures that do not count, because the reporter calls them known issues."""
    attempt: int = 0
    losses: tuple[LossReason, ...] = ()
    """The reason for the loss of each earlier attempt, in the order of the attempts."""
    commit_sha: str | None = None
    """The commit that the agent has checked out; None before that."""
    pinned: bool = False
    approved_by: str | None = None
    """Actor who approved the untrusted build; None if nobody did."""
    comments: tuple[int, ...] = ()
    explained: bool = False

    @property
    def build_id(self) -> int:
        return self.queued.build_id

    @property
    def deleted(self) -> bool:
        return isinstance(self, DeletedBuild)

    @property
    def awaits_approval(self) -> bool:
        return isinstance(self, Queued) and self.queued.untrusted and self.approved_by is None

    @property
    def counting_reports(self) -> list[Report]:
        """The reports of the current attempt, except those that a later report has replaced."""
        return [report for report in self.reports if report.attempt == self.attempt and not report.is_replaced]

    @property
    def ids(self) -> dict[str, Any]:
        """The fields that all events of the build have in common."""
        queued = self.queued
        return {"build_id": queued.build_id, "job_id": queued.job_id, "project_id": queued.project_id}


class Queued(Build, frozen=True):
    pass


class Assigned(Build, frozen=True, kw_only=True):
    node_id: int
    assigned_at: datetime = UNSTAMPED


class Running(Build, frozen=True, kw_only=True):
    node_id: int | None
    """None for an external build."""


class Finished(Build, frozen=True, kw_only=True):
    status: Verdict
    reason: Reason | None = None
    detail: str | None = None
    """Sentences that explain the verdict, from `build.finished`."""
    exit_code: int | None = None
    node_id: int | None = None
    log_lines: int = 0
    """Number of log lines of the last attempt. Stored lines after this number do not belong to the build."""
    log_digest: bytes = b""


class DeletedBuild(Build, frozen=True):
    pass


AnyBuild = Queued | Assigned | Running | Finished | DeletedBuild


def evolve(state: AnyBuild | None, event: Event) -> AnyBuild | None:
    if state is None:
        return Queued(event) if isinstance(event, BuildQueued) else None
    if isinstance(state, DeletedBuild):
        return state
    match event:
        case BuildAssigned():
            return Assigned(**_common(state, attempt=event.attempt), node_id=event.node_id, assigned_at=event.at)
        case BuildRequeued():
            # Failures of the lost attempt do not count against the next one.
            losses, version = (*state.losses, event.reason), state.results_version + event.blocks
            counts: dict[str, Any] = dict.fromkeys(("failed", "quarantined", "known_issues"), 0)
            return Queued(**_common(state, losses=losses, results_version=version, **counts))
        case BuildStarted():
            commit_sha = event.commit_sha or state.queued.commit_sha
            return Running(**_common(state, attempt=event.attempt, commit_sha=commit_sha), node_id=event.node_id)
        case ReportRecorded():
            return msgspec.structs.replace(
                state,
                reports=_with_report(state, event),
                results_version=state.results_version + event.blocks,
                failed=state.failed + event.failed - event.known_issues - event.quarantined,
                quarantined=state.quarantined + event.quarantined,
                known_issues=state.known_issues + event.known_issues,
            )
        case BuildFinished():
            return copy_fields(Finished, event, **_common(state))
        case BuildPinned() | BuildUnpinned():
            return msgspec.structs.replace(state, pinned=isinstance(event, BuildPinned))
        case BuildApproved():
            return msgspec.structs.replace(state, approved_by=event.actor)
        case BuildExplained():
            return msgspec.structs.replace(state, explained=True)
        case BuildCommented():
            return msgspec.structs.replace(state, comments=(*state.comments, event.comment_id))
        case BuildDeleted():
            return DeletedBuild(**_common(state))
        case _:
            return state


def _with_report(state: Build, event: ReportRecorded) -> tuple[Report, ...]:
    counts = tuple(getattr(event, name) or 0 for name in COUNTS)
    kept = list(state.reports)
    for number, report in enumerate(state.reports):
        if report.first_result_id == event.replaces:
            counts = tuple(map(add, counts, report.counts))
            kept[number] = msgspec.structs.replace(report, is_replaced=True)
    is_late, version = isinstance(state, Finished), state.results_version
    return (*kept, copy_fields(Report, event, counts=counts, late=is_late, results_from=version))


def _common(state: Build, **changes: Any) -> dict[str, Any]:
    return {field: getattr(state, field) for field in Build.__struct_fields__} | changes


def commit_of(state: AnyBuild) -> str:
    """Returns the commit on which a build runs; an empty string while the commit is unknown."""
    return (state.commit_sha if isinstance(state, Running) else None) or state.queued.commit_sha or ""


def status_of(state: AnyBuild) -> Status:
    """Returns the status that users see: an assigned build is still `queued`."""
    match state:
        case Queued() | Assigned():
            return "queued"
        case Running():
            return "running"
        case Finished():
            return state.status
        case DeletedBuild():
            return "deleted"


BUILD = Category[AnyBuild | None]("build", None, evolve)
EVENTS = (
    *(BuildQueued, BuildApproved, BuildAssigned, BuildRequeued, BuildStarted, ReportRecorded, BuildFinished),
    *(BuildExplained, BuildMovedToTop, BuildPinned, BuildUnpinned, BuildCommented, BuildDeleted),
)
