"""What is asked of results: totals of a build, its results by page, the history of a test.

Results are found by their blocks: `Spans` are the ranges of a build's reports. Where blocks of other builds lie between
them, `width_bucket` over their bounds finds by binary search in which range one lies (an odd bucket) or that it is in
none.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from operator import attrgetter
from typing import Any

import msgspec
from psycopg import AsyncConnection

from domain.results import FAILED
from projections.builds import BuildRow
from projections.engine.queries import T, all_rows, one_row, scalar
from projections.results import (
    ATTEMPT,
    FLAKY,
    KNOWN_ISSUE,
    QUARANTINED,
    STATUS,
    BlockRow,
    OutputsRow,
    ReportRow,
    ResultTextRow,
    SupersededRow,
)
from projections.test_cases import CaseStatsRow, TestCaseRow
from projections.triage import BY_RULE, CLASSIFIED, SAID, SAID_FROM, Said, classified

MESSAGE = 4_000
"""Characters of a message in lists; the single result has all of it."""
SUITES = 32_768  # more than a report can have

# An attempt that was lost with its node counts no more, and a build in the queue has no results.
_CURRENT = "r.attempt = b.attempt AND b.status <> 'queued'"


_REPORT_OF = f"SELECT * FROM {ReportRow.table} WHERE first_result_id <= t.id ORDER BY first_result_id DESC LIMIT 1"
"""The report of a result `t`, unless it is not there (yet): then it is the one before it."""

_PLACE = "%(id)s::bigint - b.first_result_id + 1"
"""Of the result with this id in the arrays of its block `b`."""


def block_with(result_id: str) -> str:
    """Of the block that holds a result, whose id this SQL is, all columns; none when there is no such block."""
    newest = (
        f"SELECT * FROM {BlockRow.table} WHERE first_result_id <= {result_id} ORDER BY first_result_id DESC LIMIT 1"
    )
    return f"SELECT * FROM ({newest}) newest WHERE first_result_id + results > {result_id}"


@dataclass(frozen=True)
class Spans:
    """The ranges of results of some reports of one build."""

    reports: Sequence[ReportRow]
    """By `first_result_id`."""

    @property
    def parameters(self) -> dict[str, Any]:
        bounds = [bound for r in self.reports for bound in (r.first_result_id, r.first_result_id + r.cases)]
        return {"bounds": bounds, "low": bounds[0] if bounds else 0, "high": bounds[-1] if bounds else 0}

    @property
    def within(self) -> str:
        """The condition that a result `t` is of these reports."""
        whole = all(a.first_result_id + a.cases == b.first_result_id for a, b in pairwise(self.reports))
        return _WITHIN if whole else f"{_WITHIN} AND width_bucket(t.block, %(bounds)s::bigint[]) %% 2 = 1"

    def report_of(self, result_id: int) -> ReportRow:
        return self.reports[bisect_right(self.reports, result_id, key=lambda report: report.first_result_id) - 1]

    def suites_named(self, name: str) -> list[int]:
        return [
            number * SUITES + place
            for number, report in enumerate(self.reports)
            for place, suite in enumerate(report.suites)
            if suite == name
        ]


_EACH = (
    "(SELECT b.first_result_id AS block, b.results, b.first_result_id + generate_series(0, b.results - 1) AS id,"
    " unnest(b.case_ids) AS case_id, unnest(b.durations_ms) AS duration_ms, unnest(b.suites) AS suite,"
    f" unnest(b.facts) AS facts FROM {BlockRow.table} b ORDER BY b.first_result_id)"
)
"""The results, one by one; found by their blocks, and in the order of `block, id` without all being sorted."""

_REPORT = "(width_bucket(t.block, %(bounds)s::bigint[]) - 1) / 2"
_WITHIN = "t.block >= %(low)s::bigint AND t.block < %(high)s::bigint"
# Hashed once, however many results the planner expects.
_COUNTS = (
    f"t.facts >= 0 AND t.id NOT IN (SELECT s.id FROM {SupersededRow.table} s"
    " WHERE s.id >= %(low)s::bigint AND s.id < %(high)s::bigint)"
)
_FACTS = "(CASE WHEN t.facts < 0 THEN ~t.facts ELSE t.facts END)"
_FLAGS = (
    f"{_FACTS} & {STATUS}, {_FACTS} / {ATTEMPT}, ({_FACTS} & {KNOWN_ISSUE}) <> 0, ({_FACTS} & {FLAKY}) <> 0,"
    f" ({_FACTS} & {QUARANTINED}) <> 0, t.duration_ms"
)


class Filters(msgspec.Struct, frozen=True):
    """None does not filter."""

    status: int | None = None
    suite: str | None = None
    search: str | None = None
    classification: str | None = None
    all_attempts: bool = False
    """Also attempts that later ones decide, and results whose place others took."""
    after_id: int = 0

    def where(self, spans: Spans) -> str:
        conditions = [spans.within, "t.block + t.results > %(after_id)s::bigint", "t.id > %(after_id)s::bigint"]
        if not self.all_attempts:
            conditions.append(_COUNTS)
        if self.status is not None:
            conditions.append(f"{_FACTS} & {STATUS} = %(status)s::int")
        if self.suite is not None:
            conditions.append(f"{_REPORT} * {SUITES} + t.suite = ANY (%(suites)s::int[])")
        if self.search is not None:
            conditions.append("strpos(lower(c.node_id), lower(%(search)s)) > 0")
        if self.classification is not None:
            conditions.append(CLASSIFIED)
        return " AND ".join(conditions)

    @property
    def tables(self) -> str:
        cases = f" JOIN {TestCaseRow.table} c ON c.id = t.case_id" if self.search is not None else ""
        return f"{_EACH} t{cases}"

    def parameters(self, spans: Spans) -> dict[str, Any]:
        suites = [] if self.suite is None else spans.suites_named(self.suite)
        return (
            spans.parameters
            | classified(self.classification)
            | {
                "status": self.status,
                "suites": suites,
                "search": self.search,
                "after_id": self.after_id,
            }
        )


class SuiteTotal(msgspec.Struct, frozen=True):
    report: int
    suite: int
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
    message: str
    fail_id: str
    signature: str
    test_resolution: str
    said: Said


class Run(msgspec.Struct, frozen=True):
    """A result as part of its test's history."""

    id: int
    build_id: int
    status: int
    attempt: int
    known_issue: bool
    flaky: bool
    quarantined: bool
    duration_ms: int
    message: str
    branch: str
    commit_sha: str | None
    recorded_at: datetime
    said: Said


