"""Health of tests: which tests of a project need attention, and why. `domain.test_health` has the formulas."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import nsmallest
from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.params import Parameter
from psycopg import AsyncConnection

from api.http.permissions import CAN_READ
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, to_view
from api.projects import find_visible_project
from domain.failures.message_masks import mask
from domain.run_histories import RunHistory, count_failing
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
from projections import test_health
from projections.results_days import day_of
from projections.test_health import MAX_SUSPECTS, CaseHistory, FailureText

MAX_ASSESSED_RUNS = 200
"""Largest number of runs of a test that are assessed: the newest ones of the days in question."""
MIN_ASSESSED, ASSESSED_SHARE = 300, 3
"""Number of tests that are assessed to rank them: MIN_ASSESSED at least, and ASSESSED_SHARE for each one in the answer.
"""
MAX_PATTERNS = 20
MAX_PATTERN_LENGTH = 300
MAX_MASKED_LENGTH = 1_000
"""Number of characters of a message's first line that are read for a pattern."""
MAX_BUILDS = 50
"""Largest number of builds that an answer lists for a test."""
FILL_BATCH = 2_000
"""Number of tests that one query looks through for healthy tests."""

ProjectId = Annotated[int, Parameter(ge=1, le=MAX_ID, description="Project to analyze")]
Days = Annotated[int, Parameter(ge=1, le=365, description="Look-back window: today, in UTC, and the days before it")]

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
    `flake_rate` and what follows from it.
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
    """Upper end of this interval."""
    flaky_probability: float
    """Probability that the test is flaky."""
    is_flaky: bool
    """Whether `flaky_probability` is so high that the test counts as flaky."""
    broken_probability: float
    """Probability that the newest run failed because the code is broken."""
    transitions: float
    """Share of the runs whose outcome is not that of the run before, or that passed on a retry. The newest count most.
    """
    trend: Trend
    """How the flake rate of the later half of the runs compares with that of the earlier half."""
    risk: Risk
    """How likely the test fails without a cause in the code, by its `health_score`."""
    recommended_action: Action
    """Action that is recommended. `investigate`: look for the change that broke it; `fix`: fix the test."""
    runs: int
    """Number of runs in the window. A run has the results of the test in one build."""
    failed_runs: int
    """Number of these runs that failed."""
    retried_runs: int
    """Number of these runs that passed on a retry only."""
    broken_builds: int
    """Number of these runs that do not count, because most tests of their builds failed."""
    other_branches: int
    """Number of these runs that do not count, because they failed on another branch than the job's default one."""
    outages: int
    """Number of these runs that do not count, because the machine, the network or another system failed."""
    assessed_runs: int
    """Number of the newest of these runs, on which the health is based. Runs that do not count are left out."""


class HealthList(msgspec.Struct):
    tests: list[HealthItem]
    """Tests in the order of their risk, the worst first."""
    total: int
    """Number of tests that failed, or passed on a retry only, in the window and have enough runs."""


class FailurePattern(msgspec.Struct):
    message: str
    """First line of the newest of these failures, with placeholders for numbers, times, paths and other parts that
    change.
    """
    signature: str
    """Signature that these failures have in common; empty if they have none."""
    failures: int
    """Number of these failures."""
    builds: list[int]
    """Ids of the builds with these failures, the newest first."""


class RunOfNote(msgspec.Struct):
    """A run that failed, that passed on a retry only, or that passed on the commit on which the run before failed."""

    build_id: int
    at: datetime
    """Time at which the result was recorded, by the minute."""
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
    """Number of passed runs between this run and the one before it in the list, or before the first one."""


class TestHealthView(HealthItem):
    __test__ = False

    failure_patterns: list[str]
    """Messages of the failures, the most frequent first. `failures` says more about each."""
    failures: list[FailurePattern]
    """Failures of the window, grouped by signature, as far as their builds exist."""
    correlated_builds: list[int]
    """Ids of the builds in which the test failed or passed on a retry only, the newest first."""
    recommendation: str
    """Sentence about what to do, and on which evidence."""
    evidence: list[RunOfNote]
    """Runs of the window that the assessment is based on, the oldest first. All others passed."""


