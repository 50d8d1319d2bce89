"""Health of tests: which tests of a project need attention, and why. `domain.test_health` has the formulas."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from heapq import nsmallest
from typing import Annotated

from litestar import Controller, get
from litestar.params import Parameter
from psycopg import AsyncConnection

from api.http.permissions import CAN_READ
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, to_view
from api.projects import find_visible_project
from api.test_health_views import (
    HealthItem,
    HealthList,
    TestHealthView,
    apply_decisions,
    find_counting,
    group_failures,
    recommend,
    to_evidence,
    to_item,
)
from domain.health_advice import Decisions, find_newest_failures
from domain.run_histories import RunHistory, count_failing
from domain.test_health import FAILED, RETRIED
from projections import jobs, quarantine, test_health
from projections.known_causes import fetch_known_causes
from projections.missed_builds import count_newer_builds
from projections.results_days import day_of
from projections.test_health import MAX_SUSPECTS, CaseHistory

MIN_ASSESSED = 300
"""Smallest number of tests that are assessed in order to find the worst ones for an answer."""
ASSESSED_SHARE = 3
"""Number of tests that are assessed for each test that the request asks for. At least MIN_ASSESSED tests are assessed
in all.
"""
MAX_BUILDS = 50
"""Largest number of builds that an answer lists for a test."""
FILL_BATCH = 2_000
"""Number of test cases that one query reads while the server looks for healthy tests."""

ProjectId = Annotated[int, Parameter(ge=1, le=MAX_ID, description="Project to analyze")]
Days = Annotated[int, Parameter(ge=1, le=365, description="Look-back window: today, in UTC, and the days before it")]


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
        shown = [*items, *others][:limit]
        async with ctx.reading() as connection:
            decisions = await fetch_decisions(
                connection, project_id, shown, {case.id: history for case, history in assessed}, ctx.effective_time
            )
        return HealthList([apply_decisions(item, decisions[item.test_id]) for item in shown], len(histories))

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
            found_decisions = await fetch_decisions(
                connection, row.project_id, [item], {id: history}, ctx.effective_time
            )
            last = history.find_last_failing()
            newer = await count_newer_builds(connection, () if last is None else (last.build_id,))
        decisions = found_decisions[id]
        item = apply_decisions(item, decisions)
        patterns = await asyncio.to_thread(group_failures, texts)
        return to_view(
            TestHealthView,
            item,
            failure_patterns=[pattern.message for pattern in patterns],
            failures=patterns,
            correlated_builds=[build for build in newest if build in builds][:MAX_BUILDS],
            recommendation=recommend(item, patterns, find_counting(history), days, decisions, sum(newer.values())),
            evidence=to_evidence(history),
        )


async def fetch_decisions(
    connection: AsyncConnection,
    project_id: int,
    items: Sequence[HealthItem],
    histories: Mapping[int, RunHistory],
    now: datetime,
) -> dict[int, Decisions]:
    """Returns test id -> what people decided about the test: its quarantine, and the known issue that explains its
    failures. Known issues are looked for only for flaky tests.
    """
    job_ids = await jobs.fetch_ids(connection, project_id)
    entries = await quarantine.fetch_containing(connection, job_ids, {item.name for item in items}, now)
    failures = {item.test_id: find_newest_failures(histories[item.test_id]) for item in items if item.is_flaky}
    known = await fetch_known_causes(connection, failures)
    return {item.test_id: Decisions(entries.get(item.name, ()), known.get(item.test_id)) for item in items}


def pick_worst(histories: Sequence[tuple[CaseHistory, RunHistory]], limit: int) -> list[tuple[CaseHistory, RunHistory]]:
    """Returns the `limit` histories that are most worth assessing: first those of tests that are failing now, then
    those with the largest share of failing runs. Assessing one history takes a tenth of a millisecond, so assessing all
    of them would take too long.
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
    """Returns up to `limit` test cases that have at least `min_runs` runs since the day `since`, ordered by id. Leaves
    out the test cases whose ids are in `without`.
    """
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
