"""Records the results of a report: reads the file, looks up the tests in the read models, and appends the results."""

import asyncio
from array import array
from collections.abc import Sequence
from pathlib import Path

from api.http.request_context import RequestContext
from commands.reports.columns import ReportRead, read_report
from commands.reports.matching import Match, Rule, Rules
from commands.results import Earlier, NewCases, RecordReport, must_take_reports, recorded
from domain.builds import BUILD, AnyBuild, Report, ReportRecorded
from domain.core.errors import NotFound, Unavailable
from domain.results import FAILED
from projections import known_issues, results_queries
from projections.results_cases import fetch_catalogue_version, find_case_ids
from store.clock import utcnow
from store.log.append import VersionConflict

LOOKUP_BATCH_SIZE = 5_000
"""Node ids that one query looks up."""
MAX_ATTEMPTS = 10
SHOWN_LIMIT_S = 30.0
"""Seconds that a report waits until the read models show what was recorded before it."""


async def record_report(ctx: RequestContext, build_id: int, attempt: int, path: str, file: Path) -> Report:
    """Records a report of a build's current attempt; returns the first recording for a report that is sent again.

    Raises NotFound, Conflict when the build takes no reports (any more), Unavailable when the read models lag.
    """
    build = await ctx.services.log.load_state(BUILD.at(build_id))
    if build is None:
        raise NotFound(f"There is no build {build_id}.")
    if (known := recorded(build, attempt, path)) is not None:
        return known
    must_take_reports(build, attempt)
    return await record_parsed(ctx, build, attempt, path, await asyncio.to_thread(read_report, file))


async def record_parsed(ctx: RequestContext, build: AnyBuild, attempt: int, path: str, report: ReportRead) -> Report:
    """Records a report that has been read already; raises as `record_report` does."""
    first_result_id = await ctx.services.ids.draw_range("results", max(1, report.rows))
    matches = await _find_matches(ctx, build.queued.project_id, report)
    for _ in range(MAX_ATTEMPTS):
        command = await _make_command(ctx, build, attempt, path, report, first_result_id, matches)
        try:
            current = (await ctx(command)).state(BUILD.at(build.build_id))
        except VersionConflict:
            # Another report has recorded tests of the project or results of the build since the look-up: looks up again
            # once the read models show them.
            await _wait_until_shown(ctx, await ctx.services.log.read_head())
            current = await ctx.services.log.load_state(BUILD.at(build.build_id))
        if current is not None and (known := recorded(current, attempt, path)) is not None:
            return known
        build = current or build
    raise Unavailable("Other reports of this project keep coming first; send this one again.")


async def _find_matches(ctx: RequestContext, project_id: int, report: ReportRead) -> Sequence[Match]:
    """Returns the failures that the project's known issues match."""
    if FAILED not in report.statuses:
        return ()
    async with ctx.reading() as connection:
        ways = await known_issues.fetch_match_rules(connection, project_id)
    rules = (Rule(way.known_issue_id, way.classification, way.kind, way.value) for way in ways)
    return await asyncio.to_thread(lambda: Rules(rules).matches(report)) if ways else ()


async def _make_command(
    ctx: RequestContext,
    build: AnyBuild,
    attempt: int,
    path: str,
    report: ReportRead,
    first_result_id: int,
    matches: Sequence[Match],
) -> RecordReport:
    project_id = build.queued.project_id
    async with ctx.reading() as connection:
        version = await fetch_catalogue_version(connection, project_id)
        case_ids: list[int | None] = []
        for start in range(0, len(report.node_ids), LOOKUP_BATCH_SIZE):
            case_ids += await find_case_ids(connection, project_id, report.node_ids[start : start + LOOKUP_BATCH_SIZE])
    new = [index for index, case_id in enumerate(case_ids) if case_id is None]
    new_cases = None
    if new:
        new_cases = NewCases(
            project_id=project_id,
            catalogue_version=version,
            first_case_id=await ctx.services.ids.draw_range("test_cases", len(new)),
            node_ids=[report.node_ids[index] for index in new],
            suites=[report.suites[report.case_suites[index]] for index in new],
        )
        for number, index in enumerate(new):
            case_ids[index] = new_cases.first_case_id + number
    ids = array("q", (case_id for case_id in case_ids if case_id is not None))
    return RecordReport(
        build_id=build.build_id,
        attempt=attempt,
        path=path,
        report=report,
        first_result_id=first_result_id,
        case_ids=ids,
        results_version=build.results_version,
        new_cases=new_cases,
        earlier=await _find_earlier(ctx, build, attempt, ids.tolist()),
        matches=matches,
        now=utcnow(),
    )


async def _find_earlier(ctx: RequestContext, build: AnyBuild, attempt: int, case_ids: list[int]) -> dict[int, Earlier]:
    """Returns the results of these test cases from other reports of the attempt, by case id."""
    if not any(report.attempt == attempt and report.cases for report in build.reports):
        return {}
    history = (await ctx.services.log.load([BUILD.at(build.build_id).name]))[BUILD.at(build.build_id).name]
    await _wait_until_shown(ctx, max(item.position for item in history if isinstance(item.event, ReportRecorded)))
    async with ctx.reading() as connection:
        ranges = await results_queries.fetch_reports_of_attempt(connection, build.build_id, attempt)
        found = await results_queries.fetch_counted(connection, ranges, case_ids)
    return {item.case_id: Earlier(item.id, item.status, item.known_issue, item.quarantined) for item in found}


async def _wait_until_shown(ctx: RequestContext, position: int) -> None:
    """Returns when the read models show the position. Raises Unavailable after `SHOWN_LIMIT_S`."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + SHOWN_LIMIT_S
    while clock() < deadline:
        if await ctx.services.waiter.wait(position):
            return
        await asyncio.sleep(0.1)  # wait() returns at once while the read models lag by more than its limit
    raise Unavailable("The read models lag behind; send this report again.")
