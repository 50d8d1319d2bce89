"""Queries over results of several builds: one result with its texts, the history of a test, and older failures."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from domain.results import FAILED
from projections.builds import BuildRow
from projections.engine.queries import fetch_all, fetch_column, fetch_one, fetch_value, find_row
from projections.jobs import JobRow
from projections.results import OutputsRow, ReportRow, ResultTextRow, SupersededRow
from projections.results_blocks import STATUS, BlockRow, case_at, has_case, positions_of
from projections.results_cases import TestCaseRow
from projections.results_queries import (
    FACT_COLUMNS,
    FACTS,
    IS_CURRENT,
    MESSAGE_LENGTH,
    ReportRanges,
    fetch_with_triage,
)
from projections.triage import (
    BY_RULE,
    RULE_COLUMNS,
    TRIAGE_COLUMNS,
    TRIAGE_JOINS,
    ResultTriage,
    RuleMatchRow,
    TriageRow,
)
from store.postgres.queries import Source

_REPORT_OF = f"SELECT * FROM {ReportRow.table} WHERE first_result_id <= t.id ORDER BY first_result_id DESC LIMIT 1"
"""SQL query for the report of a result `t`. Finds an earlier report if the right one is not recorded yet, so check that
the report's range contains `t.id`.
"""
_INDEX = "%(id)s::bigint - b.first_result_id + 1"
"""SQL expression for the index of the result `id` in the arrays of its block `b`."""
PATTERN_TEXT_LENGTH = 64 * 1024
"""Number of characters of a message or trace that are compared with patterns of known issues."""


class CaseRun(msgspec.Struct, frozen=True):
    """One result in the history of its test case."""

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
    triage: ResultTriage


class ResultOrigin(msgspec.Struct, frozen=True):
    """A result with its test, build, job and project, and with the fields that matching and triage use."""

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
    """Id of the known issue whose rule matched the result, or None."""
    rule_classification: int | None
    """Classification by the rule or by statistics, as an index into CLASSIFICATIONS; None without either."""
    by_statistics: bool


class OlderFailure(msgspec.Struct, frozen=True):
    """A result that is examined in the search for older failures that match a known issue. It has texts, and is older
    than the last change of the known issue.
    """

    id: int
    job_id: int
    is_open: bool
    """True if the result failed and is not classified. Otherwise `message` and `trace` are empty."""
    fail_id: str
    signature: str
    message: str
    trace: str


def _block_of(result_id: str) -> str:
    """Returns an SQL query for the block that contains a result. `result_id` is an SQL expression. The query finds no
    row if there is no such block.
    """
    newest = (
        f"SELECT * FROM {BlockRow.table} WHERE first_result_id <= {result_id} ORDER BY first_result_id DESC LIMIT 1"
    )
    return f"SELECT * FROM ({newest}) newest WHERE first_result_id + results > {result_id}"


async def find_origin(source: Source, result_id: int) -> ResultOrigin | None:
    query = (
        f"SELECT t.id, t.case_id, c.node_id, r.build_id, r.job_id, r.project_id, {FACTS} & {STATUS},"
        f" coalesce(x.fail_id, ''), coalesce(x.signature, ''), {RULE_COLUMNS}"
        f" FROM (SELECT %(id)s::bigint AS id, {case_at(_INDEX)} AS case_id, b.facts[{_INDEX}] AS facts"
        f"  FROM ({_block_of('%(id)s::bigint')}) b) t"
        f" JOIN {TestCaseRow.table} c ON c.id = t.case_id"
        f" JOIN LATERAL ({_REPORT_OF}) r ON r.first_result_id + r.cases > t.id"
        f" LEFT JOIN {ResultTextRow.table} x ON x.id = t.id{TRIAGE_JOINS}"
    )
    return await fetch_one(source, ResultOrigin, query, {"id": result_id})


async def find_existing(source: Source, result_ids: Sequence[int]) -> set[int]:
    """Returns the ids, among `result_ids`, of results that still exist because their builds are not deleted."""
    query = f"SELECT x.id FROM unnest(%(ids)s::bigint[]) x (id) WHERE EXISTS ({_block_of('x.id')})"
    return set(await fetch_column(source, query, {"ids": list(result_ids)}))


async def find_text(source: Source, result_id: int) -> ResultTextRow | None:
    return await find_row(source, ResultTextRow, result_id)


async def fetch_outputs(source: Source, ranges: ReportRanges, result_id: int) -> tuple[str, str]:
    """Returns (`system_out`, `system_err`) of a result: empty texts if it has no output. `ranges` must contain the
    report of the result.
    """
    query = (
        f"SELECT outputs -> (%(id)s - first_result_id)::text FROM {OutputsRow.table}"
        " WHERE first_result_id <= %(id)s AND first_result_id >= %(low)s ORDER BY first_result_id DESC LIMIT 1"
    )
    found = await fetch_value(source, query, {"id": result_id, "low": ranges.parameters["low"]})
    return ("", "") if found is None else (found[0], found[1])


async def fetch_history(source: Source, case_id: int, limit: int) -> list[CaseRun]:
    """Returns up to `limit` results of a test case, newest first. Leaves out results that do not count."""
    # The GIN index finds all blocks with the case at once. Blocks are read one by one until there are enough results,
    # since a test may have run a hundred thousand times.
    query = (
        f"WITH found AS MATERIALIZED (SELECT first_result_id FROM {BlockRow.table}"
        f" WHERE {has_case('%(case)s::int')} ORDER BY first_result_id DESC),"
        " t AS MATERIALIZED (SELECT t.*, r.build_id, r.recorded_at, b.branch, b.commit_sha FROM found"
        f"  JOIN {BlockRow.table} block USING (first_result_id)"
        "  JOIN LATERAL (SELECT block.first_result_id + place - 1, block.facts[place], block.durations_ms[place]"
        f"   FROM unnest({positions_of('%(case)s::int')}) AS place OFFSET 0"
        "  ) t (id, facts, duration_ms) ON t.facts >= 0"
        f"  JOIN LATERAL ({_REPORT_OF}) r ON r.first_result_id + r.cases > t.id"
        f"  JOIN {BuildRow.table} b ON b.id = r.build_id AND {IS_CURRENT}"
        f"  WHERE (SELECT true FROM {SupersededRow.table} s WHERE s.id = t.id) IS NULL"
        "  ORDER BY found.first_result_id DESC, t.id DESC LIMIT %(limit)s)"
        f" SELECT t.id, t.build_id, {FACT_COLUMNS}, left(coalesce(x.message, ''), {MESSAGE_LENGTH}), t.branch,"
        f" t.commit_sha, t.recorded_at, {TRIAGE_COLUMNS}"
        f" FROM t LEFT JOIN {ResultTextRow.table} x ON x.id = t.id{TRIAGE_JOINS}"
        " ORDER BY t.id DESC"
    )
    return await fetch_with_triage(source, CaseRun, query, {"case": case_id, "limit": limit})


_IS_OPEN = f"(coalesce({FACTS} & {STATUS} = {FAILED}, false) AND m.id IS NULL AND v.classification IS NULL)"
"""SQL condition: the result `t` failed, and neither a rule (`m`) nor a person (`v`) has classified it."""


async def fetch_older_failures(source: Source, project_id: int, result_id: int, limit: int) -> list[OlderFailure]:
    """Returns up to `limit` results of a project that have texts and are older than the result `result_id`, the newest
    first.
    """
    # LIMIT 1 tells the planner that an id occurs once. Without it, the planner reads whole tables for a few look-ups.
    return await fetch_all(
        source,
        OlderFailure,
        f"WITH x AS MATERIALIZED (SELECT * FROM {ResultTextRow.table} WHERE id < %(before)s"
        f"  AND job_id IN (SELECT id FROM {JobRow.table} WHERE project_id = %(project)s)"
        "  ORDER BY id DESC LIMIT %(limit)s)"
        f" SELECT x.id, x.job_id, {_IS_OPEN}, x.fail_id, x.signature,"
        f" CASE WHEN {_IS_OPEN} THEN left(x.message, {PATTERN_TEXT_LENGTH}) ELSE '' END,"
        f" CASE WHEN {_IS_OPEN} THEN left(x.trace, {PATTERN_TEXT_LENGTH}) ELSE '' END FROM x"
        f" LEFT JOIN LATERAL (SELECT b.facts[x.id - b.first_result_id + 1] FROM ({_block_of('x.id')}) b) t (facts)"
        " ON true"
        f" LEFT JOIN LATERAL (SELECT id FROM {RuleMatchRow.table} WHERE id = x.id AND {BY_RULE} LIMIT 1) m ON true"
        f" LEFT JOIN LATERAL (SELECT classification FROM {TriageRow.table} WHERE id = x.id LIMIT 1) v ON true"
        " ORDER BY x.id DESC",
        {"project": project_id, "before": result_id, "limit": limit},
    )
