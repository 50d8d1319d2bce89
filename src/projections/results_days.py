"""Numbers of runs of test cases: all runs, and those before each day. Their difference is the number of runs since a
day, so that a long look-back window costs no more than a short one.

None of these rows contains a text. They stay when a build, a job or a project is deleted, like the counters of
`results_cases`.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from domain.case_activity import NO_DURATION
from domain.core.columns import Int32s
from domain.results import SKIPPED, ResultsRecorded, ResultsReplaced
from projections.engine.model import Change, Int, Key, Row, Rows, RowsByKey, Table
from projections.results_cases import VERSION
from projections.results_passes import Stretches

CHUNK = 128
"""Number of test cases whose runs are counted in one row."""
NO_DAY = -(1 << 31)
"""Day of a row that has no runs yet. It is before all days."""
_EPOCH_DAY = datetime(1970, 1, 1, tzinfo=UTC).toordinal()


class CaseRunsRow(Row, frozen=True):
    """Number of runs of each of CHUNK test cases in one job, and the duration of the newest result of each."""

    table = Table("case_runs", VERSION, key=("chunk", "job_id"), indexes=("(job_id)",))
    chunk: int
    """Id of the first of these test cases, divided by CHUNK."""
    job_id: Int
    day: Int
    """Day of the newest of these runs, in days since 1970, in UTC. If the clock goes back, later runs count on this
    day, too.
    """
    runs: bytes
    """Int32s: the number of runs of each test case."""
    durations_ms: bytes
    """Int32s: the duration of the newest result of each test case; NO_DURATION without a result, or if it was skipped.
    """


class CaseDayRow(Row, frozen=True):
    """Numbers of runs of CHUNK test cases in one job before a day. There is a row for each day with runs."""

    table = Table("case_days", VERSION, key=("chunk", "job_id", "day"))
    chunk: int
    job_id: Int
    day: Int
    runs_before: bytes
    """Number of runs of each test case before the day, as Int32s."""


SINCE_DAY = (
    f"FROM {CaseRunsRow.table} t CROSS JOIN LATERAL (SELECT runs_before FROM {CaseDayRow.table} d"
    " WHERE d.chunk = t.chunk AND d.job_id = t.job_id AND d.day >= %(day)s ORDER BY d.day LIMIT 1) d"
    " WHERE t.day >= %(day)s"
)
"""SQL for the chunks of test cases with runs since a day: joins each row `t` of CaseRunsRow with the row `d` that has
the numbers of runs before the day. So `t.runs - d.runs_before` are the numbers of runs since the day.
"""


def day_of(time: datetime) -> int:
    return time.toordinal() - _EPOCH_DAY


def chunk_keys(event: ResultsRecorded | ResultsReplaced) -> Iterator[tuple[type[Row], Key]]:
    return ((CaseRunsRow, (chunk, event.job_id)) for chunk in {case_id // CHUNK for case_id in event.case_ids})


def count_runs(
    event: ResultsRecorded | ResultsReplaced, stretches: Stretches, added: bytes | bytearray, rows: Rows
) -> Iterator[Change]:
    """Adds runs to the day of the event. `added` has the number of runs that each result of the event adds, as Int32s;
    a number may be negative. `stretches` are the result of `find_stretches` for the event's test cases.

    For speed, the numbers of all chunks of the event are the digits of one long integer. The numbers of a whole stretch
    are added by one addition.
    """
    ids, job_id, day = event.case_ids, event.job_id, day_of(event.at)
    chunks = sorted(
        {chunk for start, end in stretches for chunk in range(ids[start] // CHUNK, ids[end - 1] // CHUNK + 1)}
    )
    before = [
        rows.get(CaseRunsRow, chunk, job_id) or CaseRunsRow(chunk, job_id, NO_DAY, bytes(4 * CHUNK), _NO_DURATIONS)
        for chunk in chunks
    ]
    total = _signed(b"".join([row.runs for row in before]))
    durations = bytearray().join([row.durations_ms for row in before])
    newest = _pack_durations(event) if isinstance(event, ResultsRecorded) else b""
    for start, end in stretches:
        chunk, index = divmod(ids[start], CHUNK)
        first = 4 * (bisect_left(chunks, chunk) * CHUNK + index)
        total += _signed(added[4 * start : 4 * end]) << 8 * first
        if newest:  # a later attempt of a test comes later, and its duration counts
            durations[first : first + 4 * (end - start)] = newest[4 * start : 4 * end]
    runs = _unsigned(total, len(chunks) * CHUNK)
    after: dict[Key, Row] = {}
    for number, row in enumerate(before):
        part = slice(number * 4 * CHUNK, (number + 1) * 4 * CHUNK)
        if newest or runs[part] != row.runs:
            if row.day < day:
                yield CaseDayRow(row.chunk, job_id, day, row.runs)
            newest_day = max(row.day, day)
            after[row.chunk, job_id] = CaseRunsRow(row.chunk, job_id, newest_day, runs[part], bytes(durations[part]))
    yield RowsByKey(CaseRunsRow, after)


def _pack_durations(event: ResultsRecorded) -> bytes:
    """Returns the duration of each result, as Int32s; NO_DURATION for a skipped one."""
    if SKIPPED not in event.statuses:
        return event.durations_ms.stored
    columns = Int32s(event.durations_ms)
    row = event.statuses.find(SKIPPED)
    while row >= 0:
        columns[row] = NO_DURATION
        row = event.statuses.find(SKIPPED, row + 1)
    return columns.stored


class RunTotals:
    """Adds up numbers of runs over rows: all numbers of a row at once, as digits of one long integer."""

    def __init__(self) -> None:
        self._totals: dict[int, int] = {}

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds the numbers of some rows. Each row is (chunk, runs up to now, runs before a day)."""
        for chunk, runs, before in rows:
            self._totals[chunk] = self._totals.get(chunk, 0) + _signed(runs) - _signed(before)

    def of_chunks(self) -> dict[int, Int32s]:
        """Returns chunk -> number of runs of each of its test cases."""
        return {chunk: Int32s.of(_unsigned(total, CHUNK)) for chunk, total in self._totals.items()}


def _signed(stored: bytes | bytearray) -> int:
    numbers = int.from_bytes(stored, "little")
    # A negative number is a digit less 2**32, so it takes one from the next digit.
    return numbers - ((numbers & _signs(len(stored) // 4)) << 1)


def _unsigned(total: int, count: int) -> bytes:
    """Returns the lowest `count` digits of a total as Int32s."""
    # With the signs added, no digit of a total is negative.
    return ((total + _signs(count)) ^ _signs(count)).to_bytes(4 * count, "little")


@lru_cache(5_000)
def _signs(count: int) -> int:
    return int.from_bytes(b"\0\0\0\x80" * count, "little")


_NO_DURATIONS = array("i", [NO_DURATION] * CHUNK).tobytes()