class Known(msgspec.Struct, frozen=True):
    """A result of an earlier report, as recording the next one needs it."""

    id: int
    case_id: int
    status: int
    known_issue: bool
    quarantined: bool


class Origin(msgspec.Struct, frozen=True):
    """Where a result is from."""

    result_id: int
    case_id: int
    node_id: str
    build_id: int
    job_id: int
    project_id: int
    status: int
    fail_id: str
    signature: str
    rule: int | None
    """The known issue that classified it by itself."""
    rule_classification: int | None
    """Place in CLASSIFICATIONS."""


async def reports(connection: AsyncConnection, build_id: int) -> Spans:
    """The reports of a build that count."""
    query = (
        f"SELECT r.* FROM {ReportRow.table} r JOIN {BuildRow.table} b ON b.id = r.build_id AND {_CURRENT}"
        " WHERE r.build_id = %(build)s ORDER BY r.first_result_id"
    )
    return Spans(await all_rows(connection, ReportRow, query, {"build": build_id}))


async def reports_of_attempt(connection: AsyncConnection, build_id: int, attempt: int) -> Spans:
    query = (
        f"SELECT r.* FROM {ReportRow.table} r WHERE r.build_id = %(build)s AND r.attempt = %(attempt)s"
        " ORDER BY r.first_result_id"
    )
    return Spans(await all_rows(connection, ReportRow, query, {"build": build_id, "attempt": attempt}))


async def report_with(connection: AsyncConnection, result_id: int) -> Spans:
    """The report that holds a result, whether it counts or not."""
    query = f"SELECT * FROM {ReportRow.table} WHERE first_result_id <= %(id)s ORDER BY first_result_id DESC LIMIT 1"
    found = await all_rows(connection, ReportRow, query, {"id": result_id})
    return Spans([report for report in found if report.first_result_id + report.cases > result_id])


