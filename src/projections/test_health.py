"""Queries for the health of tests: histories of their runs, and the messages of their failures. They read the tables of
the projection `results`.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any

import msgspec

from domain.failures.shared_failures import FailingRuns, find_failing
from domain.results import FAILED
from domain.run_histories import MINUTES_OF_DAY, NotableRun, RunHistory, is_broken
from domain.run_lines import Lines
from domain.test_health import FAILED as FAILED_RUN
from domain.test_health import OUTAGE, RETRIED
from projections.build_lines import fetch_lines
from projections.builds import BuildRow
from projections.engine.binary_copy import unpack_array, unpack_halves
from projections.engine.queries import fetch_all, fetch_one
from projections.results import ReportRow, ResultTextRow
from projections.results_blocks import STATUS, BlockRow, positions_of
from projections.results_cases import CaseStatsRow, TestCaseRow
from projections.results_days import CHUNK, SINCE_DAY, RunTotals
from projections.results_queries import FACTS, IS_CURRENT, MESSAGE_LENGTH
from projections.results_runs import BuildOutcomeRow, NotableRunRow, SuspectRow, build_of, case_of, run_id
from store.postgres.queries import Source, fetch_rows

MAX_SUSPECTS = 2_000
"""Largest number of tests of a project whose histories one request reads: those with the most notable runs."""
MAX_NOTABLE = 300_000
"""Largest number of a project's notable runs, the newest ones, that are read to find the MAX_SUSPECTS tests with the
most notable runs.
"""
HISTORIES_AT_ONCE = 250
"""Number of histories that one query reads. It is small, so that other requests get their turn between queries."""
CHUNKS_AT_ONCE = 64
"""Number of chunks of test cases (`results_days.CHUNK`) whose runs one query counts."""
MAX_FAILURES = 200
"""Largest number of failures whose messages one request reads."""


class CaseHistory(msgspec.Struct, frozen=True):
    """A test case with the history of its runs."""

    id: int
    project_id: int
    node_id: str
    suite: str
    history: RunHistory


class FailureText(msgspec.Struct, frozen=True):
    result_id: int
    build_id: int
    message: str
    signature: str


async def fetch_suspects(source: Source, project_id: int, since_day: int, limit: int) -> list[CaseHistory]:
    """Returns the test cases of a project that failed or passed on a retry since a day, with their names and their
    notable runs since then. Test cases with more notable runs come first, and at most `limit` are returned.
    """
    found = await fetch_recent_histories(source, project_id, since_day, limit)
    query = f"SELECT * FROM {TestCaseRow.table} WHERE id = ANY (%(cases)s)"
    rows = {row.id: row for row in await fetch_all(source, TestCaseRow, query, {"cases": list(found)})}
    return [
        CaseHistory(case_id, row.project_id, row.node_id, row.suite, history)
        for case_id, history in found.items()
        if (row := rows.get(case_id)) is not None
    ]


async def fetch_recent_histories(
    source: Source, project_id: int, since_day: int, limit: int, among: Container[int] | None = None
) -> dict[int, RunHistory]:
    """Returns test case -> its notable runs since a day, for the test cases of a project that failed or passed on a
    retry since then. Test cases with more of these runs come first, and at most `limit` are returned. With `among`,
    considers only these test cases.
    """
    # All runs are sent as two columns in one row. psycopg would take longer to read single numbers than all the rest
    # takes, and PostgreSQL would take longer to send five columns. Tests are ranked here, since PostgreSQL takes three
    # times as long.
    query = (
        "SELECT array_send(array_agg(id)), array_send(array_agg((number::bigint << 32) | (minute << 4) | flags))"
        f" FROM (SELECT * FROM {NotableRunRow.table}"
        f"  WHERE project_id = %(project)s AND minute >= %(since)s ORDER BY minute DESC LIMIT {MAX_NOTABLE}) newest"
    )
    parameters = {"project": project_id, "since": since_day * MINUTES_OF_DAY}
    ((ids, others),) = await fetch_rows(source, query, parameters)
    if ids is None:
        return {}
    case_ids, builds = unpack_halves(ids)
    numbers, marks = unpack_halves(others)
    found: dict[int, list[NotableRun]] = {
        case_id: [] for case_id in await asyncio.to_thread(_rank, case_ids, marks, limit, among)
    }
    is_wanted = list(map(found.__contains__, case_ids))
    lines = await fetch_lines(source, set(compress(builds, is_wanted)))
    query = (
        f"SELECT array_send(array_agg(case_id::int)), array_send(array_agg(runs)) FROM {CaseStatsRow.table}"
        " WHERE case_id = ANY (%(cases)s)"
    )
    (sent,) = await fetch_rows(source, query, {"cases": list(found)})
    runs = dict(zip(*(unpack_array(column, "i") for column in sent if column is not None), strict=True))

    def to_histories() -> dict[int, RunHistory]:
        columns = (compress(column, is_wanted) for column in (case_ids, numbers, builds, marks))
        for case_id, number, build, mark in zip(*columns, strict=True):
            found[case_id].append(NotableRun(number, build, mark >> 4, mark & 15))
        for notable in found.values():
            if len(notable) > 1:
                notable.sort(key=attrgetter("number"))
        return {
            case_id: RunHistory(lines.arrange(notable, runs[case_id]), runs[case_id])
            for case_id, notable in found.items()
            if case_id in runs
        }

    return await asyncio.to_thread(to_histories)


def _rank(case_ids: Sequence[int], marks: Sequence[int], limit: int, among: Container[int] | None) -> list[int]:
    """Returns up to `limit` test cases that failed or passed on a retry: those with the most runs first. `case_ids` has
    the test case of each run, and `marks` the flags of each run in its lowest bits.
    """
    failing = sorted(set(compress(case_ids, map((FAILED_RUN | RETRIED).__and__, marks))))
    if among is not None:
        failing = [case_id for case_id in failing if case_id in among]
    return sorted(failing, key=Counter(case_ids).__getitem__, reverse=True)[:limit]


async def find_recently_failed(source: Source, project_id: int, window: int, limit: int) -> list[int]:
    """Returns the test cases of a project that failed or passed on a retry in their last `window` runs. If there are
    more than `limit`, returns those whose last failure or retry is newest.
    """
    query = (
        f"SELECT s.case_id FROM {SuspectRow.table} s JOIN {CaseStatsRow.table} k ON k.case_id = s.case_id"
        " WHERE s.project_id = %(project)s AND k.runs - s.number < %(window)s"
        " ORDER BY s.noted_at DESC, s.case_id LIMIT %(limit)s"
    )
    rows = await fetch_rows(source, query, {"project": project_id, "window": window, "limit": limit})
    return [case_id for (case_id,) in rows]


async def fetch_histories(
    source: Source, case_ids: Sequence[int], since_minute: int = 0, asked: Collection[int] = ()
) -> list[CaseHistory]:
    """Returns test cases with their notable runs since a time, ordered by id. Leaves out test cases without runs.
    `asked` has the ids of the builds on the branch that a question is about: their failures count even if that branch
    is not the default one.
    """
    query = (
        "SELECT k.case_id, c.project_id, c.node_id, c.suite, k.runs, n.ids, n.numbers, n.minutes, n.flags"
        f" FROM {CaseStatsRow.table} k JOIN {TestCaseRow.table} c ON c.id = k.case_id"
        " CROSS JOIN LATERAL (SELECT array_agg(o.id) AS ids, array_agg(number) AS numbers,"
        "   array_agg(minute) AS minutes, array_agg(flags) AS flags"
        f"  FROM (SELECT * FROM {NotableRunRow.table} WHERE id >= (k.case_id << 32) AND id < ((k.case_id + 1) << 32)"
        "   AND minute >= %(since)s ORDER BY number) o) n"
        " WHERE k.case_id = ANY (%(cases)s) ORDER BY k.case_id"
    )
    ordered = sorted(set(case_ids))
    found: list[CaseHistory] = []
    for start in range(0, len(ordered), HISTORIES_AT_ONCE):
        parameters = {"cases": ordered[start : start + HISTORIES_AT_ONCE], "since": since_minute}
        rows = await fetch_rows(source, query, parameters)
        builds = {build_of(run) for *_, ids, _, _, _ in rows for run in ids or ()}
        lines = await fetch_lines(source, builds, asked)
        # In a thread, since a test may have hundreds of such runs.
        found += await asyncio.to_thread(_to_histories, rows, lines)
    return found


def _to_histories(rows: Sequence[tuple[Any, ...]], lines: Lines) -> list[CaseHistory]:
    found: list[CaseHistory] = []
    for case_id, project_id, node_id, suite, runs, ids, numbers, minutes, bits in rows:
        notable = [
            NotableRun(number, build_of(run), minute, flags)
            for run, number, minute, flags in zip(ids or (), numbers or (), minutes or (), bits or (), strict=True)
        ]
        history = RunHistory(lines.arrange(notable, runs), runs)
        found.append(CaseHistory(case_id, project_id, node_id, suite, history))
    return found


async def fetch_failing(source: Source, case_ids: Sequence[int], up_to: int) -> dict[int, FailingRuns]:
    """Returns test case -> its failing runs in builds up to the build `up_to`. The caller compares them to find tests
    that fail together, so the result is empty for a single test case.
    """
    cases = await fetch_histories(source, case_ids) if len(case_ids) > 1 else []
    return {case.id: find_failing(case.history, up_to) for case in cases}


async def find_broken_builds(source: Source, build_ids: Iterable[int]) -> set[int]:
    """Returns the broken builds among `build_ids`: so many of their tests failed that they say nothing about single
    tests.
    """
    query = f"SELECT build_id, passed, failed FROM {BuildOutcomeRow.table} WHERE build_id = ANY (%(builds)s)"
    rows = await fetch_rows(source, query, {"builds": list(build_ids)})
    return {build_id for build_id, passed, failed in rows if is_broken(passed, failed)}


async def find_outages(source: Source, case_id: int, build_ids: Collection[int]) -> set[int]:
    """Returns the builds, among `build_ids`, in which the run of a test does not count because of an outage."""
    # Nearly all tests have none, and then there is no need to read their histories.
    if not await find_noted_outages(source, {(build_id, case_id) for build_id in build_ids}):
        return set()
    return {
        run.build_id
        for case in await fetch_histories(source, [case_id])
        for run in case.history.notable
        if run.flags & OUTAGE and run.build_id in build_ids
    }


async def find_noted_outages(source: Source, runs: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    """Returns the runs, among `runs`, that an outage made fail, including runs that count nevertheless. A run is
    (build, test case).
    """
    query = f"SELECT id FROM {NotableRunRow.table} WHERE id = ANY (%(runs)s::bigint[]) AND flags & {OUTAGE} <> 0"
    found = await fetch_rows(source, query, {"runs": [run_id(case_id, build_id) for build_id, case_id in runs]})
    return {(build_of(run), case_of(run)) for (run,) in found}


async def count_runs(source: Source, case_ids: Iterable[int], since_day: int) -> dict[int, int]:
    """Returns test case -> number of its runs since a day, which is included."""
    by_chunk: Mapping[int, list[int]] = defaultdict(list)
    for case_id in case_ids:
        by_chunk[case_id // CHUNK].append(case_id)
    query = f"SELECT t.chunk, t.runs, d.runs_before {SINCE_DAY} AND t.chunk = ANY (%(chunks)s)"
    chunks = list(by_chunk)
    counts = {case_id: 0 for cases in by_chunk.values() for case_id in cases}
    for start in range(0, len(chunks), CHUNKS_AT_ONCE):
        parameters = {"chunks": chunks[start : start + CHUNKS_AT_ONCE], "day": since_day}
        rows = await fetch_rows(source, query, parameters)
        # In a thread, since there is a row for each job.
        totals = RunTotals()
        await asyncio.to_thread(totals.add, rows)
        for chunk, numbers in totals.of_chunks().items():
            counts.update((case_id, numbers[case_id % CHUNK]) for case_id in by_chunk[chunk])
    return counts


async def fetch_cases_after(source: Source, project_id: int, after: int, limit: int) -> list[TestCaseRow]:
    """Returns test cases of a project with higher ids than `after`, ordered by id."""
    query = (
        f"SELECT * FROM {TestCaseRow.table} WHERE project_id = %(project)s AND id > %(after)s"
        " ORDER BY id LIMIT %(limit)s"
    )
    return await fetch_all(source, TestCaseRow, query, {"project": project_id, "after": after, "limit": limit})


async def find_case(source: Source, case_id: int) -> TestCaseRow | None:
    query = f"SELECT * FROM {TestCaseRow.table} WHERE id = %(id)s"
    return await fetch_one(source, TestCaseRow, query, {"id": case_id})


async def fetch_failure_texts(
    source: Source, case_id: int, build_ids: Sequence[int], retried: Sequence[int]
) -> list[FailureText]:
    """Returns the messages of a test case's failures in these builds, newest first. Deleted builds have no messages.
    For builds in `retried`, in which the test passed on a retry, returns the messages of the failed attempts before.
    """
    # PostgreSQL expects a ninth of the table in each range of ids. Without OFFSET 0 it reads the whole table if there
    # are more than three builds.
    blocks = (
        f"SELECT * FROM {BlockRow.table} WHERE first_result_id >= r.first_result_id"
        " AND first_result_id < r.first_result_id + r.cases ORDER BY first_result_id OFFSET 0"
    )
    query = (
        "SELECT t.id, r.build_id, left(coalesce(x.message, ''), %(length)s), coalesce(x.signature, '')"
        f" FROM {ReportRow.table} r JOIN {BuildRow.table} b ON b.id = r.build_id AND {IS_CURRENT}"
        " CROSS JOIN LATERAL (SELECT block.first_result_id + at - 1 AS id, block.facts[at] AS facts"
        f"  FROM ({blocks}) block CROSS JOIN LATERAL unnest({positions_of('%(case)s::int')}) AS at) t"
        f" LEFT JOIN {ResultTextRow.table} x ON x.id = t.id"
        f" WHERE r.build_id = ANY (%(builds)s) AND {FACTS} & {STATUS} = {FAILED}"
        " AND (t.facts >= 0 OR r.build_id = ANY (%(retried)s))"
        " ORDER BY r.build_id DESC, t.id DESC LIMIT %(limit)s"
    )
    parameters = {
        "case": case_id,
        "builds": list(build_ids),
        "retried": list(retried),
        "length": MESSAGE_LENGTH,
        "limit": MAX_FAILURES,
    }
    return await fetch_all(source, FailureText, query, parameters)


async def find_existing_builds(source: Source, build_ids: Sequence[int]) -> set[int]:
    """Returns the builds, among `build_ids`, that have not been deleted."""
    query = f"SELECT id FROM {BuildRow.table} WHERE id = ANY (%(builds)s)"
    return {build_id for (build_id,) in await fetch_rows(source, query, {"builds": list(build_ids)})}
