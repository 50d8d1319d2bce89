"""Test results: the totals of a build, its results, and the history of a test."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, get
from litestar.params import Parameter
from psycopg import AsyncConnection

from api.builds import read_build
from api.first_failures import FirstBad, to_first_bad
from api.http.as_of import as_of
from api.http.paging import Paged, check_one_offset, next_page
from api.http.permissions import CAN_READ
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, to_view
from api.recorded_classifications import RecordedClassification, find_recorded_classification
from commands.reports.causes import MAX_EXAMPLES, CauseKind, EqualFailures, FailureCause, find_causes
from domain.core.errors import NotFound
from domain.failures.stack_similarity import MAX_TRACES
from domain.quarantine import filter_quarantined
from domain.results import FAILED, PASSED, SKIPPED, STATUSES, ResultStatus
from domain.triage import Classification, Source
from projections import first_failures, quarantine, results_history, results_queries, test_health
from projections.results_history import ResultOrigin
from projections.results_queries import ReportRanges, Result, ResultFilters, SuiteTotal
from projections.time_travel.historical_reads import REPORT_HISTORY, TESTS_HISTORY

BuildId = Annotated[int, Parameter(ge=1, le=MAX_ID, description="Build ID to query tests for")]
Page = Annotated[int, Parameter(ge=1, le=1_000_000, description="Page number")]
Limit = Annotated[int, Parameter(ge=1, le=200, description="Results per page")]
Past = Annotated[int, Parameter(ge=1, le=200, description="Number of past runs to return")]
After = Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Only results after this id, instead of a page")]


class SuiteItem(msgspec.Struct):
    name: str
    total: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    duration_s: float = 0.0


class ReportFile(msgspec.Struct):
    path: str
    cases: int
    flaky: int
    """Number of flaky results in the report."""
    warnings: list[str]


class CauseView(msgspec.Struct):
    """Failures of a build that probably have one cause: their stack traces are similar, or their tests have failed
    together in earlier builds.
    """

    kind: CauseKind
    """`infrastructure` if the message is about the network, the machine or another system, else `test`."""
    tests: int
    """Number of results that failed for this cause."""
    result_ids: list[int]
    """Ids of the first results that failed for this cause; at most 20."""
    signatures: list[str]
    """Signatures of the results that failed for this cause. Equal failures have one signature."""
    message: str
    """Message of the first result that failed for this cause."""
    failed_together: list[int]
    """Ids of the newest 20 builds in which tests of this cause failed together; empty if the cause was found by stack
    traces.
    """


class ReportView(msgspec.Struct):
    """Totals of a build. Each test counts with its last attempt.

    `known_issues` and `quarantined` count failures that do not fail the build. A failure that the reporter marks as
    known counts as a known issue. Any other failure of a test in quarantine counts as quarantined.
    """

    build_id: int
    total: int
    passed: int
    failed: int
    skipped: int
    duration_s: int
    """Sum of the durations of the tests in seconds. The build may have taken longer or, with parallel tests, less."""
    known_issues: int
    classified_by_rules: int
    """Number of failures that a known issue of this server, or a classification rule of the project, has classified.
    The classification does not keep them from failing the build. `known_issues` counts the failures that the report
    itself marks as known.
    """
    quarantined: int
    flaky: int
    """Number of results that passed only on a retry, or whose outcome differs from that in another build of the job on
    this commit.
    """
    causes: list[CauseView]
    """Causes of the failures, the one with most failures first. Considers only the first 20,000 failures, and among
    these only the failures with the 60 most frequent signatures.
    """
    suites: list[SuiteItem]
    """Totals of each suite."""
    reports: list[ReportFile]
    warnings: list[str]


class TestItem(msgspec.Struct):
    __test__ = False

    id: int
    test_case_id: int
    node_id: str
    """Node id of the test, which is the same in every build."""
    status: ResultStatus
    duration_ms: int
    message: str
    suite: str
    attempt: int
    flaky: bool
    known_issue: bool
    """Whether the reporter marks this failure as known. If the failure matches a known issue of this server,
    `known_issue_id` is the id of that issue.
    """
    quarantined: bool
    """Whether quarantine kept this failure from failing the build."""
    quarantined_now: bool
    """Whether the test is in its job's quarantine now."""
    classification: Classification | None
    classified_by: Source | None
    """Source of the classification: `user`, `rule`, `ai` or `statistics`; null if the failure is not classified."""
    set_by: str | None
    defect_key: str | None
    defect_url: str | None
    resolution: str | None
    resolution_by: str | None
    known_issue_id: int | None
    fail_id: str
    signature: str
    test_resolution: str


class TestPage(msgspec.Struct):
    __test__ = False

    total: int
    results: list[TestItem]