class TestHealthController(Controller):
    __test__ = False
    path = "/ai/tests"
    tags = ["AI Test Health"]

    @get("/health", guards=[CAN_READ])
    async def list_test_health(
        self,
        ctx: RequestContext,
        project_id: ProjectId,
        days: Days = 14,
        limit: Annotated[int, Parameter(ge=1, le=1_000, description="Max tests to return")] = 50,
        min_runs: Annotated[int, Parameter(ge=1, le=1_000_000, description="Minimum run count to include a test")] = 5,
    ) -> HealthList:
        """Returns the tests of a project by health risk, the worst first. Tests without failures in the window come
        last, ordered by id.
        """
        since = first_day(days)
        await find_visible_project(ctx, project_id)  # before the turn, so that nobody waits for one in vain
        async with take_turn(ctx.request, ctx.services.analysis_turns), ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            suspects = await test_health.fetch_suspects(connection, project_id, since, MAX_SUSPECTS)
            runs = await test_health.count_runs(connection, [case.id for case in suspects], since)
            enough = [case for case in suspects if runs[case.id] >= min_runs]
            histories = await asyncio.to_thread(
                lambda: [(case, case.history.since_day(since, runs[case.id])) for case in enough]
            )
            healthy = await find_healthy(
                connection, project_id, {case.id for case in suspects}, since, min_runs, limit - len(histories)
            )
        assessed = await asyncio.to_thread(pick_worst, histories, max(MIN_ASSESSED, ASSESSED_SHARE * limit))
        items = await asyncio.to_thread(lambda: [to_item(case, history) for case, history in assessed])
        items.sort(key=lambda item: (item.health_score, -item.flake_rate, item.test_id))
        others = await asyncio.to_thread(lambda: [to_item(case, case.history) for case in healthy])
        return HealthList([*items, *others][:limit], len(histories))

    @get("/{id:int}/health", guards=[CAN_READ])
    async def get_test_health(
        self,
        ctx: RequestContext,
        id: Annotated[int, Parameter(description="Test case ID")],
        days: Days = 30,
    ) -> TestHealthView:
        """Returns the health of a test with its evidence: the messages of its failures, the builds in which it failed,
        and what to do about it. `id` is the id of a test case.
        """
        since = first_day(days)
        # Before the turn, too, so that nobody waits for one in vain.
        await ctx.find_visible(test_health.find_case, "test case", id)
        async with take_turn(ctx.request, ctx.services.analysis_turns), ctx.reading() as connection:
            row = await ctx.find_visible(test_health.find_case, "test case", id)
            found = await test_health.fetch_histories(connection, [id])
            runs = await test_health.count_runs(connection, [id], since)
            whole = found[0].history if found else RunHistory((), 0)
            history = whole.since_day(since, runs[id])
            case = CaseHistory(row.id, row.project_id, row.node_id, row.suite, history)
            failing = [run.build_id for run in history.notable if run.flags & (FAILED | RETRIED)]
            newest = sorted(set(failing), reverse=True)
            builds = await test_health.find_existing_builds(connection, newest)
            retried = [run.build_id for run in history.notable if run.flags & RETRIED and not run.flags & FAILED]
            texts = await test_health.fetch_failure_texts(connection, id, newest[:MAX_BUILDS], retried)
        item = to_item(case, history)
        patterns = await asyncio.to_thread(group_failures, texts)
        return to_view(
            TestHealthView,
            item,
            failure_patterns=[pattern.message for pattern in patterns],
            failures=patterns,
            correlated_builds=[build for build in newest if build in builds][:MAX_BUILDS],
            recommendation=recommend(item, patterns, find_counting(history), days),
            evidence=to_evidence(history),
        )


def pick_worst(histories: Sequence[tuple[CaseHistory, RunHistory]], limit: int) -> list[tuple[CaseHistory, RunHistory]]:
    """Returns the histories with the largest share of failing runs, since assessing one takes a tenth of a millisecond.
    First come tests whose newest run failed.
    """

    def key(pair: tuple[CaseHistory, RunHistory]) -> tuple[bool, float, int]:
        case, history = pair
        failing, runs = count_failing(history)
        return history.find_failing() is None, -failing / max(1, runs), case.id

    return nsmallest(limit, histories, key)


