"""Runs of test cases that statistics need one by one, such as failed runs. `results_days` counts all runs.

Nearly all results are passes of tests that never failed, so a pass costs no more than a count. Only *notable* runs have
a row: runs that failed, that passed on a retry only, or that passed although the run before failed on the same commit.
The passes between two notable runs follow from their numbers.

None of these rows contains a text. They stay when a build, a job or a project is deleted, like the counters of
`results_cases`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from domain.builds import BuildRequeued, ReportRecorded
from domain.results import FAILED as FAILED_RESULT
from domain.results import ResultsRecorded, ResultsReplaced
from domain.run_histories import BROKEN_MIN_RESULTS, BROKEN_SHARE, KEPT_RUNS
from domain.run_lines import NO_LINE
from domain.test_health import FAILED, OUTAGE, RETRIED, SAME_COMMIT
from projections.engine.model import Change, Delete, DeleteRange, Int, Row, Rows, SmallInt, Table
from projections.results_cases import MIXED, NO_RUN, VERSION, CaseStatsRow
from projections.results_days import count_runs
from projections.results_passes import Stretches

_BUILD_BITS = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)


IS_BROKEN = f"passed + failed >= {BROKEN_MIN_RESULTS} AND failed > {BROKEN_SHARE}::float8 * (passed + failed)"
"""SQL condition that a build is broken, as `domain.run_histories` defines it."""
IS_DOUBTFUL = f"(is_corrected OR ({IS_BROKEN}))"
"""SQL condition that a build is doubtful: it is broken, or some of its results were withdrawn or replaced. Then it must
be checked whether a failure in the build counts.
"""


class NotableRunRow(Row, frozen=True):
    """A run of a test case that says something about the test's health."""

    table = Table("notable_runs", VERSION, indexes=("(project_id, minute)",))
    id: int
    """`run_id` of the test case and the build."""
    project_id: int
    number: Int
    """Number of the test case's runs up to and including this one."""
    minute: Int
    """Time of the run's result, in minutes since 1970."""
    flags: SmallInt
    """Bits FAILED, RETRIED, SAME_COMMIT and OUTAGE, as `domain.test_health` defines them."""


class SuspectRow(Row, frozen=True):
    """A test case that has failed, or has passed on a retry, in at least one run."""

    table = Table("suspects", VERSION, key=("case_id",), indexes=("(project_id, noted_at)",))
    case_id: int
    project_id: int
    noted_at: Int
    """Time of the newest run that failed or passed on a retry, in minutes since 1970."""
    number: Int
    """Number of the test case's runs up to and including the one at `noted_at`."""
    noted: Int
    """Number of runs that failed or passed on a retry since the build `mark`."""
    mark: int
    """Id of a build in which the test failed or passed on a retry. When `noted` exceeds KEPT_RUNS, the notable runs up
    to this build are deleted, and `mark` becomes the id of the newest build.
    """


class BuildOutcomeRow(Row, frozen=True):
    """Numbers of passed and failed results of a build, which show whether the build was broken."""

    table = Table(
        "build_outcomes",
        VERSION,
        key=("build_id",),
        indexes=(f"(project_id) WHERE {IS_DOUBTFUL}", "(job_id, line, build_id) WHERE line > 0"),
    )
    build_id: int
    job_id: Int
    project_id: int
    passed: Int = 0
    failed: Int = 0
    is_corrected: bool = False
    """Whether results of the build were withdrawn or replaced."""
    line: Int = NO_LINE
    """Number of the build's line (`domain.run_lines`); NO_LINE or OTHER_BRANCHES if it has none."""


def run_id(case_id: int, build_id: int) -> int:
    return case_id << _BUILD_BITS | build_id & (1 << _BUILD_BITS) - 1


def build_of(run: int) -> int:
    return run & (1 << _BUILD_BITS) - 1


def case_of(run: int) -> int:
    return run >> _BUILD_BITS


def minute_of(time: datetime) -> int:
    return (time - _EPOCH) // _MINUTE