class TestDetail(TestItem):
    build_id: int
    first_bad: FirstBad | None
    """Build in which the test began to fail; null if it did not fail in this build."""
    matched: RecordedClassification | None
    """Why the failure was classified when its report was recorded; null if nothing matched. If a person has classified
    the failure, their classification counts instead.
    """
    trace: str
    """Stack trace or other details of the failure."""
    system_out: str
    """Text that the test wrote to its standard output."""
    system_err: str
    """Text that the test wrote to its standard error."""
    properties: list[tuple[str, str]]
    """Properties of the test, as name and value."""


class PastRun(msgspec.Struct):
    id: int
    build_id: int
    status: ResultStatus
    duration_ms: int
    attempt: int
    flaky: bool
    known_issue: bool
    """Whether the reporter marks this failure as known."""
    quarantined: bool
    """Whether quarantine kept this failure from failing the build."""
    message: str
    branch: str
    commit_sha: str | None
    recorded_at: datetime
    """Time at which the result was recorded."""
    classification: Classification | None
    classified_by: Source | None
    """Source of the classification: `user`, `rule`, `ai` or `statistics`; null if the failure is not classified."""
    set_by: str | None
    defect_key: str | None
    defect_url: str | None
    resolution: str | None
    resolution_by: str | None
    known_issue_id: int | None


class History(msgspec.Struct):
    test_case_id: int
    node_id: str
    """Node id of the test, which is the same in every build."""
    history: list[PastRun]
    """Past results of the test, the newest first."""


class TestController(Controller):
    __test__ = False
    path = ""
    tags = ["Reports & Tests"]

    @get("/report/{build_id:int}", guards=[CAN_READ], **as_of(REPORT_HISTORY, "build_id"))
    async def get_report(self, ctx: RequestContext, build_id: int) -> ReportView:
        """Returns the totals of a build's results, by suite and by report, and the causes of its failures: failed tests
        with similar stack traces count as one cause, and so do tests that have failed together again and again.
        """
        async with read_build(ctx, build_id) as (connection, _):
            ranges = await results_queries.fetch_reports(connection, build_id)
            totals = await results_queries.fetch_totals(connection, ranges)
            by_rules = await results_queries.count_classified_by_rules(connection, ranges)
            failures: list[EqualFailures] = []
            if any(total.status == FAILED for total in totals):
                failures = await results_queries.fetch_equal_failures(
                    connection, ranges, EqualFailures, signatures=MAX_TRACES, examples=MAX_EXAMPLES
                )
            compared = [] if ctx.is_historical else [failure.case_id for failure in failures]
            failing = await test_health.fetch_failing(connection, compared, build_id)
        # In a thread, since comparing many long traces takes tenths of a second.
        causes = await asyncio.to_thread(find_causes, failures, failing) if failures else []
        return to_report_view(build_id, ranges, totals, by_rules, causes)

    @get("/tests", guards=[CAN_READ], **as_of(TESTS_HISTORY, "build_id"))
    async def list_tests(
        self,
        ctx: RequestContext,
        build_id: BuildId,
        status: Annotated[ResultStatus | None, Parameter(description="Only results of this status")] = None,
        suite: Annotated[str | None, Parameter(max_length=4_096, description="Filter by test suite name")] = None,
        search: Annotated[str | None, Parameter(max_length=1_000, description="Filter by test name substring")] = None,
        classification: Annotated[Classification | None, Parameter(description="Filter by classification")] = None,
        page: Page = 1,
        limit: Limit = 50,
        after: After = None,
        all_attempts: Annotated[bool, Parameter(description="Also earlier attempts of repeated tests")] = False,
    ) -> Response[TestPage]:
        """Returns a page of the results of a build, in the order of its reports. Returns only the last attempt of each
        test, unless `all_attempts` is true.
        """
        filters = ResultFilters(
            status=STATUSES.index(status) if status is not None else None,
            suite=suite,
            search=search or None,
            classification=classification,
            all_attempts=all_attempts,
        )
        check_one_offset(ctx.request, "after")
        paged = Paged(page, limit, after or 0)
        async with read_build(ctx, build_id) as (connection, build):
            ranges = await results_queries.fetch_reports(connection, build_id)
            total = await results_queries.count(connection, ranges, filters)
            keyset = msgspec.structs.replace(filters, after_id=after or 0)
            found = await results_queries.fetch_page(connection, ranges, keyset, limit, paged.offset)
            quarantined = await find_quarantined(connection, build.job_id, ctx.effective_time, found)
        headers = next_page(ctx.request, limit, [result.id for result in found])
        return Response(TestPage(total, [to_item(ranges, result, quarantined) for result in found]), headers=headers)

    @get("/tests/{test_id:int}", guards=[CAN_READ])
    async def get_test(self, ctx: RequestContext, test_id: int) -> TestDetail:
        """Returns one result with its trace, output and properties."""
        async with ctx.reading() as connection:
            origin = await find_visible_result(ctx, test_id)
            ranges = await results_queries.find_report_of(connection, test_id)
            alone = ResultFilters(all_attempts=True, after_id=test_id - 1)
            found = await results_queries.fetch_page(connection, ranges, alone, 1, 0)
            if not found:  # deleted a moment ago
                raise NotFound(f"There is no test result {test_id}.")
            (result,) = found
            text = await results_history.find_text(connection, test_id)
            quarantined = await find_quarantined(connection, origin.job_id, ctx.effective_time, [result])
            system_out, system_err = await results_history.fetch_outputs(connection, ranges, test_id)
            matched = await find_recorded_classification(connection, origin.project_id, test_id, text)
            began = None
            if result.status == FAILED:
                began = await first_failures.find(connection, origin.case_id, origin.build_id, test_id)
        return to_view(
            TestDetail,
            to_item(ranges, result, quarantined),
            message=text.message if text is not None else "",
            build_id=origin.build_id,
            first_bad=None if began is None else to_first_bad(began),
            matched=matched,
            trace=text.trace if text is not None else "",
            system_out=system_out,
            system_err=system_err,
            properties=text.properties if text is not None else [],
        )

    @get("/tests/{test_id:int}/history", guards=[CAN_READ])
    async def get_test_history(self, ctx: RequestContext, test_id: int, limit: Past = 20) -> History:
        """Returns the results of a test in all builds, the newest first. `test_id` is the id of any of these
        results.
        """
        async with ctx.reading() as connection:
            origin = await find_visible_result(ctx, test_id)
            runs = await results_history.fetch_history(connection, origin.case_id, limit)
        return History(
            test_case_id=origin.case_id,
            node_id=origin.node_id,
            history=[
                to_view(PastRun, run, status=STATUSES[run.status], **msgspec.structs.asdict(run.triage)) for run in runs
            ],
        )