async def totals(connection: AsyncConnection, spans: Spans) -> list[SuiteTotal]:
    """By report (its place in the spans), suite (its place in the report's) and status."""
    query = (
        f"SELECT {_REPORT}, t.suite::int, t.facts & {STATUS}, count(*), sum(t.duration_ms)::bigint,"
        f" count(*) FILTER (WHERE (t.facts & {KNOWN_ISSUE}) <> 0), count(*) FILTER (WHERE (t.facts & {FLAKY}) <> 0),"
        f" count(*) FILTER (WHERE (t.facts & {QUARANTINED}) <> 0)"
        f" FROM {_EACH} t WHERE {spans.within} AND {_COUNTS} GROUP BY 1, 2, 3"
    )
    # Asked for an order, the database sorts all results.
    found = await all_rows(connection, SuiteTotal, query, spans.parameters)
    return sorted(found, key=attrgetter("report", "suite", "status"))


async def count(connection: AsyncConnection, spans: Spans, filters: Filters) -> int:
    query = f"SELECT count(*) FROM {filters.tables} WHERE {filters.where(spans)}"
    return int(await scalar(connection, query, filters.parameters(spans)))


async def page(connection: AsyncConnection, spans: Spans, filters: Filters, limit: int, offset: int) -> list[Result]:
    """In report order."""
    query = (
        f"WITH t AS (SELECT t.* FROM {filters.tables} WHERE {filters.where(spans)}"
        " ORDER BY t.block, t.id LIMIT %(limit)s OFFSET %(offset)s)"
        f" SELECT t.id, t.case_id, c.node_id, {_FLAGS}, t.suite::int, left(coalesce(x.message, ''), {MESSAGE}),"
        f" coalesce(x.fail_id, ''), coalesce(x.signature, ''), coalesce(x.test_resolution, ''), {SAID}"
        f" FROM t JOIN {TestCaseRow.table} c ON c.id = t.case_id LEFT JOIN {ResultTextRow.table} x ON x.id = t.id"
        f"{SAID_FROM} ORDER BY t.id"
    )
    parameters = filters.parameters(spans) | {"limit": limit, "offset": offset}
    return await _with_said(connection, Result, query, parameters)


async def _with_said(connection: AsyncConnection, into: type[T], query: str, parameters: dict[str, Any]) -> list[T]:
    """As `all_rows`; the last columns are SAID, the last field is `said`."""
    cursor = await connection.execute(query.encode(), parameters, prepare=True, binary=True)
    own = len(into.__struct_fields__) - 1
    return [into(*row[:own], Said(*row[own:])) for row in await cursor.fetchall()]


async def origin(connection: AsyncConnection, result_id: int) -> Origin | None:
    query = (
        f"SELECT t.id, t.case_id, c.node_id, r.build_id, r.job_id, r.project_id, {_FACTS} & {STATUS},"
        f" coalesce(x.fail_id, ''), coalesce(x.signature, ''), {BY_RULE}"
        f" FROM (SELECT %(id)s::bigint AS id, b.case_ids[{_PLACE}] AS case_id, b.facts[{_PLACE}] AS facts"
        f"  FROM ({block_with('%(id)s::bigint')}) b) t"
        f" JOIN {TestCaseRow.table} c ON c.id = t.case_id"
        f" JOIN LATERAL ({_REPORT_OF}) r ON r.first_result_id + r.cases > t.id"
        f" LEFT JOIN {ResultTextRow.table} x ON x.id = t.id{SAID_FROM}"
    )
    return await one_row(connection, Origin, query, {"id": result_id})


async def text(connection: AsyncConnection, result_id: int) -> ResultTextRow | None:
    query = f"SELECT * FROM {ResultTextRow.table} WHERE id = %(id)s"
    return await one_row(connection, ResultTextRow, query, {"id": result_id})


async def outputs(connection: AsyncConnection, spans: Spans, result_id: int) -> tuple[str, str]:
    """What a result of the spans' one report printed: `system_out` and `system_err`."""
    query = (
        f"SELECT outputs -> (%(id)s - first_result_id)::text FROM {OutputsRow.table}"
        " WHERE first_result_id <= %(id)s AND first_result_id >= %(low)s ORDER BY first_result_id DESC LIMIT 1"
    )
    found = await scalar(connection, query, {"id": result_id, "low": spans.parameters["low"]})
    return ("", "") if found is None else (found[0], found[1])


