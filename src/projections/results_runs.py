"""Runs of test cases, as far as statistics need them: which runs failed, and how many runs there were on each day.

Nearly all results are passes of tests that never failed, so a pass costs no more than a count. Only *notable* runs have
a row: runs that failed, that passed on a retry only, or that passed although the run before failed on the same commit.
The passes between two notable runs follow from their numbers.

None of these rows contains a text. They stay when a build, a job or a project is deleted, like the counters of
`results_cases`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from domain.builds import BuildRequeued, ReportRecorded
from domain.core.columns import Int32s
from domain.results import FAILED as FAILED_RESULT
from domain.results import ResultsRecorded, ResultsReplaced
from domain.run_histories import KEPT_RUNS
from domain.test_health import FAILED, RETRIED, SAME_COMMIT
from projections.engine.model import Change, Delete, DeleteRange, Int, Key, Row, Rows, SmallInt, Table
from projections.results_cases import MIXED, NO_RUN, VERSION, CaseStatsRow

CHUNK = 128
"""Number of test cases whose runs on one day are counted in one row."""
_BUILD_BITS = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_MINUTE = timedelta(minutes=1)


class NotableRunRow(Row, frozen=True):
    """A run of a test case that says something about the test's health."""

    table = Table("notable_runs", VERSION)
    id: int
    """`run_id` of the test case and the build."""
    number: Int
    """Number of runs of the test case up to this one, which is included."""
    minute: Int
    """Time of the result, in minutes since 1970."""
    flags: SmallInt
    """FAILED, RETRIED and SAME_COMMIT of `domain.test_health`."""


class SuspectRow(Row, frozen=True):
    """A test case that has failed or passed on a retry."""

    table = Table("suspects", VERSION, key=("case_id",), indexes=("(project_id, noted_at)",))
    case_id: int
    project_id: int
    noted_at: Int
    """Minute of the newest run that failed or passed on a retry."""
    number: Int
    """Number of runs of the test case up to that run, which is included."""
    noted: Int
    """Number of such runs since the build `mark`."""
    mark: int
    """Id of a build. When `noted` exceeds KEPT_RUNS, the runs up to this build are deleted."""


class CaseDayRow(Row, frozen=True):
    """Numbers of runs of CHUNK test cases in one job on one day."""

    table = Table("case_days", VERSION, key=("chunk", "day", "job_id"), indexes=("(job_id, day)",))
    chunk: int
    """Id of the first of these test cases, divided by CHUNK."""
    day: Int
    """Days since 1970, in UTC."""
    job_id: Int
    runs: bytes
    """Int32s: the number of runs that began on this day, for each test case."""


class BuildOutcomeRow(Row, frozen=True):
    """Numbers of passed and failed results of a build, which show whether the build was broken."""

    table = Table("build_outcomes", VERSION, key=("build_id",))
    build_id: int
    job_id: Int
    passed: Int
    failed: Int


def run_id(case_id: int, build_id: int) -> int:
    return case_id << _BUILD_BITS | build_id & (1 << _BUILD_BITS) - 1


def build_of(run: int) -> int:
    return run & (1 << _BUILD_BITS) - 1


def minute_of(time: datetime) -> int:
    return (time - _EPOCH) // _MINUTE


def day_of(time: datetime) -> int:
    return time.toordinal() - _EPOCH_DAY


