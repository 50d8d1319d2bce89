"""Answers about the health of tests: the rows of lists, and the sentence that says what to do about a test."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from api.http.types import to_view
from domain.assistant.named_tests import describe_missed
from domain.failures.message_masks import mask
from domain.health_advice import NO_DECISIONS, Decisions, describe_decisions, settle_action
from domain.run_histories import RunHistory
from domain.test_health import (
    BROKEN_BUILD,
    FAILED,
    LEFT_OUT,
    OTHER_BRANCH,
    OUTAGE,
    RETRIED,
    SAME_COMMIT,
    Action,
    Assessment,
    Risk,
    Trend,
    assess,
)
from projections.test_health import CaseHistory, FailureText

MAX_ASSESSED_RUNS = 200
"""Largest number of runs of a test that are assessed: the newest ones in the look-back window."""
MAX_PATTERNS = 20
MAX_PATTERN_LENGTH = 300
MAX_MASKED_LENGTH = 1_000
"""Largest number of characters of a message's first line that are read to find a pattern."""
_TICKET = re.compile(r"(?<![\w/\\.:-])[A-Z][A-Z0-9]{1,9}-\d{1,7}(?![\w/\\-])")
_TICKET_MARK = "\ue000"
"""Character that stands for the key of a ticket while numbers are masked. This character is first removed from the
message itself.
"""

SENTENCES: Mapping[Action, str] = {
    "none": "Nothing to do",
    "watch": "Watch it",
    "fix": "Fix the test",
    "investigate": "Look for the change that broke it",
    "quarantine": "Quarantine it until it is fixed",
}
"""Recommended action -> beginning of the recommendation."""


class HealthItem(msgspec.Struct):
    """Health of a test in the look-back window. Runs of broken builds, in which most tests failed, do not count in
    `flake_rate` and the fields that are computed from it.
    """

    test_id: int
    """Id of the test case: one test of a project across builds."""
    name: str
    """Node id of the test, which is the same in every build."""
    suite: str
    health_score: int
    """From 0 (worst) to 100."""
    flake_rate: float
    """Expected share of runs that fail although the code is good."""
    flake_rate_low: float
    """Lower end of the interval that contains the flake rate with a probability of 95 %."""
    flake_rate_high: float
    """Upper end of the interval that contains the flake rate with a probability of 95 %."""
    flaky_probability: float
    """Probability that the test is flaky."""
    is_flaky: bool
    """Whether the test counts as flaky: `flaky_probability` is high, and no known issue explains the failures. Lists of
    test cases with `only=flaky` also contain tests that broke and were mended, which are not flaky.
    """
    broken_probability: float
    """Probability that the newest run failed because the code is broken."""
    transitions: float
    """Share of the runs that passed on a retry, or whose outcome differs from that of the run before. The newest runs
    count most.
    """
    trend: Trend
    """How the flake rate of the later half of the runs compares with that of the earlier half."""
    risk: Risk
    """How likely the test is to fail without a cause in the code, judged by `health_score`."""
    recommended_action: Action
    """Recommended action. `investigate`: look for the change that broke the test; `fix`: fix the test, or mend the
    known issue that explains its failures.
    """
    quarantined_in: list[int]
    """Ids of the jobs in whose quarantine the test is."""
    known_issue_id: int | None
    """Id of the known issue that explains the newest failures of a flaky test as a bug. Null if one of these failures
    has no known issue, or has a known issue that is no bug.
    """
    runs: int
    """Number of runs in the window. A run has the results of the test in one build."""
    failed_runs: int
    """Number of runs in the window that failed."""
    retried_runs: int
    """Number of runs in the window that passed on a retry only."""
    broken_builds: int
    """Number of runs in the window that do not count, because most tests of their builds failed."""
    other_branches: int
    """Number of runs in the window that do not count, because they failed on another branch than the job's default one.
    """
    outages: int
    """Number of runs in the window that do not count, because the machine, the network or another system failed."""
    assessed_runs: int
    """Number of runs on which the health is based: the newest runs in the window, without those that do not count."""


