"""Numbers of runs of test cases: all runs, and those before each day. Their difference is the number of runs since a
day, so that a long look-back window costs no more than a short one.

None of these rows contains a text. They stay when a build, a job or a project is deleted, like the counters of
`results_cases`.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from domain.case_activity import NO_DURATION
from domain.core.columns import Int32s
from domain.results import SKIPPED, ResultsRecorded, ResultsReplaced
from projections.engine.model import Int, Key, Row, Rows, Table
from projections.results_cases import VERSION

CHUNK = 128
"""Number of test cases whose runs are counted in one row."""
_EPOCH_DAY = datetime(1970, 1, 1, tzinfo=UTC).toordinal()


class CaseRunsRow(Row, frozen=True):
    """Numbers of all runs of CHUNK test cases in one job, and their durations."""

    table = Table("case_runs", VERSION, key=("chunk", "job_id"), indexes=("(job_id)",))
    chunk: int
    """Id of the first of these test cases, divided by CHUNK."""
    job_id: Int
    day: Int
    """Day of the newest of these runs, in days since 1970, in UTC. Nothing counts on an earlier day any more."""
    runs: bytes
    """Int32s: the number of runs of each test case."""
    durations_ms: bytes
    """Int32s: the duration of the newest result of each test case; NO_DURATION if it has none or was skipped."""


class CaseDayRow(Row, frozen=True):
    """Numbers of runs of CHUNK test cases in one job before a day. There is a row for each day with runs."""

    table = Table("case_days", VERSION, key=("chunk", "job_id", "day"))
    chunk: int
    job_id: Int
    day: Int
    runs_before: bytes
    """Int32s, as in CaseRunsRow."""


SINCE_DAY = (
    f"FROM {CaseRunsRow.table} t CROSS JOIN LATERAL (SELECT runs_before FROM {CaseDayRow.table} d"
    " WHERE d.chunk = t.chunk AND d.job_id = t.job_id AND d.day >= %(day)s ORDER BY d.day LIMIT 1) d"
    " WHERE t.day >= %(day)s"
)
"""SQL for the rows of chunks with runs since a day: `t.runs - d.runs_before` is the number of these."""


def day_of(time: datetime) -> int:
    return time.toordinal() - _EPOCH_DAY


def chunk_keys(event: ResultsRecorded | ResultsReplaced) -> Iterator[tuple[type[Row], Key]]:
    return ((CaseRunsRow, (chunk, event.job_id)) for chunk in {case_id // CHUNK for case_id in event.case_ids})


def count_runs(
    event: ResultsRecorded | ResultsReplaced,
    case_ids: Iterable[int],
    more: Mapping[int, int],
    stretches: Sequence[tuple[int, int]],
    rows: Rows,
) -> Iterator[Row]:
    """Adds one run for each of `case_ids`, and the numbers of `more`, on the day of the event. `stretches` are those of
    the event's test cases with consecutive ids.

    The numbers of a row are the digits of one long integer, to which those of a report are added at once.
    """
    known: dict[int, CaseRunsRow | None] = {}
    counted: dict[int, int] = {}

    def read(chunk: int) -> int:
        if chunk not in counted:
            known[chunk] = row = rows.get(CaseRunsRow, chunk, event.job_id)
            counted[chunk] = 0 if row is None else int.from_bytes(row.runs, "little")
        return counted[chunk]

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
        counted[chunk] = runs
        start = end
    for case_id, number in more.items():
        if number:
            counted[case_id // CHUNK] = _add(read(case_id // CHUNK), case_id % CHUNK, number)
    durations = _newest_durations(event, stretches) if isinstance(event, ResultsRecorded) else {}
    for chunk in durations:
        read(chunk)
    day = day_of(event.at)
    for chunk, runs in counted.items():
        before = known[chunk]
        if before is None or before.day < day:
            yield CaseDayRow(chunk, event.job_id, day, bytes(4 * CHUNK) if before is None else before.runs)
        newest = _NO_DURATIONS if before is None else before.durations_ms
        for index, changed in durations.get(chunk, ()):
            newest = b"".join((newest[: 4 * index], changed, newest[4 * index + len(changed) :]))
        newest_day = day if before is None else max(day, before.day)
        yield CaseRunsRow(chunk, event.job_id, newest_day, runs.to_bytes(4 * CHUNK, "little"), newest)


def _newest_durations(
    event: ResultsRecorded, stretches: Sequence[tuple[int, int]]
) -> dict[int, list[tuple[int, bytes]]]:
    """Returns chunk -> for each part of a stretch the index of its first test case in the chunk, and the durations."""
    columns = Int32s(event.durations_ms)
    row = event.statuses.find(SKIPPED)
    while row >= 0:
        columns[row] = NO_DURATION
        row = event.statuses.find(SKIPPED, row + 1)
    stored = columns.stored
    found: dict[int, list[tuple[int, bytes]]] = {}
    for start, end in stretches:
        while start < end:
            chunk, index = divmod(event.case_ids[start], CHUNK)
            following = min(end, start + CHUNK - index)
            # A later attempt of a test comes later, and its duration counts.
            found.setdefault(chunk, []).append((index, stored[4 * start : 4 * following]))
            start = following
    return found


class RunTotals:
    """Adds up numbers of runs over rows: all numbers of a row at once, as digits of one long integer."""

    def __init__(self) -> None:
        self._totals: dict[int, int] = {}

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds rows (chunk, runs, runs before)."""
        for chunk, runs, before in rows:
            self._totals[chunk] = self._totals.get(chunk, 0) + _signed(runs) - _signed(before)

    def of_chunks(self) -> dict[int, Int32s]:
        """Returns chunk -> the numbers of runs of its test cases."""
        # With the signs added, no digit of a total is negative.
        return {
            chunk: Int32s.of(((total + _SIGNS) ^ _SIGNS).to_bytes(4 * CHUNK, "little"))
            for chunk, total in self._totals.items()
        }


def _signed(stored: bytes) -> int:
    runs = int.from_bytes(stored, "little")
    # A negative number takes one from the next digit, as it does in a sum.
    return runs - ((runs & _SIGNS) << 1)


def _add(runs: int, index: int, number: int) -> int:
    """Adds a number, which may be negative, to the digit with this index."""
    digit = runs >> 32 * index & 0xFFFF_FFFF
    return runs + ((digit + number & 0xFFFF_FFFF) - digit << 32 * index)


_ONES = int.from_bytes(b"\1\0\0\0" * CHUNK, "little")
_SIGNS = _ONES << 31
_NO_DURATIONS = array("i", [NO_DURATION] * CHUNK).tobytes()
