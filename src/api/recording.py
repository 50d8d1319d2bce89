"""Recording a report: read the file, look up what the read models know of its tests, and append it all at once."""

import asyncio
from array import array
from collections.abc import Sequence
from pathlib import Path

from api.http.request_context import RequestContext
from commands.reports.columns import ReportRead, read_report
from commands.results import Earlier, NewCases, RecordReport, must_take_reports, recorded
from commands.rules.matching import Match, Rule, Rules
from domain.builds import BUILD, AnyBuild, Report, ReportRecorded
from domain.core.errors import NotFound, Unavailable
from domain.results import FAILED
from projections import known_issues, results_queries
from projections.results_cases import fetch_catalogue_version, find_case_ids
from store.clock import utcnow
from store.log.append import VersionConflict

LOOKED_UP = 5_000
"""Node ids looked up in one query."""
TRIES = 10
PATIENCE_S = 30.0
"""How long a report waits for the read models to show what was recorded just before it."""


async def record_report(ctx: RequestContext, build_id: int, attempt: int, path: str, file: Path) -> Report:
    """Records a report file of a build's current attempt; sent again, it answers as at the first time.

    Raises NotFound, Conflict when the build takes no reports (any more), Unavailable when the read models lag.
    """
    build = await ctx.services.log.load_state(BUILD.at(build_id))
    if build is None:
        raise NotFound(f"There is no build {build_id}.")
    if (known := recorded(build, attempt, path)) is not None:
        return known
    must_take_reports(build, attempt)
    return await record(ctx, build, attempt, path, await asyncio.to_thread(read_report, file))


async def record(ctx: RequestContext, build: AnyBuild, attempt: int, path: str, report: ReportRead) -> Report:
    """As `record_report`, for a report that was read already."""
    first_result_id = await ctx.services.ids.draw_range("results", max(1, report.rows))
    matches = await _matches(ctx, build.queued.project_id, report)
    for _ in range(TRIES):
        command = await _command(ctx, build, attempt, path, report, first_result_id, matches)
        try:
            current = (await ctx(command)).state(BUILD.at(build.build_id))
        except VersionConflict:
            # Others recorded cases of the project or results of the build since the look-up. Look again, when shown.
            await _shown(ctx, await ctx.services.log.read_head())
            current = await ctx.services.log.load_state(BUILD.at(build.build_id))
        if current is not None and (known := recorded(current, attempt, path)) is not None:
            return known
        build = current or build
    raise Unavailable("Other reports of this project keep coming first; send this one again.")


async def _matches(ctx: RequestContext, project_id: int, report: ReportRead) -> Sequence[Match]:
    """The failures that the project's known issues match."""
    if FAILED not in report.statuses:
        return ()
    async with ctx.reading() as connection:
        ways = await known_issues.fetch_match_rules(connection, project_id)
    rules = (Rule(way.known_issue_id, way.classification, way.kind, way.value) for way in ways)
    return await asyncio.to_thread(lambda: Rules(rules).matches(report)) if ways else ()


async def _command(
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
        for start in range(0, len(report.node_ids), LOOKED_UP):
            case_ids += await find_case_ids(connection, project_id, report.node_ids[start : start + LOOKED_UP])
    new = [place for place, case_id in enumerate(case_ids) if case_id is None]
    new_cases = None
    if new:
        new_cases = NewCases(
            project_id=project_id,
            catalogue_version=version,
            first_case_id=await ctx.services.ids.draw_range("test_cases", len(new)),
            node_ids=[report.node_ids[place] for place in new],
            suites=[report.suites[report.case_suites[place]] for place in new],
        )
        for number, place in enumerate(new):
            case_ids[place] = new_cases.first_case_id + number
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
        earlier=await _earlier(ctx, build, attempt, ids.tolist()),
        matches=matches,
        now=utcnow(),
    )


async def _earlier(ctx: RequestContext, build: AnyBuild, attempt: int, case_ids: list[int]) -> dict[int, Earlier]:
    """The results of these cases that other reports of this attempt have brought."""
    if not any(report.attempt == attempt and report.cases for report in build.reports):
        return {}
    history = (await ctx.services.log.load([BUILD.at(build.build_id).name]))[BUILD.at(build.build_id).name]
    await _shown(ctx, max(item.position for item in history if isinstance(item.event, ReportRecorded)))
    async with ctx.reading() as connection:
        ranges = await results_queries.fetch_reports_of_attempt(connection, build.build_id, attempt)
        found = await results_queries.fetch_counted(connection, ranges, case_ids)
    return {item.case_id: Earlier(item.id, item.status, item.known_issue, item.quarantined) for item in found}


async def _shown(ctx: RequestContext, position: int) -> None:
    """Returns once the read models show the position; raises Unavailable when they do not get there."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE_S
    while clock() < deadline:
        if await ctx.services.waiter.wait(position):
            return
        await asyncio.sleep(0.1)  # the waiter answers at once when the lag is known to be long
    raise Unavailable("The read models lag behind; send this report again.")
