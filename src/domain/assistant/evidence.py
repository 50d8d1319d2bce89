"""Evidence: what is known about a failed build or about a project, with the sources that answers cite. It is plain data
from the read models, and all of it belongs to one project.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from domain.assistant import named_tests
from domain.assistant.answers import MAX_SOURCE_TEXT, Question, Source
from domain.assistant.job_states import JobState, describe_state
from domain.assistant.named_tests import NamedTest
from domain.build_reasons import describe_reason
from domain.failures.log_explanations import explain
from domain.failures.log_signals import clean
from domain.triage import Classification
from domain.triage import Source as ClassifiedBy

MAX_MESSAGE = 2_000
"""Largest number of characters of a failure's message."""
MAX_TRACE = 4_000
"""Largest number of characters of a failure's trace. Of a longer one, the beginning and the end are kept."""

MAX_PAST_BUILDS = 10
"""For each test, at most this many earlier builds in which the test failed are looked at."""


class BuildSummary(msgspec.Struct, frozen=True):
    """A build with the few facts that a list of builds shows."""

    id: int
    status: str
    reason: str | None = None
    commit_sha: str | None = None
    passed: int = 0
    failed: int = 0


class BuildFacts(msgspec.Struct, frozen=True):
    """The build that a question is about."""

    id: int
    job_id: int
    job: str
    """Name of the job."""
    status: str
    reason: str | None = None
    detail: str | None = None
    branch: str = ""
    commit_sha: str | None = None
    exit_code: int | None = None
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    flaky: int = 0
    known_issues: int = 0
    """Failures that the reporter calls known issues. They do not fail the build."""
    quarantined: int = 0
    duration_s: int = 0
    """Duration of the build in seconds; 0 if it was never started, and at least 1 otherwise."""
    attempt: int = 1


class FailureStart(msgspec.Struct, frozen=True):
    """Build and commit with which a test began to fail, and the last build before that in which the test passed."""

    build_id: int
    commit_sha: str | None
    last_good_build: int | None
    last_good_commit: str | None
    failed_builds: int
    cause: Literal["commit", "same_commit", "recurring", "unknown"]
    """`commit`: a commit broke the test. `same_commit`: the test passed and failed on one commit, so no commit broke
    it. `recurring`: the test failed in the same way before `last_good_build`, too, or is flaky by its history, so
    probably no commit broke it. `unknown`: none of these is known.
    """
    is_first_run: bool = False
    """Whether the test failed in all of its known runs on the branch."""


class TestRecord(msgspec.Struct, frozen=True):
    """Numbers of a test's earlier runs, and what `domain.test_health` concludes from them."""

    __test__ = False

    runs: int
    failed_runs: int
    flaky_probability: float
    flake_rate: float
    broken_probability: float
    retried_runs: int = 0
    """Number of runs that passed only on a retry."""
    left_out: int = 0
    """Number of failed runs that say nothing about the test. No other field counts them."""


class FailedTest(msgspec.Struct, frozen=True):
    """A failed result of the build."""

    result_id: int
    case_id: int
    name: str
    message: str = ""
    trace: str = ""
    signature: str = ""
    suite: str = ""
    is_flaky: bool = False
    """Whether the test also passed in the build or on its commit."""
    is_quarantined: bool = False
    classification: Classification | None = None
    classified_by: ClassifiedBy | None = None
    known_issue_id: int | None = None
    first_bad: FailureStart | None = None
    earlier_failures: int = 0
    """Number of earlier builds in which the test failed, MAX_PAST_BUILDS at most."""
    record: TestRecord | None = None
    is_unlike: bool = False
    """Whether the error has another type than in all earlier failures of the test that were looked at."""


class FailureGroup(msgspec.Struct, frozen=True):
    """Failures of the build with one signature."""

    signature: str
    results: int
    message: str


class LogExcerpt(msgspec.Struct, frozen=True):
    """Lines of the build's log that probably explain the failure."""

    first_line: int
    last_line: int
    lines: tuple[str, ...]
    score: float = 0.0
    reasons: tuple[str, ...] = ()


class IssueFacts(msgspec.Struct, frozen=True):
    """A known issue that matches failures of the build."""

    id: int
    title: str
    classification: Classification
    defect_key: str | None = None


class PastFailure(msgspec.Struct, frozen=True):
    """An earlier failure in the project that is equal or similar to a failure of the build."""

    result_id: int
    build_id: int
    name: str
    message: str
    is_equal: bool
    """Whether the two failures have the same signature. If not, the words of their messages are similar."""
    signature: str = ""
    classification: Classification | None = None
    classified_by: ClassifiedBy | None = None


