"""Queries over the results of one build: totals, pages, and tests that failed or were flaky.

The results of a report have contiguous ids, and are stored in blocks (`BlockRow`). `ReportRanges` has the range of ids
of each report of a build, and makes the SQL condition that selects the blocks in these ranges.

Blocks of other builds may lie between two ranges. The condition leaves them out by the SQL function `width_bucket`,
which finds by binary search the interval between two bounds that a block is in. Odd intervals are ranges, even
intervals are gaps.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any

import msgspec

from domain.flakiness import OtherResult
from domain.results import FAILED, SKIPPED
from projections.builds import BuildRow
from projections.engine.queries import T, fetch_all, fetch_column, fetch_value
from projections.results import ReportRow, ResultTextRow, SupersededRow
from projections.results_blocks import ATTEMPT, FLAKY, KNOWN_ISSUE, QUARANTINED, STATUS, select_each
from projections.results_cases import CaseStatsRow, TestCaseRow
from projections.triage import (
    HAS_CLASSIFICATION,
    IS_CLASSIFIED_BY_RULE,
    MAY_BE_CLASSIFIED_BY_RULES,
    TRIAGE_COLUMNS,
    TRIAGE_JOINS,
    ResultTriage,
    classification_parameters,
)
from store.postgres.queries import Source, fetch_rows

MESSAGE_LENGTH = 4_000
"""Number of characters of a failure message that lists show. `results_history.find_text` returns the whole message."""
MAX_FAILURES = 20_000
"""Largest number of failures of a build that `fetch_equal_failures` reads, in the order of the reports."""
TRACE_LENGTH = 16_384
"""Number of characters of a trace that are compared with other traces."""
MAX_SUITES = 32_768
"""Number above the number of suites that a report can have, so that `report index * MAX_SUITES + suite index`
identifies a suite of a build.
"""

IS_CURRENT = "r.attempt = b.attempt AND b.status <> 'queued' AND NOT r.is_replaced"
"""SQL condition: report `r` belongs to the current attempt of build `b`, and no other report has replaced it. Reports
of a lost attempt do not count, and a queued build has no results.
"""
_FLAGS = (KNOWN_ISSUE, FLAKY, QUARANTINED)
FACTS = "(CASE WHEN t.facts < 0 THEN ~t.facts ELSE t.facts END)"
"""SQL expression for the `facts` of a result `t`. Inverts the bits of a retried result back."""
FACT_COLUMNS = (
    f"{FACTS} & {STATUS}, {FACTS} / {ATTEMPT}, ({FACTS} & {KNOWN_ISSUE}) <> 0, ({FACTS} & {FLAKY}) <> 0,"
    f" ({FACTS} & {QUARANTINED}) <> 0, t.duration_ms"
)
"""SQL columns: status, attempt, known_issue, flaky, quarantined and duration_ms of a result `t`."""


@dataclass(frozen=True)
class ReportRanges:
    """Reports of one build, with the range of result ids of each."""

    reports: Sequence[ReportRow]
    """The reports, sorted by `first_result_id`."""
    has_superseded: bool
    """Whether an event of an older release replaced some results of the reports. Replaced results do not count."""

    @property
    def parameters(self) -> dict[str, Any]:
        bounds = [bound for r in self.reports for bound in (r.first_result_id, r.first_result_id + r.cases)]
        return {"bounds": bounds, "low": bounds[0] if bounds else 0, "high": bounds[-1] if bounds else 0}

    @property
    def within(self) -> str:
        """SQL condition that a result `t` belongs to one of these reports. The query needs `parameters`."""
        is_contiguous = all(a.first_result_id + a.cases == b.first_result_id for a, b in pairwise(self.reports))
        return _WITHIN if is_contiguous else f"{_WITHIN} AND width_bucket(t.block, %(bounds)s::bigint[]) %% 2 = 1"

    @property
    def counts(self) -> str:
        """SQL condition that a result `t` counts. The query needs `parameters` and, with `has_superseded`, `t.id`."""
        # PostgreSQL evaluates NOT IN with one hash table, however many results the planner expects.
        return f"t.facts >= 0 AND t.id NOT IN ({_SUPERSEDED})" if self.has_superseded else "t.facts >= 0"

    def select_counting(self, *columns: str) -> str:
        """Returns SQL, `FROM … t WHERE …`, that selects these columns of all results that count. The query needs
        `parameters`.
        """
        ids = ("id",) if self.has_superseded else ()
        return f"FROM {select_each(*columns, *ids)} t WHERE {self.within} AND {self.counts}"

    def report_of(self, result_id: int) -> ReportRow:
        return self.reports[bisect_right(self.reports, result_id, key=lambda report: report.first_result_id) - 1]

    def find_suites(self, name: str) -> list[int]:
        """Returns a number for each suite with this name, in any report: `report index * MAX_SUITES + suite index`."""
        return [
            report_index * MAX_SUITES + suite_index
            for report_index, report in enumerate(self.reports)
            for suite_index, suite in enumerate(report.suites)
            if suite == name
        ]


_REPORT_INDEX = "(width_bucket(t.block, %(bounds)s::bigint[]) - 1) / 2"
_WITHIN = "t.block >= %(low)s::bigint AND t.block < %(high)s::bigint"
_SUPERSEDED = f"SELECT s.id FROM {SupersededRow.table} s WHERE s.id >= %(low)s::bigint AND s.id < %(high)s::bigint"


class ResultFilters(msgspec.Struct, frozen=True):
    """Conditions on results: a result must meet all of them. A field that is None sets no condition."""

    status: int | None = None
    suite: str | None = None
    search: str | None = None
    classification: str | None = None
    all_attempts: bool = False
    """Whether to include retried attempts and superseded results, which do not count."""
    after_id: int = 0

    def _where(self, ranges: ReportRanges) -> str:
        conditions = [ranges.within]
        if self.after_id:
            conditions += ["t.block + t.results > %(after_id)s::bigint", "t.id > %(after_id)s::bigint"]
        if not self.all_attempts:
            conditions.append(ranges.counts)
        if self.status is not None:
            facts = FACTS if self.all_attempts else "t.facts"
            conditions.append(f"{facts} & {STATUS} = %(status)s::int")
        if self.suite is not None:
            conditions.append(f"{_REPORT_INDEX} * {MAX_SUITES} + t.suite = ANY (%(suites)s::int[])")
        if self.search is not None:
            conditions.append("strpos(lower(c.node_id), lower(%(search)s)) > 0")
        if self.classification is not None:
            conditions.append(HAS_CLASSIFICATION)
        return " AND ".join(conditions)

    def select(self, ranges: ReportRanges, *columns: str, joins: str = "") -> str:
        """Returns SQL, `FROM … t … WHERE …`, that selects the results that meet the conditions. The columns are the
        results' ids, test cases, facts and `columns`. `joins` is SQL that joins further tables. The query needs
        `parameters`.
        """
        of_suite = () if self.suite is None else ("suite",)
        cases = "" if self.search is None else f" JOIN {TestCaseRow.table} c ON c.id = t.case_id"
        return f"FROM {select_each('id', 'case_id', *of_suite, *columns)} t{cases}{joins} WHERE {self._where(ranges)}"

    def parameters(self, ranges: ReportRanges) -> dict[str, Any]:
        suites = [] if self.suite is None else ranges.find_suites(self.suite)
        return (
            ranges.parameters
            | classification_parameters(self.classification)
            | {
                "status": self.status,
                "suites": suites,
                "search": self.search,
                "after_id": self.after_id,
            }
        )


class SuiteTotal(msgspec.Struct, frozen=True):
    """Totals of the results with one status in one suite of one report."""

    report: int
    """Index into `ReportRanges.reports`."""
    suite: int
    """Index into the report's `suites`."""
    status: int
    results: int
    duration_ms: int
    known_issues: int
    flaky: int
    quarantined: int