def first_day(days: int) -> int:
    """Returns the first day of a look-back window that ends today, in days since 1970."""
    return day_of(datetime.now(UTC)) - days + 1


async def find_healthy(
    connection: AsyncConnection, project_id: int, without: set[int], since: int, min_runs: int, limit: int
) -> list[CaseHistory]:
    """Returns up to `limit` test cases with enough runs since a day, ordered by id. Leaves out those in `without`."""
    found: list[CaseHistory] = []
    after = 0
    while len(found) < limit:
        cases = await test_health.fetch_cases_after(connection, project_id, after, FILL_BATCH)
        others = [case for case in cases if case.id not in without]
        runs = await test_health.count_runs(connection, [case.id for case in others], since)
        found += [
            CaseHistory(case.id, case.project_id, case.node_id, case.suite, RunHistory((), runs[case.id]))
            for case in others
            if runs[case.id] >= min_runs
        ]
        if len(cases) < FILL_BATCH:
            break
        after = cases[-1].id
    return found[: max(0, limit)]


def to_item(case: CaseHistory, history: RunHistory) -> HealthItem:
    assessed = history.newest(MAX_ASSESSED_RUNS)
    assessment: Assessment = assess(assessed.to_bytes())
    return to_view(
        HealthItem,
        assessment,
        test_id=case.id,
        name=case.node_id,
        suite=case.suite,
        runs=history.runs,
        failed_runs=sum(run.flags & FAILED != 0 for run in history.notable),
        retried_runs=sum(run.flags & RETRIED != 0 for run in history.notable),
        broken_builds=sum(run.flags & BROKEN_BUILD != 0 for run in history.notable),
        other_branches=sum(run.flags & OTHER_BRANCH != 0 for run in history.notable),
        outages=sum(run.flags & OUTAGE != 0 for run in history.notable),
        assessed_runs=assessed.runs - sum(run.flags & LEFT_OUT != 0 for run in assessed.notable),
    )


def group_failures(texts: Sequence[FailureText]) -> list[FailurePattern]:
    """Groups failures, which are ordered from the newest to the oldest. Returns the groups, the largest first."""
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
    """Returns the first line of a message, with placeholders for parts that change from run to run."""
    lines = message.strip().splitlines() or ["(no message)"]
    return mask(lines[0][:MAX_MASKED_LENGTH])[:MAX_PATTERN_LENGTH] or "(no message)"


def find_counting(history: RunHistory) -> set[int]:
    """Returns the builds with failed or retried runs that are not left out."""
    return {run.build_id for run in history.notable if run.flags & (FAILED | RETRIED) and not run.flags & LEFT_OUT}


def recommend(item: HealthItem, patterns: Sequence[FailurePattern], counting: set[int], days: int) -> str:
    what = SENTENCES[item.recommended_action]
    within = "today" if days == 1 else f"in {days} days"
    if not item.runs:
        return f"{what}: the test has not run {within}."
    if not item.failed_runs and not item.retried_runs:
        return f"{what}: all {item.runs} runs {within} passed."
    retried = f", and {item.retried_runs} passed on a retry only" if item.retried_runs else ""
    sentence = f"{what}: {item.failed_runs} of {item.runs} runs {within} failed{retried}."
    for number, reason in (
        (item.broken_builds, "since most tests of their builds failed"),
        (item.other_branches, "being on other branches than the default one"),
        (item.outages, "since the machine, the network or another system failed"),
    ):
        if number:
            sentence += f" {number} of them {'does' if number == 1 else 'do'} not count, {reason}."
    frequent = max(patterns, key=lambda pattern: len(counting.intersection(pattern.builds)), default=None)
    if frequent is not None and counting.intersection(frequent.builds):
        sentence += f" The most frequent failure: {frequent.message}"
    return sentence


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