class ChangeFacts(msgspec.Struct, frozen=True):
    """A change of the repository between a good and a bad build, as the host of the repository reported it."""

    commit_sha: str
    """The newest commit of the change."""
    last_good_build: int
    first_bad_build: int
    message: str = ""
    """First line of the newest commit's message."""
    author: str = ""
    paths: tuple[str, ...] = ()
    """Changed paths. Paths through which traces of the build's failures pass come first."""
    all_paths: int | None = None
    """Number of all changed paths; None if they are not known."""


class FlakyTestFacts(msgspec.Struct, frozen=True):
    """A flaky test of the project."""

    case_id: int
    name: str
    flake_rate: float
    runs: int
    failed_runs: int


class FailurePatternFacts(msgspec.Struct, frozen=True):
    """Failures of the project in the look-back window that have one signature."""

    message: str
    failures: int
    result_id: int
    """Id of the result of the newest of these failures."""
    build_id: int
    is_cut: bool = False
    """Whether there may be more failures with the signature, since not all failures were looked at."""


class ProjectFacts(msgspec.Struct, frozen=True):
    """Facts about the builds and tests of a project within the look-back window."""

    id: int
    days: int
    passed: int = 0
    """Number of builds that passed."""
    failed: int = 0
    passed_before: int = 0
    """Number of builds that passed in the period of the same length before the window."""
    failed_before: int = 0
    flaky_tests: tuple[FlakyTestFacts, ...] = ()
    """Flaky tests, those with the highest flake rates first."""
    patterns: tuple[FailurePatternFacts, ...] = ()
    """Recurring failures, the most frequent first."""


class Evidence(msgspec.Struct, frozen=True):
    question: Question
    sources: tuple[Source, ...] = ()
    """Sources that an answer can cite; it cannot cite anything else. `with_sources` makes them."""
    build: BuildFacts | None = None
    failures: tuple[FailedTest, ...] = ()
    """Failed results that were looked at, `question.max_tests` at most. One result of each signature comes first."""
    groups: tuple[FailureGroup, ...] = ()
    """Failures by signature: first groups that count against the build, then the others, both from large to small."""
    excerpts: tuple[LogExcerpt, ...] = ()
    issues: tuple[IssueFacts, ...] = ()
    past: tuple[PastFailure, ...] = ()
    earlier: tuple[BuildSummary, ...] = ()
    """Earlier builds of the job on the same branch, the newest first."""
    same_commit: tuple[BuildSummary, ...] = ()
    """Other builds of the job on the same commit."""
    group: tuple[BuildSummary, ...] = ()
    """Other builds of the same build group (one start of a matrix) that failed or were aborted."""
    changes: tuple[ChangeFacts, ...] = ()
    """Changes with which failures of the build may have come, the newest first."""
    project: ProjectFacts | None = None
    jobs: tuple[JobState, ...] = ()
    """States of the project's jobs, the red ones first; empty unless the question is about the project."""
    tests: tuple[NamedTest, ...] = ()
    """States of the tests that the question names."""


def with_sources(evidence: Evidence) -> Evidence:
    """Returns the evidence with a source for each fact that it contains."""
    texts = dict(_texts(evidence))
    for change in evidence.changes:
        before = texts.get(commit_ref(change.commit_sha))
        texts[commit_ref(change.commit_sha)] = _describe_change(change) + (f" {before}" if before else "")
    for test in evidence.tests:
        before = texts.get(test.ref)
        texts[test.ref] = named_tests.describe_state(test) + (f" {before}" if before else "")
        for build in (test.failed_build, test.left_out_build):
            if build is not None:
                texts.setdefault(build_ref(build), f"{test.name} failed in build {build}.")
    sources = {ref: Source(ref, cut(text, MAX_SOURCE_TEXT)) for ref, text in texts.items()}
    return msgspec.structs.replace(evidence, sources=tuple(sources.values()))


def excerpt_log(lines: Sequence[str], offset: int = 0) -> tuple[LogExcerpt, ...]:
    """Returns the parts of a log that explain the failure. `lines` are the lines of the log, without line feeds, from
    line `offset` + 1 on.
    """
    return tuple(
        LogExcerpt(
            found.first_line + offset,
            found.last_line + offset,
            tuple(clean(line, keep_time=True) for line in lines[found.first_line - 1 : found.last_line]),
            found.score,
            found.reasons,
        )
        for found in explain(lines)
    )


def cut(text: str, length: int) -> str:
    """Returns a text of at most `length` characters. Of a longer text, keeps the beginning and the end."""
    if len(text) <= length:
        return text
    half = (length - 5) // 2
    return f"{text[:half]}\n...\n{text[-half:]}"


def describe_probability(probability: float) -> str:
    """Returns a probability in percent, `more than 99%` at most, since no estimate is certain."""
    return "more than 99%" if probability > 0.99 else f"{probability:.0%}"


def build_ref(build_id: int) -> str:
    return f"build:{build_id}"


def test_ref(failure: FailedTest | PastFailure | FailurePatternFacts) -> str:
    return f"test:{failure.result_id}"