class Result(msgspec.Struct, frozen=True):
    id: int
    case_id: int
    node_id: str
    status: int
    attempt: int
    known_issue: bool
    flaky: bool
    quarantined: bool
    duration_ms: int
    suite: int
    """Index into the report's `suites`."""
    message: str
    fail_id: str
    signature: str
    test_resolution: str
    triage: ResultTriage


async def fetch_reports(source: Source, build_id: int) -> ReportRanges:
    """Returns the reports of the build's current attempt."""
    return await _fetch_ranges(
        source,
        f"SELECT r.* FROM {ReportRow.table} r JOIN {BuildRow.table} b ON b.id = r.build_id AND {IS_CURRENT}"
        " WHERE r.build_id = %(id)s",
        build_id,
    )


async def find_report_of(source: Source, result_id: int) -> ReportRanges:
    """Returns the report that contains a result, also if the result does not count. The ranges are empty if no report
    contains the result.
    """
    return await _fetch_ranges(
        source,
        f"SELECT * FROM (SELECT * FROM {ReportRow.table} WHERE first_result_id <= %(id)s"
        " ORDER BY first_result_id DESC LIMIT 1) newest WHERE first_result_id + cases > %(id)s",
        result_id,
    )


async def _fetch_ranges(source: Source, reports: str, id: int) -> ReportRanges:
    has_superseded = (
        f"EXISTS (SELECT FROM {SupersededRow.table} s"
        " WHERE s.id >= r.first_result_id AND s.id < r.first_result_id + r.cases)"
    )
    query = f"SELECT r.*, {has_superseded} FROM ({reports}) r ORDER BY r.first_result_id"
    found = await fetch_rows(source, query, {"id": id})
    return ReportRanges([ReportRow(*row[:-1]) for row in found], any(row[-1] for row in found))