class RunNotes:
    """Collects what the results of one event change in the tables of this file."""

    def __init__(self, event: ResultsRecorded | ResultsReplaced, rows: Rows) -> None:
        self._event, self._rows = event, rows
        self._runs: dict[int, NotableRunRow | Delete] = {}
        self._suspects: dict[int, SuspectRow] = {}
        self._outdated: list[DeleteRange] = []
        self._counts = bytearray(4 * len(event.case_ids))

    def note(self, before: CaseStatsRow | None, after: CaseStatsRow, *, retried: bool, status: int) -> None:
        """Notes a result of the last run of a test case. `before` and `after` are the counters of the test case before
        and after this result. `retried` says that the result passed on a retry.
        """
        if after is before:
            return
        is_new_run = before is None or before.last_build_id != after.last_build_id
        flags = _flags(after, retried=retried or not is_new_run)
        run = run_id(after.case_id, after.last_build_id)
        if _is_notable(after, flags):
            self._runs[run] = self._notable(run, after.runs, flags)
            if status == FAILED_RESULT or retried:
                self._suspect(after.case_id, after.last_build_id, after.runs)
        elif not is_new_run and before is not None and _is_notable(before, _flags(before, retried=True)):
            self._runs[run] = Delete(NotableRunRow, run)

    def correct(self, case_id: int, build_id: int, runs: int, status: int) -> None:
        """Notes that an earlier run of a test case now has the status `status`; SKIPPED means that the run does not
        count any more. `runs` is the number of the test case's runs.
        """
        run = run_id(case_id, build_id)
        if status == FAILED_RESULT:
            self._runs[run] = self._notable(run, runs, FAILED)
            self._suspect(case_id, build_id, runs)
        else:
            self._runs[run] = Delete(NotableRunRow, run)

    def count(self, row: int, runs: int) -> None:
        """Sets the number of runs that the result in row `row` of the event adds to its test case."""
        self._counts[4 * row : 4 * row + 4] = runs.to_bytes(4, "little", signed=True)

    def count_all(self, runs: bytes | bytearray) -> None:
        """Sets the number of runs that each result of the event adds to its test case. `runs` has one byte for each
        result.
        """
        self._counts[::4] = runs

    def changes(self, stretches: Stretches) -> Iterator[Change]:
        """Yields the changed rows. `stretches` are the result of `find_stretches` for the event's test cases."""
        yield from self._outdated
        yield from self._runs.values()
        yield from self._suspects.values()
        yield from count_runs(self._event, stretches, self._counts, self._rows)

    def _notable(self, run: int, number: int, flags: int) -> NotableRunRow:
        return NotableRunRow(run, self._event.project_id, number, minute_of(self._event.at), flags)

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


def change_outcome(event: ReportRecorded, rows: Rows) -> BuildOutcomeRow:
    known = _outcome_of(event, rows)
    # The numbers of a report that replaces another one are differences, and may be negative.
    passed, failed = known.passed + event.passed, known.failed + event.failed
    return msgspec.structs.replace(known, passed=passed, failed=failed, line=event.line or known.line)


def reset_outcome(event: BuildRequeued, rows: Rows) -> Iterator[BuildOutcomeRow]:
    """Yields an empty outcome, since the results of a lost attempt do not count."""
    if rows.get(BuildOutcomeRow, event.build_id) is not None:
        yield msgspec.structs.replace(_outcome_of(event, rows), passed=0, failed=0)


def correct_outcome(event: ResultsRecorded | ResultsReplaced, rows: Rows) -> BuildOutcomeRow:
    return msgspec.structs.replace(_outcome_of(event, rows), is_corrected=True)


def _outcome_of(
    event: ReportRecorded | BuildRequeued | ResultsRecorded | ResultsReplaced, rows: Rows
) -> BuildOutcomeRow:
    known = rows.get(BuildOutcomeRow, event.build_id)
    return known or BuildOutcomeRow(event.build_id, event.job_id, event.project_id)


def _flags(stats: CaseStatsRow, *, retried: bool) -> int:
    """Returns the flags of the last run. `retried` says that a flaky result of the run passed on a retry."""
    if stats.outcome == NO_RUN:
        return 0
    flags = FAILED if stats.failed else RETRIED if stats.flaky and retried else 0
    if stats.commit != 0 and stats.commit == stats.commit_before and stats.outcome_before != NO_RUN:
        flags |= SAME_COMMIT
    if flags & (FAILED | RETRIED) and stats.is_outage:
        flags |= OUTAGE
    return flags


def _is_notable(stats: CaseStatsRow, flags: int) -> bool:
    if flags & (FAILED | RETRIED):
        return True
    return flags != 0 and stats.outcome_before in (FAILED_RESULT, MIXED)