class HealthList(msgspec.Struct):
    tests: list[HealthItem]
    """Tests in the order of their risk, the worst first."""
    total: int
    """Number of tests that have at least `min_runs` runs in the window, and failed or passed on a retry only in one of
    these runs.
    """


class FailurePattern(msgspec.Struct):
    message: str
    """First line of the newest failure of the group, with placeholders for numbers, times, paths and other parts that
    change.
    """
    signature: str
    """Signature that all failures of the group have; empty if they have none."""
    failures: int
    """Number of failures of the group."""
    builds: list[int]
    """Ids of the builds with failures of the group, the newest first."""


class RunOfNote(msgspec.Struct):
    """A run that failed, that passed on a retry only, or that passed on the commit on which the run before failed."""

    build_id: int
    at: datetime
    """Time at which the result was recorded, rounded down to the minute."""
    failed: bool
    """Whether the run failed."""
    retried: bool
    """Whether the run passed on a retry only."""
    same_commit: bool
    """Whether the run has the same job and commit as the run before."""
    broken_build: bool
    """Whether most tests of the build failed, so that the run does not count."""
    other_branch: bool
    """Whether the run failed on another branch than the job's default one, so that it does not count."""
    outage: bool
    """Whether the machine, the network or another system failed, so that the run does not count."""
    passes_before: int
    """Number of passed runs between the previous run of the list and this run. For the first run of the list, the
    number of passed runs before it.
    """


class TestHealthView(HealthItem):
    __test__ = False

    failure_patterns: list[str]
    """Messages of the failures, the most frequent first. `failures` has more about each."""
    failures: list[FailurePattern]
    """Failures in the window whose builds still exist, grouped by signature."""
    correlated_builds: list[int]
    """Ids of the builds in which the test failed or passed on a retry only, the newest first."""
    recommendation: str
    """Sentences that say what to do, and on which evidence."""
    evidence: list[RunOfNote]
    """Runs that failed, that passed on a retry only, or that passed on the commit on which the run before failed; the
    oldest first. Only the newest 200 runs of the window are looked at. All other runs among these 200 passed.
    """


def to_item(case: CaseHistory, history: RunHistory) -> HealthItem:
    """Returns the health of a test by its runs alone. Quarantine and known issues are added later, by
    `apply_decisions`.
    """
    assessed = history.newest(MAX_ASSESSED_RUNS)
    assessment: Assessment = assess(assessed.to_bytes())
    return to_view(
        HealthItem,
        assessment,
        test_id=case.id,
        name=case.node_id,
        suite=case.suite,
        quarantined_in=[],
        known_issue_id=None,
        runs=history.runs,
        failed_runs=sum(run.flags & FAILED != 0 for run in history.notable),
        retried_runs=sum(run.flags & RETRIED != 0 for run in history.notable),
        broken_builds=sum(run.flags & BROKEN_BUILD != 0 for run in history.notable),
        other_branches=sum(run.flags & OTHER_BRANCH != 0 for run in history.notable),
        outages=sum(run.flags & OUTAGE != 0 for run in history.notable),
        assessed_runs=assessed.runs - sum(run.flags & LEFT_OUT != 0 for run in assessed.notable),
    )


def apply_decisions(item: HealthItem, decisions: Decisions) -> HealthItem:
    return msgspec.structs.replace(
        item,
        is_flaky=item.is_flaky and decisions.known is None,
        recommended_action=settle_action(item.recommended_action, decisions),
        quarantined_in=sorted({entry.job_id for entry in decisions.quarantine}),
        known_issue_id=None if decisions.known is None else decisions.known.known_issue_id,
    )


def group_failures(texts: Sequence[FailureText]) -> list[FailurePattern]:
    """Groups failures by their signatures or, without signatures, by their messages. `texts` are the failures, from the
    newest to the oldest. Returns at most MAX_PATTERNS groups, the largest ones first.
    """
    groups: dict[str, list[FailureText]] = {}
    for text in texts:
        groups.setdefault(text.signature or mask_line(text.message), []).append(text)
    patterns = [
        FailurePattern(
            message=mask_line(group[0].message),
            signature=group[0].signature,
            failures=len(group),
            builds=list(dict.fromkeys(text.build_id for text in group)),
        )
        for group in groups.values()
    ]
    return sorted(patterns, key=lambda pattern: -pattern.failures)[:MAX_PATTERNS]