def day_keys(event: ResultsRecorded | ResultsReplaced) -> Iterator[tuple[type[Row], Key]]:
    day = day_of(event.at)
    return ((CaseDayRow, (chunk, day, event.job_id)) for chunk in {case_id // CHUNK for case_id in event.case_ids})


class RunNotes:
    """Collects what the results of one event change in the tables of this file."""

    def __init__(self, event: ResultsRecorded | ResultsReplaced, rows: Rows) -> None:
        self._event, self._rows = event, rows
        self._runs: dict[int, NotableRunRow | Delete] = {}
        self._suspects: dict[int, SuspectRow] = {}
        self._outdated: list[DeleteRange] = []
        self._counts: dict[int, int] = {}

    def note(self, before: CaseStatsRow | None, after: CaseStatsRow, *, retried: bool, status: int) -> None:
        """Notes a result that changed the last run of a test case: the counters before and after, whether the result
        passed on a retry, and its status.
        """
        if after is before:
            return
        is_new_run = before is None or before.last_build_id != after.last_build_id
        flags = _flags(after, retried=retried or not is_new_run)
        run = run_id(after.case_id, after.last_build_id)
        if _is_notable(after, flags):
            self._runs[run] = NotableRunRow(run, after.runs, minute_of(self._event.at), flags)
            if status == FAILED_RESULT or retried:
                self._suspect(after.case_id, after.last_build_id, after.runs)
        elif not is_new_run and before is not None and _is_notable(before, _flags(before, retried=True)):
            self._runs[run] = Delete(NotableRunRow, run)

    def correct(self, case_id: int, build_id: int, runs: int, status: int) -> None:
        """Notes that the result of an earlier run of a test case is `status` after all; SKIPPED if it does not count.
        `runs` is the number of the test case's runs.
        """
        run = run_id(case_id, build_id)
        if status == FAILED_RESULT:
            self._runs[run] = NotableRunRow(run, runs, minute_of(self._event.at), FAILED)
            self._suspect(case_id, build_id, runs)
        else:
            self._runs[run] = Delete(NotableRunRow, run)

    def count(self, case_id: int, runs: int) -> None:
        """Adds a number to the runs of a test case on the day of the event."""
        self._counts[case_id] = self._counts.get(case_id, 0) + runs

    def changes(self, case_ids: Iterable[int]) -> Iterator[Change]:
        """Returns the changes. Each of the test cases `case_ids` has one more run on the day of the event. No id may
        occur twice.
        """
        yield from self._outdated
        yield from self._runs.values()
        yield from self._suspects.values()
        yield from _count_runs(day_of(self._event.at), self._event.job_id, case_ids, self._counts, self._rows)

    def _suspect(self, case_id: int, build_id: int, number: int) -> None:
        minute = minute_of(self._event.at)
        known = self._suspects.get(case_id) or self._rows.get(SuspectRow, case_id)
        if known is None:
            self._suspects[case_id] = SuspectRow(
                case_id, self._event.project_id, minute_of(self._event.at), number, 1, build_id
            )
            return
        noted = msgspec.structs.replace(
            known, noted_at=max(known.noted_at, minute), number=number, noted=known.noted + 1
        )
        if noted.noted > KEPT_RUNS:
            noted = msgspec.structs.replace(noted, noted=1, mark=build_id)
            first, last = run_id(case_id, 0), run_id(case_id, known.mark)
            self._outdated.append(DeleteRange(NotableRunRow, "id", first, last))
        self._suspects[case_id] = noted


def change_outcome(event: ReportRecorded, rows: Rows) -> Iterator[BuildOutcomeRow]:
    known = rows.get(BuildOutcomeRow, event.build_id)
    passed, failed = (0, 0) if known is None else (known.passed, known.failed)
    # A report that replaces another one has numbers to add, which may be negative.
    yield BuildOutcomeRow(event.build_id, event.job_id, passed + event.passed, failed + event.failed)


def reset_outcome(event: BuildRequeued, rows: Rows) -> Iterator[BuildOutcomeRow]:
    """Yields an empty outcome, since the results of a lost attempt do not count."""
    if rows.get(BuildOutcomeRow, event.build_id) is not None:
        yield BuildOutcomeRow(event.build_id, event.job_id, 0, 0)


def _flags(stats: CaseStatsRow, *, retried: bool) -> int:
    """Returns the flags of the last run. `retried` says whether a flaky result of it counts as passed on a retry."""
    if stats.outcome == NO_RUN:
        return 0
    flags = FAILED if stats.failed else RETRIED if stats.flaky and retried else 0
    if stats.commit != 0 and stats.commit == stats.commit_before and stats.outcome_before != NO_RUN:
        flags |= SAME_COMMIT
    return flags


def _is_notable(stats: CaseStatsRow, flags: int) -> bool:
    if flags & (FAILED | RETRIED):
        return True
    return flags != 0 and stats.outcome_before in (FAILED_RESULT, MIXED)


def _count_runs(
    day: int, job_id: int, case_ids: Iterable[int], more: Mapping[int, int], rows: Rows
) -> Iterator[CaseDayRow]:
    """Adds one run for each of `case_ids`, and the numbers of `more`. The numbers of a row are the digits of one long
    integer, to which those of a report are added at once.
    """
    chunks: dict[int, int] = {}

    def read(chunk: int) -> int:
        if chunk not in chunks:
            known = rows.get(CaseDayRow, chunk, day, job_id)
            chunks[chunk] = 0 if known is None else int.from_bytes(known.runs, "little")
        return chunks[chunk]

    # Most reports have the same tests in the same order, so few chunks have many tests each, without gaps.
    ids = sorted(case_ids)
    start = 0
    while start < len(ids):
        chunk = ids[start] // CHUNK
        end = bisect_left(ids, (chunk + 1) * CHUNK, start)
        first, last, runs = ids[start] % CHUNK, ids[end - 1] % CHUNK, read(chunk)
        if runs & _SIGNS:  # a carry from a negative number would change the next one
            for case_id in ids[start:end]:
                runs = _add(runs, case_id % CHUNK, 1)
        elif last - first == end - 1 - start:
            runs += (_ONES & (1 << 32 * (end - start)) - 1) << 32 * first
        else:
            added = bytearray(4 * CHUNK)
            for case_id in ids[start:end]:
                added[case_id % CHUNK * 4] = 1
            runs += int.from_bytes(added, "little")
        chunks[chunk] = runs
        start = end
    for case_id, number in more.items():
        if number:
            chunks[case_id // CHUNK] = _add(read(case_id // CHUNK), case_id % CHUNK, number)
    return (CaseDayRow(chunk, day, job_id, runs.to_bytes(4 * CHUNK, "little")) for chunk, runs in chunks.items())


class RunTotals:
    """Adds up the numbers of runs over rows of CaseDayRow: all numbers of a row at once, as digits of one long
    integer.
    """

    def __init__(self) -> None:
        self._totals: dict[int, int] = {}

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds rows (chunk, runs). Most are equal: those of days on which as many builds ran all tests of a job."""
        numbers: dict[bytes, int] = {}
        for (chunk, stored), times in Counter(rows).items():
            runs = numbers.get(stored)
            if runs is None:
                runs = int.from_bytes(stored, "little")
                if signs := runs & _SIGNS:  # a negative number takes one from the next digit, as it does in a sum
                    runs -= signs << 1
                numbers[stored] = runs
            self._totals[chunk] = self._totals.get(chunk, 0) + runs * times

    def of_chunks(self) -> dict[int, Int32s]:
        """Returns chunk -> the numbers of runs of its test cases."""
        # With the signs added, no digit of a total is negative.
        return {
            chunk: Int32s.of(((total + _SIGNS) ^ _SIGNS).to_bytes(4 * CHUNK, "little"))
            for chunk, total in self._totals.items()
        }


def _add(runs: int, index: int, number: int) -> int:
    """Adds a number, which may be negative, to the digit with this index."""
    digit = runs >> 32 * index & 0xFFFF_FFFF
    return runs + ((digit + number & 0xFFFF_FFFF) - digit << 32 * index)


_ONES = int.from_bytes(b"\1\0\0\0" * CHUNK, "little")
_SIGNS = _ONES << 31
