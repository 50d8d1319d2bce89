"""Read model of test results and reports. Queries are in `results_queries` and `results_history`, tables of test cases
in `results_cases`, tables of their runs in `results_runs` and `results_days`.

A row of `result_blocks` stores up to a thousand results as arrays, in the order of the report (docs/decisions/0010). A
result takes about 9 bytes, with indexes. The results of a report have contiguous ids: the report's row in `reports`
has the first id and the number of results. Texts are in another table, since a passed test has none.

Rows of results are never updated. In events of older releases, a result may replace another result. The table
`superseded_results` lists the replaced results.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import reduce
from itertools import compress, repeat
from operator import or_

import msgspec

from domain.builds import BuildDeleted, BuildRequeued, ReportRecorded
from domain.core.events import Recorded, copy_fields
from domain.jobs import JobDeleted
from domain.projects import ProjectDeleted
from domain.results import FAILED, PASSED, SKIPPED, CasesSeen, ResultsRecorded, ResultsReplaced, find_flaky
from projections.engine.model import (
    Change,
    Delete,
    DeleteRange,
    DeleteWhere,
    Int,
    Key,
    Projection,
    Row,
    Rows,
    RowsByKey,
    Table,
)
from projections.results_blocks import BlockRow, make_block
from projections.results_cases import (
    VERSION,
    CaseStatsRow,
    CatalogueRow,
    TestCaseRow,
    add_result,
    correct_run,
    remove_result,
)
from projections.results_days import CaseDayRow, CaseRunsRow, chunk_keys
from projections.results_passes import NOT_FINAL, Stretches, count_passes, find_stretches
from projections.results_runs import (
    BuildOutcomeRow,
    NotableRunRow,
    RunNotes,
    SuspectRow,
    change_outcome,
    correct_outcome,
    reset_outcome,
)


class ResultTextRow(Row, frozen=True):
    table = Table("result_texts", VERSION, indexes=("(job_id)",))
    id: int
    job_id: Int
    message: str
    trace: str
    fail_id: str
    signature: str
    test_resolution: str
    properties: list[tuple[str, str]]


class OutputsRow(Row, frozen=True):
    """Output of the tests of a whole block, in one row: output is large and seldom read."""

    table = Table("result_outputs", VERSION, key=("first_result_id",), indexes=("(job_id)",))
    first_result_id: int
    job_id: Int
    outputs: dict[str, tuple[str, str]]
    """Index of the result in its block, as text -> (`system_out`, `system_err`)."""


class SupersededRow(Row, frozen=True):
    """A result that does not count, because an event of an older release replaced it with another."""

    table = Table("superseded_results", VERSION, indexes=("(job_id)",))
    id: int
    job_id: Int


class ReportRow(Row, frozen=True):
    table = Table("reports", VERSION, key=("first_result_id",), indexes=("(build_id)", "(job_id)"))
    first_result_id: int
    build_id: int
    job_id: Int
    project_id: int
    attempt: Int
    path: str
    cases: Int
    """Number of results, including retried attempts."""
    suites: list[str]
    warnings: list[str]
    recorded_at: datetime
    is_replaced: bool = False
    """Whether another report has replaced this one, so that its results do not count."""


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case CasesSeen(project_id=project_id):
            yield CatalogueRow, (project_id,)
        case ResultsRecorded(case_ids=case_ids, finals=finals):
            yield from zip(repeat(CaseStatsRow), zip(compress(case_ids, finals), strict=True), strict=False)
            statuses, flaky_rows = recorded.event.statuses, recorded.event.flaky
            if FAILED in statuses or any(flaky_rows):
                for case_id, final, status, flaky in zip(case_ids, finals, statuses, flaky_rows, strict=True):
                    if final and (status == FAILED or flaky):
                        yield SuspectRow, (case_id,)
            yield from chunk_keys(recorded.event)
            if recorded.event.replaced:
                yield BuildOutcomeRow, (recorded.event.build_id,)
        case ResultsReplaced(build_id=build_id, case_ids=case_ids):
            yield from ((CaseStatsRow, (case_id,)) for case_id in case_ids)
            yield from chunk_keys(recorded.event)
            yield BuildOutcomeRow, (build_id,)
        case ReportRecorded(build_id=build_id, replaces=replaces):
            yield BuildOutcomeRow, (build_id,)
            if replaces is not None:
                yield ReportRow, (replaces,)
        case BuildRequeued(build_id=build_id):
            yield BuildOutcomeRow, (build_id,)
        case _:
            return


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case CasesSeen():
            known = rows.get(CatalogueRow, event.project_id)
            yield CatalogueRow(
                event.project_id, recorded.version, (known.cases if known is not None else 0) + len(event.node_ids)
            )
            for number, (node_id, suite) in enumerate(zip(event.node_ids, event.suites, strict=True)):
                yield TestCaseRow(event.first_case_id + number, event.project_id, node_id, suite)
        case ResultsRecorded():
            stretches = find_stretches(event.case_ids)
            yield make_block(event, stretches)
            yield from _store_texts(event)
            yield from (SupersededRow(item.result_id, event.job_id) for item in event.replaced)
            yield from _count_results(event, stretches, rows)
            if event.replaced:
                yield correct_outcome(event, rows)
        case ResultsReplaced():
            yield from _withdraw_results(event, rows)
            yield correct_outcome(event, rows)
        case ReportRecorded():
            if event.replaces is not None and (report := rows.get(ReportRow, event.replaces)) is not None:
                yield msgspec.structs.replace(report, is_replaced=True)
            yield copy_fields(ReportRow, event, recorded_at=event.at)
            yield change_outcome(event, rows)
        case BuildRequeued():
            yield from reset_outcome(event, rows)
        case JobDeleted():
            for row in (ReportRow, BlockRow, ResultTextRow, OutputsRow, SupersededRow):
                yield DeleteWhere(row, "job_id", event.job_id)
        case ProjectDeleted():
            # The counters in `case_stats` stay, and so do the tables of `results_runs` and `results_days`: they contain
            # no texts.
            yield Delete(CatalogueRow, event.project_id)
            yield DeleteWhere(TestCaseRow, "project_id", event.project_id)
        case BuildDeleted():
            yield DeleteWhere(ReportRow, "build_id", event.build_id)
            for first, cases in event.results:
                last = first + cases - 1
                for blocks in (BlockRow, OutputsRow):
                    yield DeleteRange(blocks, "first_result_id", first, last)
                for row in (ResultTextRow, SupersededRow):
                    yield DeleteRange(row, "id", first, last)
        case _:
            return


PROJECTION = Projection(
    "results",
    VERSION,
    (
        BlockRow,
        ResultTextRow,
        OutputsRow,
        SupersededRow,
        ReportRow,
        TestCaseRow,
        CaseStatsRow,
        CatalogueRow,
        NotableRunRow,
        SuspectRow,
        CaseRunsRow,
        CaseDayRow,
        BuildOutcomeRow,
    ),
    keys,
    apply,
    handles=(
        BuildDeleted,
        BuildRequeued,
        CasesSeen,
        JobDeleted,
        ProjectDeleted,
        ReportRecorded,
        ResultsRecorded,
        ResultsReplaced,
    ),
)


_RETRIED = bytes([NOT_FINAL]) + bytes(255)
"""Translation of `finals` to marks: a result that is not final gets NOT_FINAL, all others 0."""


def _store_texts(event: ResultsRecorded) -> Iterator[ResultTextRow | OutputsRow]:
    outputs: dict[str, tuple[str, str]] = {}
    for text in event.texts:
        if text.system_out or text.system_err:
            outputs[str(text.row)] = (text.system_out, text.system_err)
        if text.message or text.trace or text.signature or text.test_resolution or text.fail_id or text.properties:
            yield ResultTextRow(
                id=event.first_result_id + text.row,
                job_id=event.job_id,
                message=text.message,
                trace=text.trace,
                fail_id=text.fail_id,
                signature=text.signature,
                test_resolution=text.test_resolution,
                properties=text.properties,
            )
    if outputs:
        yield OutputsRow(event.first_result_id, event.job_id, outputs)


def _count_results(event: ResultsRecorded, stretches: Stretches, rows: Rows) -> Iterator[Change]:
    build_id, job_id, commit = event.build_id, event.job_id, event.commit
    replaced = {item.row: item.status for item in event.replaced}
    flaky_rows = find_flaky(event)
    outages = set(compress(range(len(event.outages)), event.outages))
    columns = map(int.from_bytes, (event.statuses, flaky_rows, event.finals.translate(_RETRIED)))
    # 0 for the rows that passed, are not flaky, were not retried, and replace no other result (`count_passes`).
    marks = bytearray(reduce(or_, columns).to_bytes(len(flaky_rows)))
    for row in replaced:
        marks[row] |= 1
    passes = count_passes(event, stretches, bytes(marks), rows)
    yield from passes.changes
    case_ids = [event.case_ids[row] for row in passes.left]
    after: dict[int, CaseStatsRow] = {}
    notes = RunNotes(event, rows)
    notes.count_all(passes.counted)
    for case_id, stats, row in zip(case_ids, rows.get_many(CaseStatsRow, case_ids), passes.left, strict=True):
        # Does the work of `add_result` for nearly all results: those of tests that always pass, and of new tests.
        # Such a run is never notable.
        if not marks[row] and case_id not in after:
            if stats is None:
                after[case_id] = CaseStatsRow(case_id, build_id, job_id, commit, runs=1, passed=1)
                notes.count(row, 1)
                continue
            if stats.last_build_id != build_id and stats.job_id == job_id and stats.passed and not stats.failed:
                after[case_id] = CaseStatsRow(
                    case_id,
                    build_id,
                    job_id,
                    commit,
                    stats.runs + 1,
                    stats.failures,
                    stats.flips,
                    stats.flaky_runs,
                    1,  # passed
                    0,  # failed
                    0,  # flaky
                    PASSED,  # outcome_before
                    stats.commit,  # commit_before
                )
                notes.count(row, 1)
                continue
        # One block may contain results of the same test in several suites.
        known = after.get(case_id) or stats
        status, flaky = event.statuses[row], flaky_rows[row]
        if status == SKIPPED and known is not None and row not in replaced:
            continue
        stats = known or CaseStatsRow(case_id)
        is_other = stats.last_build_id != build_id
        if row in replaced and is_other:
            after[case_id] = changed = correct_run(stats, replaced[row], status)
            notes.correct(case_id, build_id, changed.runs, status)
        else:
            if row in replaced:
                stats = remove_result(stats, build_id, replaced[row], flaky=False)
                flaky |= replaced[row] == FAILED and status == PASSED
            after[case_id] = changed = add_result(
                stats, build_id, job_id, commit, status, flaky=flaky == 1, outage=row in outages
            )
            notes.note(known, changed, retried=event.flaky[row] == 1, status=status)
        notes.count(row, changed.runs - (known.runs if known is not None else 0))
    yield RowsByKey(CaseStatsRow, after)
    yield from notes.changes(stretches)


def _withdraw_results(event: ResultsReplaced, rows: Rows) -> Iterator[Change]:
    after: dict[int, CaseStatsRow] = {}
    notes = RunNotes(event, rows)
    outages = event.outages or bytes(len(event.case_ids))
    columns = (rows.get_many(CaseStatsRow, event.case_ids), event.statuses, event.flaky, outages)
    for row, (case_id, stats, status, flaky, outage) in enumerate(zip(event.case_ids, *columns, strict=True)):
        stats = after.get(case_id) or stats or CaseStatsRow(case_id)
        after[case_id] = changed = remove_result(stats, event.build_id, status, flaky=flaky == 1, outage=outage == 1)
        if stats.last_build_id == event.build_id:
            notes.note(stats, changed, retried=False, status=SKIPPED)
        else:
            notes.correct(case_id, event.build_id, changed.runs, SKIPPED)
        notes.count(row, changed.runs - stats.runs)
    yield RowsByKey(CaseStatsRow, after)
    yield from notes.changes(find_stretches(event.case_ids))
