"""Histories of test cases, which consist of notable runs. `domain.test_health` assesses them.

A run consists of the results of a test case in one build. Read models store only notable runs: failures, passes on a
retry, and passes on the commit on which the run before failed. All other runs passed, and only their number is known.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from domain.test_health import (
    BROKEN_BUILD,
    FAILED,
    LEFT_OUT,
    OTHER_BRANCH,
    RETRIED,
    DriftState,
    observe,
    observe_passes,
)

MINUTES_OF_DAY = 24 * 60
KEPT_RUNS = 200
"""Least number of the newest failures and retries of a test case that read models keep when they delete older ones."""
BROKEN_MIN_RESULTS = 5
"""Least number of passed and failed results, together, with which a build can count as broken. Fewer results do not
show that something other than single tests failed.
"""
BROKEN_SHARE = 0.8
"""Share of failed results above which a build is broken: something else than single tests failed."""


class NotableRun(msgspec.Struct, frozen=True, gc=False):
    number: int
    """Number of this run among all runs of the test case, from 1."""
    build_id: int
    minute: int
    """Time of the result, in minutes since 1970."""
    flags: int
    """Sum of the flags of `domain.test_health`, such as RETRIED."""


class RunHistory(msgspec.Struct, frozen=True):
    """The notable runs of a test case, ordered by number, and the number of all its runs."""

    notable: Sequence[NotableRun]
    runs: int

    def since_day(self, day: int, runs: int) -> "RunHistory":
        """Returns the part of the history that begins with `day` (in days since 1970). `runs` is the number of all runs
        since the beginning of that day.
        """
        kept = [run for run in self.notable if run.minute >= day * MINUTES_OF_DAY]
        runs = max(runs, len(kept))
        return RunHistory(_shift(kept, self.runs - runs), runs)

    def newest(self, runs: int) -> "RunHistory":
        """Returns the history of the newest `runs` runs only."""
        skipped = max(0, self.runs - runs)
        kept = [run for run in self.notable if run.number > skipped]
        return RunHistory(_shift(kept, skipped), self.runs - skipped)

    def before_newest(self, runs: int) -> "RunHistory":
        """Returns the history without the newest `runs` runs."""
        left = max(0, self.runs - runs)
        return RunHistory([run for run in self.notable if run.number <= left], left)

    def without_unknown(self) -> "RunHistory":
        """Returns the history from its oldest notable run on, since older notable runs may have been deleted. Returns a
        history with fewer than KEPT_RUNS notable runs unchanged.
        """
        if len(self.notable) < KEPT_RUNS:
            return self
        return self.newest(self.runs - self.notable[0].number + 1)

    def find_failing(self) -> NotableRun | None:
        """Returns the newest run that is not left out (LEFT_OUT), if that run failed; otherwise None."""
        runs = self.runs
        for run in reversed(self.notable):
            if not run.flags & LEFT_OUT:
                return run if run.flags & FAILED and run.number >= runs else None
            runs -= 1
        return None

    def find_last_failing(self) -> NotableRun | None:
        """Returns the newest notable run without the flag OTHER_BRANCH, even if that run is left out for another
        reason. Returns None if the newest run that is not left out passed.
        """
        failing = self.find_failing()
        if failing is None:
            return None
        return next((run for run in reversed(self.notable) if not run.flags & OTHER_BRANCH), failing)

    def to_bytes(self) -> bytes:
        """Returns the history as bytes, one byte for each run, the oldest first. `domain.test_health.assess` takes this
        form.
        """
        found = bytearray(self.runs)
        for run in self.notable:
            # Numbers may be off by a run after the results of an older build were withdrawn.
            if self.runs:
                found[min(max(run.number, 1), self.runs) - 1] |= run.flags
        return bytes(found)


def _shift(runs: Sequence[NotableRun], skipped: int) -> Sequence[NotableRun]:
    """Returns the runs with their numbers reduced by `skipped`."""
    return [NotableRun(run.number - skipped, run.build_id, run.minute, run.flags) for run in runs] if skipped else runs


def is_broken(passed: int, failed: int) -> bool:
    """Returns whether a build with these numbers of results is broken: it says nothing about single tests."""
    total = passed + failed
    return total >= BROKEN_MIN_RESULTS and failed > BROKEN_SHARE * total


def mark_broken(runs: Iterable[NotableRun], broken: Collection[int]) -> list[NotableRun]:
    """Returns the runs. Those in the builds `broken` get the flag BROKEN_BUILD."""
    return [
        msgspec.structs.replace(run, flags=run.flags | BROKEN_BUILD) if run.build_id in broken else run for run in runs
    ]


def count_failing(history: RunHistory) -> tuple[int, int]:
    """Returns the number of runs that failed or passed on a retry only, and the number of all runs. Neither number
    counts runs that are left out.
    """
    left_out = sum(run.flags & LEFT_OUT != 0 for run in history.notable)
    failing = sum(run.flags & (FAILED | RETRIED) != 0 and not run.flags & LEFT_OUT for run in history.notable)
    return failing, history.runs - left_out


class Drift(NamedTuple):
    """Result of the search for emerging flakiness in a history."""

    state: DriftState
    first_build_id: int | None
    """Id of the build with the first of the failures that may be emerging flakiness; None if there are none."""
    detected_build_id: int | None
    """Id of the build in which flakiness emerged; None if it has not emerged, or has settled since."""


def follow(history: RunHistory) -> Drift:
    """Observes all runs of a history, from the first to the last, and returns whether flakiness has emerged."""
    state, number = DriftState(), 0
    first: int | None = None
    detected: int | None = None
    for run in history.notable:
        state = observe_passes(state, max(0, run.number - number - 1))
        number = max(number, run.number)
        before, state = state, observe(state, run.flags)
        if state.recent_failures == 1 and before.recent_failures == 0:
            first = run.build_id
        if state.is_emerging and not before.is_emerging:
            detected = run.build_id
    state = observe_passes(state, max(0, history.runs - number))
    return Drift(state, first if state.recent_failures else None, detected if state.is_emerging else None)
