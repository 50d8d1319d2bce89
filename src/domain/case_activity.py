"""Activity of test cases in a look-back window: how often they ran and failed, and what that cost. Lists of test cases
are sorted and filtered by it.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from heapq import nsmallest
from itertools import chain
from typing import Literal

import msgspec

from domain.run_histories import RunHistory
from domain.test_health import BROKEN_BUILD, FAILED, RETRIED

Sort = Literal["failures", "flaky", "newly_failing", "cost", "slowest", "runs", "id"]
Only = Literal["failing", "flaky", "newly_failing", "never_failing"]


class CaseActivity(msgspec.Struct, frozen=True):
    id: int
    runs: int
    """Number of runs in the window, without the failed and retried ones of broken builds."""
    failed_runs: int = 0
    retried_runs: int = 0
    """Number of these runs that passed on a retry only."""
    flips: int = 0
    """Number of times that the outcome changed between passed and failed, from one run to the next."""
    failing_streak: int = 0
    """Number of runs in a row up to the newest one that failed."""
    failing_since: int | None = None
    """Build with which the streak began; None if the newest run passed, or if the streak began before the window."""
    duration_ms: int | None = None
    """Duration in the newest builds; None if they did not run the test."""

    @property
    def time_lost_ms(self) -> int:
        """Time that runs took which failed, or passed on a retry only."""
        return (self.failed_runs + self.retried_runs) * (self.duration_ms or 0)

    @property
    def is_flaky(self) -> bool:
        """Whether the outcome changed back and forth, or a run passed on a retry only."""
        return self.flips > 1 or self.retried_runs > 0

    def key(self, sort: Sort) -> tuple[int, int]:
        """Returns a key by which lists are sorted in ascending order, so that the most striking test comes first."""
        match sort:
            case "failures":
                return -self.failed_runs - self.retried_runs, self.id
            case "flaky":
                return -self.flips - self.retried_runs, self.id
            case "newly_failing":
                # The shortest streak is the newest. Tests that do not fail come last.
                return self.failing_streak if self.failing_since is not None else 2**31, self.id
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
                return self.failing_since is not None
            case "never_failing":
                return self.failed_runs + self.retried_runs == 0


def sum_up(case_id: int, history: RunHistory, duration_ms: int | None) -> CaseActivity:
    """Returns the activity of a test case that has notable runs. `history` is that of the window. Leaves broken builds
    out.
    """
    outcomes = history.to_bytes().translate(_OUTCOMES, _BROKEN)
    counting = [run for run in history.notable if not run.flags & BROKEN_BUILD]
    failed = [run for run in counting if run.flags & FAILED]
    streak = min(len(outcomes) - len(outcomes.rstrip(b"\1")), len(failed))
    return CaseActivity(
        id=case_id,
        runs=max(len(counting), history.runs - (len(history.notable) - len(counting))),
        failed_runs=len(failed),
        retried_runs=sum(run.flags & RETRIED != 0 for run in counting),
        flips=outcomes.count(b"\0\1") + outcomes.count(b"\1\0"),
        failing_streak=streak,
        failing_since=failed[-streak].build_id if 0 < streak < len(outcomes) else None,
        duration_ms=duration_ms,
    )


class Activity:
    """Activity of the test cases of a project or job: `notable` has those with notable runs in the window. Of all
    others, which are nearly all, only the number of runs is known: so a list of 50,000 takes milliseconds.
    """

    def __init__(self, notable: dict[int, CaseActivity], others: dict[int, int], durations: Mapping[int, int]) -> None:
        self._notable, self._others, self._durations = notable, others, durations

    def keep(self, case_ids: Set[int]) -> None:
        """Drops all test cases but these."""
        self._notable = {case_id: self._notable[case_id] for case_id in self._notable.keys() & case_ids}
        self._others = {case_id: self._others[case_id] for case_id in self._others.keys() & case_ids}

    def drop(self, case_ids: Set[int]) -> None:
        """Drops these test cases."""
        self.keep((self._notable.keys() | self._others.keys()) - case_ids)

    def select(
        self, sort: Sort, only: Only | None, position: tuple[int, int] | None, limit: int
    ) -> tuple[int, list[CaseActivity]]:
        """Returns how many test cases match `only`, and the first of them after a position, which is the key of the
        last one before.
        """
        matching = [case for case in self._notable.values() if case.matches(only)]
        others = self._others if only in (None, "never_failing") else {}
        keys: Iterable[tuple[int, int]] = chain((case.key(sort) for case in matching), self._keys_of(others, sort))
        if position is not None:
            keys = (key for key in keys if key > position)
        found = nsmallest(limit, keys)
        return len(matching) + len(others), [self._get(case_id) for _, case_id in found]

    def _keys_of(self, others: dict[int, int], sort: Sort) -> Iterator[tuple[int, int]]:
        """Returns the keys that `CaseActivity.key` would return."""
        if sort == "runs":
            return ((-runs, case_id) for case_id, runs in others.items())
        if sort == "slowest":
            durations = self._durations
            return ((-1 - durations[case_id] if case_id in durations else 0, case_id) for case_id in others)
        value, _ = CaseActivity(0, 0).key(sort)
        return ((value, case_id) for case_id in others)

    def _get(self, case_id: int) -> CaseActivity:
        known = self._notable.get(case_id)
        return known or CaseActivity(case_id, self._others[case_id], duration_ms=self._durations.get(case_id))


_OUTCOMES = bytes(flags & FAILED for flags in range(256))
_BROKEN = bytes(flags for flags in range(256) if flags & BROKEN_BUILD)