def mask_line(message: str) -> str:
    """Returns the first line of a message, with placeholders for parts that change from run to run. Keys of tickets,
    such as `XK-77`, stay.
    """
    lines = message.strip().splitlines() or ["(no message)"]
    tickets: list[str] = []

    def keep(match: re.Match[str]) -> str:
        tickets.append(match.group())
        return _TICKET_MARK

    masked = mask(_TICKET.sub(keep, lines[0][:MAX_MASKED_LENGTH].replace(_TICKET_MARK, "")))
    for ticket in tickets:
        masked = masked.replace(_TICKET_MARK, ticket, 1)
    return masked[:MAX_PATTERN_LENGTH] or "(no message)"


def find_counting(history: RunHistory) -> set[int]:
    """Returns the ids of the builds in which the test failed or passed on a retry only, and whose run of the test
    counts for its health.
    """
    return {run.build_id for run in history.notable if run.flags & (FAILED | RETRIED) and not run.flags & LEFT_OUT}


def recommend(
    item: HealthItem,
    patterns: Sequence[FailurePattern],
    counting: set[int],
    days: int,
    decisions: Decisions = NO_DECISIONS,
    missed_builds: int = 0,
) -> str:
    """Returns a text that says what to do about a test, and on which evidence. `counting` are the ids of the builds
    whose failures count for the health of the test. `missed_builds` is the number of newer builds of the job in which
    the failing test did not run.
    """
    what = SENTENCES[item.recommended_action]
    if item.recommended_action == "fix" and decisions.known is not None:
        what = "Mend the bug"
    missed = f" {describe_missed(missed_builds)}" if missed_builds else ""
    return f"{what}: {_describe_runs(item, days)}{missed}{describe_decisions(decisions)}{_quote(patterns, counting)}"


def _describe_runs(item: HealthItem, days: int) -> str:
    within = "today" if days == 1 else f"in {days} days"
    if not item.runs:
        return f"the test has not run {within}."
    if not item.failed_runs and not item.retried_runs:
        return f"all {item.runs} runs {within} passed."
    retried = f", and {item.retried_runs} passed on a retry only" if item.retried_runs else ""
    sentence = f"{item.failed_runs} of {item.runs} runs {within} failed{retried}."
    for number, reason in (
        (item.broken_builds, "since most tests of their builds failed"),
        (item.other_branches, "being on other branches than the default one"),
        (item.outages, "since the machine, the network or another system failed"),
    ):
        if number:
            sentence += f" {number} of them {'does' if number == 1 else 'do'} not count, {reason}."
    return sentence


def _quote(patterns: Sequence[FailurePattern], counting: set[int]) -> str:
    frequent = max(patterns, key=lambda pattern: len(counting.intersection(pattern.builds)), default=None)
    if frequent is None or not counting.intersection(frequent.builds):
        return ""
    return f" The most frequent failure: {frequent.message}"


def to_evidence(history: RunHistory) -> list[RunOfNote]:
    items: list[RunOfNote] = []
    before = 0
    for run in history.newest(MAX_ASSESSED_RUNS).notable:
        items.append(
            RunOfNote(
                build_id=run.build_id,
                at=datetime.fromtimestamp(0, UTC) + timedelta(minutes=run.minute),
                failed=run.flags & FAILED != 0,
                retried=run.flags & RETRIED != 0,
                same_commit=run.flags & SAME_COMMIT != 0,
                broken_build=run.flags & BROKEN_BUILD != 0,
                other_branch=run.flags & OTHER_BRANCH != 0,
                outage=run.flags & OUTAGE != 0,
                passes_before=max(0, run.number - before - 1),
            )
        )
        before = run.number
    return items