def case_ref(test: FailedTest | FlakyTestFacts) -> str:
    return f"test_case:{test.case_id}"


def log_ref(build: BuildFacts, excerpt: LogExcerpt) -> str:
    return f"log:{build.id}:{excerpt.first_line}-{excerpt.last_line}"


def issue_ref(issue_id: int) -> str:
    return f"known_issue:{issue_id}"


def commit_ref(commit_sha: str) -> str:
    return f"commit:{commit_sha}"


def _texts(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yields pairs (reference, text) of the sources. A later text with the same reference replaces an earlier one."""
    for job in evidence.jobs:
        yield build_ref(job.build_id), describe_state(job)
    for build in (*evidence.earlier, *evidence.same_commit, *evidence.group):
        yield build_ref(build.id), describe_summary(build)
    if (this := evidence.build) is not None:
        yield build_ref(this.id), _describe_build(this)
        if this.commit_sha:
            yield commit_ref(this.commit_sha), f"Build {this.id} ran on commit {this.commit_sha}."
        for excerpt in evidence.excerpts:
            yield log_ref(this, excerpt), "\n".join(excerpt.lines)
    for issue in evidence.issues:
        defect = f", {issue.defect_key}" if issue.defect_key else ""
        yield issue_ref(issue.id), f"Known issue {issue.id}: {issue.title} ({issue.classification}{defect})"
    for past in evidence.past:
        classified = f" Classified as {past.classification}." if past.classification else ""
        yield test_ref(past), f"{past.name} failed in build {past.build_id}: {past.message}{classified}"
    for failure in evidence.failures:
        yield from _texts_of_test(failure)
    if evidence.project is not None:
        yield from _texts_of_project(evidence.project)


def _texts_of_test(failure: FailedTest) -> Iterator[tuple[str, str]]:
    classified = f"\nClassified as {failure.classification} by {failure.classified_by}." * bool(failure.classification)
    yield test_ref(failure), f"{failure.name} failed: {failure.message}\n{failure.trace}{classified}"
    if (record := failure.record) is not None:
        yield (
            case_ref(failure),
            f"{failure.name}: {record.failed_runs} of {record.runs} runs failed."
            f" Probability that it is flaky: {describe_probability(record.flaky_probability)}.",
        )
    if (began := failure.first_bad) is None:
        return
    if began.last_good_build is not None:
        on = f" on commit {began.last_good_commit}" if began.last_good_commit else ""
        yield build_ref(began.last_good_build), f"{failure.name} passed in build {began.last_good_build}{on}."
    if began.commit_sha:
        yield (
            commit_ref(began.commit_sha),
            f"{failure.name} first failed in build {began.build_id}, which ran on commit {began.commit_sha}.",
        )


def _texts_of_project(project: ProjectFacts) -> Iterator[tuple[str, str]]:
    yield (
        f"project:{project.id}",
        f"In {project.days} days, {project.passed} builds passed and {project.failed} failed."
        f" In the {project.days} days before, {project.passed_before} passed and {project.failed_before} failed.",
    )
    for test in project.flaky_tests:
        yield case_ref(test), f"{test.name}: {test.failed_runs} of {test.runs} runs failed, mostly on good code."
    for pattern in project.patterns:
        yield test_ref(pattern), f"{'At least ' * pattern.is_cut}{pattern.failures} failures like: {pattern.message}"


def _describe_change(change: ChangeFacts) -> str:
    author = f" by {change.author}" if change.author else ""
    message = f": {change.message}" if change.message else ""
    if change.all_paths is None:
        paths = "It is not known which files it changed."
    else:
        more = change.all_paths - len(change.paths)
        paths = f"It changed {', '.join(change.paths)}{f' and {more:,} more files' if more > 0 else ''}."
    return (
        f"Commit {change.commit_sha}{author}{message}. It came after build {change.last_good_build}, at latest with"
        f" build {change.first_bad_build}. {paths}"
    )


def describe_summary(build: BuildSummary) -> str:
    """Returns a sentence that says how a build ended."""
    on = f" on commit {build.commit_sha}" if build.commit_sha else ""
    ended = f"{build.status}{describe_reason(build.reason)}{on}"
    return f"Build {build.id} {ended}: {build.passed} tests passed, {build.failed} failed."


def _describe_build(build: BuildFacts) -> str:
    on = f" on branch {build.branch}" if build.branch else ""
    after = f" after {build.duration_s} s" if build.duration_s else ""
    code = f" Exit code {build.exit_code}." if build.exit_code is not None else ""
    detail = f" {build.detail}" if build.detail else ""
    return (
        f"Build {build.id} of job {build.job} {build.status}{describe_reason(build.reason)}{on}{after}:"
        f" {build.passed} tests passed, {build.failed} failed, {build.skipped} were skipped.{code}{detail}"
    )