async def fetch_totals(source: Source, ranges: ReportRanges) -> list[SuiteTotal]:
    """Returns totals of the results that count: one for each report, suite and status, in this order."""
    # Most results of a block have the same suite and facts. The expressions are evaluated for the few groups only.
    groups = (
        "SELECT t.block, t.suite, t.facts, count(*) AS results, sum(t.duration_ms) AS duration_ms"
        f" {ranges.select_counting('duration_ms', 'suite')} GROUP BY 1, 2, 3"
    )
    flagged = (f"coalesce(sum(t.results) FILTER (WHERE (t.facts & {flag}) <> 0), 0)::bigint" for flag in _FLAGS)
    query = (
        f"SELECT {_REPORT_INDEX}, t.suite::int, (t.facts & {STATUS})::int, sum(t.results)::bigint,"
        f" sum(t.duration_ms)::bigint, {', '.join(flagged)} FROM ({groups}) t GROUP BY 1, 2, 3"
    )
    # Sort here: with ORDER BY, PostgreSQL would sort all results before it groups them.
    found = await fetch_all(source, SuiteTotal, query, ranges.parameters)
    return sorted(found, key=attrgetter("report", "suite", "status"))


async def count_classified_by_rules(source: Source, ranges: ReportRanges) -> int:
    """Returns the number of failures in these reports that known issues or classification rules have classified."""
    query = (
        f"SELECT count(*) {ranges.select_counting('id')} AND t.facts & {STATUS} = {FAILED}"
        f" AND {IS_CLASSIFIED_BY_RULE} AND {MAY_BE_CLASSIFIED_BY_RULES}"
    )
    return int(await fetch_value(source, query, ranges.parameters))


async def count(source: Source, ranges: ReportRanges, filters: ResultFilters) -> int:
    query = f"SELECT count(*) {filters.select(ranges)}"
    return int(await fetch_value(source, query, filters.parameters(ranges)))


async def fetch_page(
    source: Source,
    ranges: ReportRanges,
    filters: ResultFilters,
    limit: int,
    offset: int,
    *,
    excused_last: bool = False,
) -> list[Result]:
    """Returns a page of results in the order of the reports. With `excused_last`, quarantined failures and the
    reporter's known issues come after all other results.
    """
    first = f"({FACTS} & {KNOWN_ISSUE | QUARANTINED}) <> 0, " if excused_last else ""
    query = (
        f"WITH t AS (SELECT t.* {filters.select(ranges, 'duration_ms', 'suite')}"
        f" ORDER BY {first}t.block, t.id LIMIT %(limit)s OFFSET %(offset)s)"
        f" SELECT t.id, t.case_id, c.node_id, {FACT_COLUMNS}, t.suite::int,"
        f" left(coalesce(x.message, ''), {MESSAGE_LENGTH}),"
        f" coalesce(x.fail_id, ''), coalesce(x.signature, ''), coalesce(x.test_resolution, ''), {TRIAGE_COLUMNS}"
        f" FROM t JOIN {TestCaseRow.table} c ON c.id = t.case_id LEFT JOIN {ResultTextRow.table} x ON x.id = t.id"
        f"{TRIAGE_JOINS} ORDER BY {first}t.id"
    )
    parameters = filters.parameters(ranges) | {"limit": limit, "offset": offset}
    return await fetch_with_triage(source, Result, query, parameters)


async def fetch_with_triage(source: Source, into: type[T], query: str, parameters: dict[str, Any]) -> list[T]:
    """Runs a query whose last columns are TRIAGE_COLUMNS. Returns its rows as structs of the type `into`, whose last
    field is a `ResultTriage` made of these columns.
    """
    split = len(into.__struct_fields__) - 1
    return [into(*row[:split], ResultTriage(*row[split:])) for row in await fetch_rows(source, query, parameters)]


async def fetch_failed_node_ids(source: Source, build_id: int) -> list[str]:
    """Returns the node ids of the tests whose last attempt failed in the build, in the order of the reports."""
    return await _fetch_node_ids(source, build_id, "t.facts & %(status)s = %(failed)s")


