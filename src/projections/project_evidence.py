"""Queries for what is known about a project in a look-back window: how often its builds pass, which tests are flaky,
and which failures recur.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from psycopg import AsyncConnection

from domain.assistant.evidence import FailurePatternFacts, FlakyTestFacts, ProjectFacts
from domain.failures.message_masks import find_shared_message
from domain.health_advice import find_newest_failures
from domain.phrases import first_line
from domain.run_histories import RunHistory, count_failing
from domain.test_health import FAILED, assess
from projections import test_health, trends
from projections.known_causes import fetch_known_causes
from projections.results_days import day_of
from projections.test_health import CaseHistory, FailureText
from store.clock import utcnow

MAX_CASES = 200
"""Largest number of tests whose flakiness is assessed: those that failed most often in the window."""
MAX_FLAKY_TESTS = 10
MAX_PATTERNS = 10
PATTERN_CASES = 20
"""Largest number of tests whose failures are grouped into patterns: those that failed most often in the window."""
PATTERN_BUILDS = 10
"""Largest number of builds, for each test, from which failures are grouped into patterns: the newest builds in which
the test failed.
"""
MAX_PATTERN = 300
"""Largest number of characters that are kept of a pattern."""


async def fetch_project_facts(connection: AsyncConnection, project_id: int, days: int) -> ProjectFacts:
    """Returns what is known about the last `days` days of a project: today, in UTC, and the days before it."""
    since = day_of(utcnow()) - days + 1
    first = datetime.fromtimestamp(0, UTC) + timedelta(days=since)
    both = await trends.fetch_trend(connection, "project_id", project_id, first - timedelta(days=days))
    now = [day for day in both if day.day >= first.date()]
    before = [day for day in both if day.day < first.date()]
    suspects = await test_health.fetch_suspects(connection, project_id, since, MAX_CASES)
    runs = await test_health.count_runs(connection, [case.id for case in suspects], since)
    histories = [(case, case.history.since_day(since, runs[case.id])) for case in suspects]
    flaky = await asyncio.to_thread(_find_flaky, histories)
    newest = {case.id: find_newest_failures(history) for case, history in histories}
    known = await fetch_known_causes(connection, {test.case_id: newest[test.case_id] for test in flaky})
    texts: list[FailureText] = []
    cut: set[int] = set()
    """Ids of the results of tests that failed in more than PATTERN_BUILDS builds, so that not all their failures were
    read.
    """
    for case, history in histories[:PATTERN_CASES]:
        failed = sorted({run.build_id for run in history.notable if run.flags & FAILED}, reverse=True)
        found = await test_health.fetch_failure_texts(connection, case.id, failed[:PATTERN_BUILDS], [])
        texts += found
        if len(failed) > PATTERN_BUILDS:
            cut |= {text.result_id for text in found}
    return ProjectFacts(
        id=project_id,
        days=days,
        passed=sum(day.passed for day in now),
        failed=sum(day.failed for day in now),
        passed_before=sum(day.passed for day in before),
        failed_before=sum(day.failed for day in before),
        flaky_tests=tuple([test for test in flaky if test.case_id not in known][:MAX_FLAKY_TESTS]),
        patterns=await asyncio.to_thread(group_failures, texts, cut, is_cut=len(suspects) > PATTERN_CASES),
    )


def _find_flaky(histories: list[tuple[CaseHistory, RunHistory]]) -> list[FlakyTestFacts]:
    """Returns the tests that are flaky by their history, those with the highest flake rates first."""
    found: list[FlakyTestFacts] = []
    for case, history in histories:
        assessment = assess(history.to_bytes())
        if assessment.is_flaky:
            failing, runs = count_failing(history)
            found.append(FlakyTestFacts(case.id, case.node_id, round(assessment.flake_rate, 4), runs, failing))
    return sorted(found, key=lambda test: (-test.flake_rate, test.case_id))


def group_failures(
    texts: Sequence[FailureText], cut: Collection[int], *, is_cut: bool = False
) -> tuple[FailurePatternFacts, ...]:
    """Groups failures by message or signature. Returns the groups with failures in more than one build, the most
    frequent first. `cut` has the ids of results whose tests have further failures that were not read. With `is_cut`,
    further tests were not read, so any group may be larger than it seems.
    """
    groups: dict[str, list[FailureText]] = {}
    for text in sorted(texts, key=lambda one: -one.result_id):
        groups.setdefault(find_shared_message(text.message) or text.signature or text.message, []).append(text)
    recurring = [group for group in groups.values() if len({text.build_id for text in group}) > 1]
    return tuple(
        FailurePatternFacts(
            first_line(group[0].message)[:MAX_PATTERN] or "(no message)",
            len(group),
            group[0].result_id,
            group[0].build_id,
            is_cut or any(text.result_id in cut for text in group),
        )
        for group in sorted(recurring, key=lambda group: (-len(group), -group[0].result_id))[:MAX_PATTERNS]
    )
