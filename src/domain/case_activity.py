"""Activity of test cases in a look-back window: how often they ran and failed, and how much time that cost. Lists of
test cases are sorted and filtered by it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from heapq import nsmallest
from itertools import chain, islice
from typing import Literal

import msgspec

from domain.run_histories import RunHistory
from domain.test_health import BROKEN_BUILD, FAILED, OTHER_BRANCH, OUTAGE, RETRIED

Sort = Literal["failures", "flaky", "newly_failing", "cost", "slowest", "runs", "id"]
Only = Literal["failing", "flaky", "newly_failing", "never_failing"]
NO_DURATION = -1
GONE_AFTER = 3
"""A failing test that did not run in this many newer builds of its job is not listed as newly failing any more."""


class CaseActivity(msgspec.Struct, frozen=True, gc=False):
    id: int
    runs: int
    """Number of runs in the window. Leaves out failed and retried runs of broken builds."""
    failed_runs: int = 0
    other_branches: int = 0
    """Number of the `failed_runs` that were not on the default branches of their jobs. Such runs count neither as flips
    nor as the newest run.
    """
    outages: int = 0
    """Number of the `runs` in which an outage made the test fail, or pass only on a retry. Such runs count neither as
    flips nor in `retried_runs`.
    """
    retried_runs: int = 0
    """Number of the `runs` that passed only on a retry."""
    flips: int = 0
    """Number of times that the outcome changed between passed and failed, from one run to the next."""
    failing_streak: int = 0
    """Number of failed runs in a row up to the newest run. Runs of broken builds and outages count, since the test
    fails now, whatever the reason. Runs on other branches do not.
    """
    failing_since: int | None = None
    """Id of the build with which the failing streak began. None if the newest run passed, or if the streak began before
    the window.
    """
    last_failed_build: int | None = None
    """Id of the build of the newest run, if this run failed; otherwise None."""
    missed_builds: int = 0
    """Number of builds of the job after `last_failed_build`, in which the test did not run: it was removed, or is
    skipped.
    """
    duration_ms: int | None = None
    """Duration of the newest result in milliseconds; None if the test was skipped."""

    @property
    def time_lost_ms(self) -> int:
        """Time in milliseconds that failed and retried runs took, if each took as long as the newest result."""
        return (self.failed_runs + self.retried_runs) * (self.duration_ms or 0)

    @property
    def is_flaky(self) -> bool:
        """Whether the outcome changed back and forth, or a run passed on a retry only."""
        return self.flips > 1 or self.retried_runs > 0

    @property
    def is_newly_failing(self) -> bool:
        """Whether the test began to fail within the window, and still runs."""
        return self.failing_since is not None and self.missed_builds < GONE_AFTER

    def key(self, sort: Sort) -> tuple[int, int]:
        """Returns the key of the test case for a sort order. In ascending order of the keys, the most striking test
        comes first.
        """
        match sort:
            case "failures":
                return -self.failed_runs - self.retried_runs, self.id
            case "flaky":
                return -self.flips - self.retried_runs, self.id
            case "newly_failing":
                # The shortest streak is the newest. Tests that do not fail come last.
                return self.failing_streak if self.is_newly_failing else 2**31, self.id
            case "cost":
                return -self.time_lost_ms, self.id
            case "slowest":
                return 0 if self.duration_ms is None else -1 - self.duration_ms, self.id
            case "runs":
                return -self.runs, self.id
            case "id":
                return 0, self.id

    def matches(self, only: Only | None) -> bool:
        match only:
            case None:
                return True
            case "failing":
                return self.failing_streak > 0
            case "flaky":
                return self.is_flaky
            case "newly_failing":
                return self.is_newly_failing
            case "never_failing":
                return self.failed_runs + self.retried_runs + self.outages + self.failing_streak == 0


class JobRuns(msgspec.Struct, frozen=True):
    """Runs of a test case in one job, in the window."""

    builds: Set[int]
    """Ids of builds of the job. May lack builds in which the test case has no notable run."""
    runs: int


def sum_up(
    case_id: int, history: RunHistory, runs: int, duration_ms: int | None, of_job: JobRuns | None = None
) -> CaseActivity:
    """Returns the activity of a test case that has notable runs: in all jobs, or with `of_job` in one job. `history`
    has the notable runs in the window, and `runs` is the number of all runs in the window, both in all jobs. Runs of
    broken builds count only for the failing streak.
    """
    runs = max(runs, len(history.notable))
    builds = None if of_job is None else of_job.builds
    skipped = noted = broken = left_out = elsewhere = failed = outages = retried = flips = changes = last = 0
    others = streak = newest = 0
    is_counted = False
    since: int | None = None
    last_failed: int | None = None
    for run in history.notable:
        is_own = builds is None or run.build_id in builds
        noted += is_own
        others += run.flags & OTHER_BRANCH != 0
        if run.flags & (FAILED | OTHER_BRANCH) == FAILED:
            if run.number - others > newest + 1:
                streak, since = 0, None
            if is_own:
                streak, since, last_failed = streak + 1, since or run.build_id, run.build_id
            newest = run.number - others
        if run.flags & BROKEN_BUILD:
            skipped += 1
            broken += is_own
        elif run.flags & OTHER_BRANCH:
            skipped += 1
            elsewhere += is_own
            left_out += is_own
        elif run.flags & OUTAGE:
            outages += is_own
            if run.flags & FAILED:
                skipped += 1
                left_out += is_own
        elif run.flags & FAILED:
            number = run.number - skipped
            if not last or number > last + 1:
                # The run before passed, unless there is none.
                changes, is_counted = (1 if number <= history.runs - runs + 1 else 2), False
            if is_own:
                flips += 0 if is_counted else changes
                failed, is_counted = failed + 1, True
            last = number
        elif run.flags & RETRIED:
            retried += is_own
    is_failing = streak > 0 and newest >= history.runs - others
    own_runs = runs if of_job is None else max(of_job.runs, noted)
    # The first run of a new test is in the window.
    has_begun = is_failing and (streak < own_runs - elsewhere or runs >= history.runs)
    return CaseActivity(
        id=case_id,
        runs=own_runs - broken,
        failed_runs=failed + left_out,
        other_branches=elsewhere,
        outages=outages,
        retried_runs=retried,
        flips=flips - (is_counted and last >= history.runs - skipped),
        failing_streak=streak if is_failing else 0,
        failing_since=since if has_begun else None,
        last_failed_build=last_failed if is_failing else None,
        duration_ms=duration_ms,
    )


class CaseRuns(msgspec.Struct, frozen=True):
    """Numbers of runs and durations of the test cases of a project or job in the window, in columns. The ids of test
    cases come in ranges of `size` consecutive ids; `firsts` has the first id of each range, in ascending order.
    """

    firsts: Sequence[int]
    size: int
    runs: Sequence[int]
    """Number of runs of each test case; 0 if it did not run."""
    durations_ms: Sequence[int]
    """Duration of each test case's newest result; NO_DURATION if it is not known."""

    def ids(self) -> Iterator[int]:
        """Returns the ids of all test cases in the order of the columns, also of those that did not run."""
        return chain.from_iterable(range(first, first + self.size) for first in self.firsts)

    def id_at(self, index: int) -> int:
        return self.firsts[index // self.size] + index % self.size

    def index_of(self, case_id: int) -> int:
        """Returns the index of a test case in the columns. If the columns lack it, returns the index of the last test
        case with a lower id; -1 if there is none.
        """
        number = bisect_right(self.firsts, case_id) - 1
        return -1 if number < 0 else number * self.size + min(case_id - self.firsts[number], self.size - 1)

    def find(self, case_id: int) -> tuple[int, int | None]:
        """Returns the number of runs and the duration of a test case. Returns 0 and None if the columns lack it. The
        duration is None if it is not known.
        """
        index = self.index_of(case_id)
        if index < 0 or self.id_at(index) != case_id:
            return 0, None
        duration = self.durations_ms[index]
        return self.runs[index], None if duration == NO_DURATION else duration


class Activity:
    """Activity of the test cases of a project or job. `notable` has the test cases that have notable runs in the
    window. Of all others, which are nearly all, only the number of runs and the duration are kept, so that a list of
    50,000 test cases takes milliseconds.
    """

    def __init__(self, cases: CaseRuns, notable: dict[int, CaseActivity]) -> None:
        """Takes the columns of all test cases (`cases`), and the activity of those test cases that have notable runs
        (`notable`). The columns must contain the test cases in `notable`, too.
        """
        self._cases, self._notable = cases, notable
        self._others = list(cases.runs)
        """Number of runs of each test case; 0 for those in `notable`, and for those that `keep` and `drop` took off the
        list.
        """
        for case_id in notable:
            self._others[cases.index_of(case_id)] = 0

    def find_failing_builds(self) -> set[int]:
        """Returns the ids of the builds in which failing test cases failed last."""
        return {case.last_failed_build for case in self._notable.values() if case.last_failed_build is not None}

    def mark_missed(self, newer: Mapping[int, int]) -> None:
        """Sets `missed_builds` of failing test cases. `newer` is build id -> number of newer builds of its job."""
        for case in list(self._notable.values()):
            if case.last_failed_build is not None and (missed := newer.get(case.last_failed_build)):
                self._notable[case.id] = msgspec.structs.replace(case, missed_builds=missed)

    def keep(self, case_ids: Set[int]) -> None:
        """Drops all test cases except `case_ids`."""
        self._notable = {case_id: self._notable[case_id] for case_id in self._notable.keys() & case_ids}
        columns = zip(self._cases.ids(), self._others, strict=True)
        self._others = [runs if case_id in case_ids else 0 for case_id, runs in columns]

    def drop(self, case_ids: Set[int]) -> None:
        """Drops the test cases `case_ids`."""
        self._notable = {case_id: self._notable[case_id] for case_id in self._notable.keys() - case_ids}
        columns = zip(self._cases.ids(), self._others, strict=True)
        self._others = [0 if case_id in case_ids else runs for case_id, runs in columns]

    def select(
        self, sort: Sort, only: Only | None, position: tuple[int, int] | None, limit: int
    ) -> tuple[int, list[CaseActivity]]:
        """Returns the number of test cases that match `only`, and one page of them, sorted by `sort`: at most `limit`
        test cases. `position` is the key of the last test case of the previous page; None for the first page.
        """
        keys = [case.key(sort) for case in self._notable.values() if case.matches(only)]
        total = len(keys)
        if position is not None:
            keys = [key for key in keys if key > position]
        if only in (None, "never_failing"):
            total += len(self._others) - self._others.count(0)
            keys += self._first_others(sort, position, limit)
        return total, [self._get(case_id) for _, case_id in nsmallest(limit, keys)]

    def _first_others(self, sort: Sort, position: tuple[int, int] | None, limit: int) -> Iterable[tuple[int, int]]:
        """Returns the keys (`CaseActivity.key`) of the test cases without notable runs: the first `limit` keys after
        `position`.
        """
        others = enumerate(self._others)
        # The value of a key and the index are one number, since two numbers are compared much slower.
        found: Iterable[int]
        match sort:
            case "runs":
                found = [index - (runs << _BITS) for index, runs in others if runs]
            case "slowest":
                columns = zip(others, self._cases.durations_ms, strict=True)
                found = [index + (NO_DURATION - duration << _BITS) for (index, runs), duration in columns if runs]
            case _:
                value = CaseActivity(0, 0).key(sort)[0] << _BITS
                found = (value + index for index, runs in others if runs)
        if position is not None:
            begin = (position[0] << _BITS) + self._cases.index_of(position[1])
            found = (key for key in found if key > begin)
        # Keys that are sorted already are not compared.
        first = nsmallest(limit, found) if sort in _BY_COLUMN else islice(found, limit)
        return ((key >> _BITS, self._cases.id_at(key & _MASK)) for key in first)

    def _get(self, case_id: int) -> CaseActivity:
        known = self._notable.get(case_id)
        if known is not None:
            return known
        runs, duration = self._cases.find(case_id)
        return CaseActivity(case_id, runs, duration_ms=duration)


_BY_COLUMN = ("runs", "slowest")
_BITS = 32
_MASK = (1 << _BITS) - 1