async def fetch_flaky_node_ids(source: Source, build_id: int) -> list[str]:
    """Returns the node ids of a build's flaky tests, in the order of the reports.

    A test with a flaky result in the build counts as flaky. A failed test also counts if it ever had a flaky run, or if
    its failure is classified as flaky.
    """
    had_flaky_runs = f"EXISTS (SELECT 1 FROM {CaseStatsRow.table} n WHERE n.case_id = t.case_id AND n.flaky_runs > 0)"
    failed = "t.facts & %(status)s = %(failed)s"
    flaky = f"(t.facts & {FLAKY}) <> 0 OR ({failed} AND ({had_flaky_runs} OR {HAS_CLASSIFICATION}))"
    return await _fetch_node_ids(source, build_id, flaky)


async def fetch_equal_failures(
    source: Source, ranges: ReportRanges, into: type[T], *, signatures: int, examples: int
) -> list[T]:
    """Groups the failures in these reports by signature. Returns for each of up to `signatures` groups: signature,
    number of results, ids of the first `examples` results, and the message, the trace and the test case of the first
    result.

    Groups with failures that count against the build come before those with only quarantined failures and the
    reporter's known issues. Otherwise the largest groups come first. Reads at most MAX_FAILURES failures.
    """
    filters, texts = ResultFilters(status=FAILED), f" LEFT JOIN {ResultTextRow.table} x ON x.id = t.id"
    query = (
        f"WITH t AS (SELECT t.id, t.case_id, (t.facts & {KNOWN_ISSUE | QUARANTINED}) <> 0 AS is_excused,"
        f"  coalesce(x.signature, '') AS signature {filters.select(ranges, joins=texts)}"
        f"  ORDER BY t.block, t.id LIMIT {MAX_FAILURES}),"
        " g AS (SELECT signature, count(*) AS results, bool_and(is_excused) AS is_excused,"
        "  (array_agg(id ORDER BY is_excused, id))[1:%(examples)s] AS ids,"
        "  (array_agg(case_id ORDER BY is_excused, id))[1] AS case_id FROM t"
        "  GROUP BY signature ORDER BY is_excused, results DESC, min(id) LIMIT %(signatures)s)"
        f" SELECT g.signature, g.results, g.ids, left(coalesce(x.message, ''), {MESSAGE_LENGTH}),"
        f" left(coalesce(x.trace, ''), {TRACE_LENGTH}), g.case_id"
        f" FROM g LEFT JOIN {ResultTextRow.table} x ON x.id = g.ids[1]"
        " ORDER BY g.is_excused, g.results DESC, g.ids[1]"
    )
    parameters = filters.parameters(ranges) | {"signatures": signatures, "examples": examples}
    return await fetch_all(source, into, query, parameters)


async def fetch_statuses(source: Source, ranges: ReportRanges, cases: Sequence[int]) -> set[tuple[int, int]]:
    """Returns (test case id, status) of these test cases' results in these reports. Leaves out results that do not
    count.
    """
    query = (
        f"SELECT DISTINCT t.case_id, t.facts & {STATUS} {ranges.select_counting('case_id')}"
        " AND t.case_id = ANY (%(cases)s::int[])"
    )
    return set(await fetch_rows(source, query, ranges.parameters | {"cases": list(cases)}))


async def fetch_comparable(
    source: Source, build_id: int, ranges: ReportRanges, cases: Sequence[int]
) -> list[OtherResult]:
    """Returns the results in these reports that another build's results can be compared with. They are results of the
    test cases in `cases`, and of the test cases that failed in these reports. Leaves out skipped results and results
    that do not count.
    """
    query = (
        f"WITH t AS MATERIALIZED (SELECT {_REPORT_INDEX} AS report, t.suite, t.case_id, t.facts & {STATUS} AS status"
        f"  {ranges.select_counting('case_id', 'suite')} AND t.facts & {STATUS} <> {SKIPPED})"
        " SELECT report::int, suite::int, case_id, status::int FROM t"
        f" WHERE case_id = ANY (%(cases)s::int[]) OR case_id IN (SELECT case_id FROM t WHERE status = {FAILED})"
    )
    return [
        OtherResult(build_id, ranges.reports[report].suites[suite], case_id, status)
        for report, suite, case_id, status in await fetch_rows(
            source, query, ranges.parameters | {"cases": list(cases)}
        )
    ]


async def _fetch_node_ids(source: Source, build_id: int, condition: str) -> list[str]:
    ranges = await fetch_reports(source, build_id)
    query = (
        f"SELECT c.node_id FROM (SELECT t.case_id, min(t.id) AS first {ranges.select_counting('id', 'case_id')}"
        f" AND ({condition}) GROUP BY t.case_id) f"
        f" JOIN {TestCaseRow.table} c ON c.id = f.case_id ORDER BY f.first"
    )
    parameters = ranges.parameters | classification_parameters("flaky") | {"status": STATUS, "failed": FAILED}
    return await fetch_column(source, query, parameters)