async def find_quarantined(
    connection: AsyncConnection, job_id: int, now: datetime, found: Sequence[Result]
) -> set[str]:
    """Returns the node ids of the results in `found` whose tests are in the job's quarantine at the time `now`."""
    entries = await quarantine.fetch_node_ids(connection, job_id, now) if found else []
    return filter_quarantined((result.node_id for result in found), entries)


async def find_visible_result(ctx: RequestContext, result_id: int) -> ResultOrigin:
    return await ctx.find_visible(results_history.find_origin, "test result", result_id)


def to_report_view(
    build_id: int, ranges: ReportRanges, totals: list[SuiteTotal], by_rules: int, causes: Sequence[FailureCause]
) -> ReportView:
    suites: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    durations: dict[str, int] = defaultdict(int)
    flaky = [0] * len(ranges.reports)
    for total in totals:
        flaky[total.report] += total.flaky
        name = ranges.reports[total.report].suites[total.suite]
        suites[name][total.status] += total.results
        durations[name] += total.duration_ms
    by_status = [sum(counts[status] for counts in suites.values()) for status in (PASSED, FAILED, SKIPPED)]
    return ReportView(
        build_id=build_id,
        total=sum(by_status),
        passed=by_status[PASSED],
        failed=by_status[FAILED],
        skipped=by_status[SKIPPED],
        duration_s=round(sum(durations.values()) / 1_000),
        known_issues=sum(total.known_issues for total in totals),
        classified_by_rules=by_rules,
        quarantined=sum(total.quarantined for total in totals),
        flaky=sum(flaky),
        causes=[to_view(CauseView, cause, tests=cause.results) for cause in causes],
        suites=[
            SuiteItem(
                name=name,
                total=sum(counts.values()),
                passed=counts[PASSED],
                failed=counts[FAILED],
                skipped=counts[SKIPPED],
                duration_s=durations[name] / 1_000,
            )
            for name, counts in suites.items()
        ],
        reports=[to_view(ReportFile, report, flaky=flaky[index]) for index, report in enumerate(ranges.reports)],
        warnings=[f"{report.path}: {warning}" for report in ranges.reports for warning in report.warnings],
    )


def to_item(ranges: ReportRanges, result: Result, quarantined_now: set[str]) -> TestItem:
    return to_view(
        TestItem,
        result,
        test_case_id=result.case_id,
        status=STATUSES[result.status],
        suite=ranges.report_of(result.id).suites[result.suite],
        quarantined_now=result.node_id in quarantined_now,
        **msgspec.structs.asdict(result.triage),
    )