async def history(connection: AsyncConnection, case_id: int, limit: int) -> list[Run]:
    """The results of a test that count, newest first."""
    # All blocks that have it are soon found. They are looked into one by one until there are enough results: a test
    # may have run a hundred thousand times.
    query = (
        f"WITH found AS MATERIALIZED (SELECT first_result_id FROM {BlockRow.table}"
        f" WHERE case_ids @> ARRAY[%(case)s::int] ORDER BY first_result_id DESC),"
        " t AS MATERIALIZED (SELECT t.*, r.build_id, r.recorded_at, b.branch, b.commit_sha FROM found"
        f"  JOIN {BlockRow.table} block USING (first_result_id)"
        "  JOIN LATERAL (SELECT block.first_result_id + place - 1, block.facts[place], block.durations_ms[place]"
        "   FROM unnest(array_positions(block.case_ids, %(case)s::int)) AS place OFFSET 0"
        "  ) t (id, facts, duration_ms) ON t.facts >= 0"
        f"  JOIN LATERAL ({_REPORT_OF}) r ON r.first_result_id + r.cases > t.id"
        f"  JOIN {BuildRow.table} b ON b.id = r.build_id AND {_CURRENT}"
        f"  WHERE (SELECT true FROM {SupersededRow.table} s WHERE s.id = t.id) IS NULL"
        "  ORDER BY found.first_result_id DESC, t.id DESC LIMIT %(limit)s)"
        f" SELECT t.id, t.build_id, {_FLAGS}, left(coalesce(x.message, ''), {MESSAGE}), t.branch, t.commit_sha,"
        f" t.recorded_at, {SAID} FROM t LEFT JOIN {ResultTextRow.table} x ON x.id = t.id{SAID_FROM}"
        " ORDER BY t.id DESC"
    )
    return await _with_said(connection, Run, query, {"case": case_id, "limit": limit})


async def counting(connection: AsyncConnection, spans: Spans, case_ids: list[int]) -> list[Known]:
    """Results of these cases in the spans that count."""
    query = (
        f"SELECT t.id, t.case_id, t.facts & {STATUS}, (t.facts & {KNOWN_ISSUE}) <> 0,"
        f" (t.facts & {QUARANTINED}) <> 0 FROM {_EACH} t"
        f" WHERE {spans.within} AND {_COUNTS} AND t.case_id = ANY (%(cases)s::int[])"
    )
    return await all_rows(connection, Known, query, spans.parameters | {"cases": case_ids})


async def failed_node_ids(connection: AsyncConnection, build_id: int) -> list[str]:
    """The tests of a build that failed in the end, in report order."""
    return await _node_ids(connection, build_id, "t.facts & %(status)s = %(failed)s")


async def flaky_node_ids(connection: AsyncConnection, build_id: int) -> list[str]:
    """The tests of a build that passed only after a failure, or failed and are known for that or called flaky, in
    report order.
    """
    wavers = f"EXISTS (SELECT 1 FROM {CaseStatsRow.table} n WHERE n.case_id = t.case_id AND n.flaky_runs > 0)"
    flaky = f"(t.facts & {FLAKY}) <> 0 OR (t.facts & %(status)s = %(failed)s AND ({wavers} OR {CLASSIFIED}))"
    return await _node_ids(connection, build_id, flaky)


async def _node_ids(connection: AsyncConnection, build_id: int, condition: str) -> list[str]:
    spans = await reports(connection, build_id)
    query = (
        f"SELECT c.node_id FROM (SELECT t.case_id, min(t.id) AS first FROM {_EACH} t"
        f" WHERE {spans.within} AND {_COUNTS} AND ({condition}) GROUP BY t.case_id) f"
        f" JOIN {TestCaseRow.table} c ON c.id = f.case_id ORDER BY f.first"
    )
    parameters = spans.parameters | classified("flaky") | {"status": STATUS, "failed": FAILED}
    cursor = await connection.execute(query.encode(), parameters, prepare=True, binary=True)
    return [node_id for (node_id,) in await cursor.fetchall()]
