"""Lines of builds, which keep apart runs that say nothing about each other.

A line has the builds of one job, with one combination of matrix values, on the default branch of the job. A test may
fail on one line and pass on another at the same time: where the code of one is broken, each of its builds fails until
the code is mended, whatever passes meanwhile. So failures between which a line has no build that passed are put next to
each other in the history of a test, after the passes of other lines.

A failure on another branch shows that this branch is broken, unless the test passed on the same commit or on a retry.
It is left out, if the job has builds on its default branch at all.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import zip_longest
from typing import NamedTuple

import msgspec

from domain.run_histories import MINUTES_OF_DAY, NotableRun
from domain.test_health import BROKEN_BUILD, FAILED, LEFT_OUT, OTHER_BRANCH, RETRIED, SAME_COMMIT

NO_LINE, OTHER_BRANCHES, ASKED_BRANCH = 0, -1, -2
"""Numbers in place of a line: for builds of older releases, builds on other branches than the default one, and builds
on the branch that somebody asks about.
"""
OPEN_DAYS = 7
"""Number of days for which a test counts as failing on a line that has no newer build. Later, the line may have been
given up: its job is disabled, say.
"""


def line_number(job_id: int, matrix: Mapping[str, str]) -> int:
    """Returns a positive number of 31 bits that identifies a line, but does not reveal the values of the matrix."""
    key = repr((job_id, sorted(matrix.items()))).encode()
    return int.from_bytes(blake2b(key, digest_size=4).digest()) >> 1 or 1


class BuildOnLine(NamedTuple):
    """A build in which tests ran."""

    job_id: int
    line: int
    """Number of the build's line, or what stands in place of one."""
    is_broken: bool


class Lines:
    """The builds of a project's lines, and what is known about the builds in which tests failed."""

    def __init__(
        self,
        outcomes: Mapping[int, BuildOnLine],
        builds: Iterable[tuple[int, int, int]],
        asked: Collection[int] = (),
        *,
        now: int,
    ) -> None:
        """`outcomes` are those of the builds with notable runs. `builds` has the build id, the job id and the line of
        each build of a line; broken builds can be left out. `asked` has the ids of builds on the branch that somebody
        asks about. `now` is the time in minutes since 1970.
        """
        self._outcomes, self._now = outcomes, now
        self._asked = {build for build in asked if build in outcomes and outcomes[build].line == OTHER_BRANCHES}
        by_line: dict[int, list[int]] = {ASKED_BRANCH: [*asked] if self._asked else []}
        self._jobs: set[int] = set()
        """Jobs with builds on their default branches."""
        for build_id, job_id, line in builds:
            by_line.setdefault(line, []).append(build_id)
            self._jobs.add(job_id)
        self._following: dict[int, int | None] = {}
        """Build -> next build of its line; None for the last one."""
        for of_line in by_line.values():
            ordered = sorted(of_line)
            self._following.update(zip_longest(ordered, ordered[1:]))

    def arrange(self, runs: Sequence[NotableRun], total: int) -> Sequence[NotableRun]:
        """Returns the notable runs of a test case, ordered by number, with those marked that say nothing about it, and
        with the failures of each line next to each other. `total` is the number of all runs of the test case.
        """
        marked = self._mark(runs)
        targets = self._find_targets(marked, total)
        is_moved = any(target != run.number for run, target in zip(marked, targets, strict=True))
        return _move(marked, targets) if is_moved else marked

    def _line_of(self, build_id: int) -> int:
        if build_id in self._asked:
            return ASKED_BRANCH
        outcome = self._outcomes.get(build_id)
        return NO_LINE if outcome is None else outcome.line

    def _mark(self, runs: Sequence[NotableRun]) -> list[NotableRun]:
        marked: list[NotableRun] = []
        for index, run in enumerate(runs):
            outcome = self._outcomes.get(run.build_id)
            mark = 0
            if outcome is not None and outcome.is_broken:
                mark = BROKEN_BUILD
            elif outcome is not None and run.flags & FAILED and outcome.line == OTHER_BRANCHES:
                is_asked = run.build_id in self._asked or outcome.job_id not in self._jobs
                mark = 0 if is_asked or _differs_on_commit(runs, index) else OTHER_BRANCH
            marked.append(msgspec.structs.replace(run, flags=run.flags | mark) if mark else run)
        return marked

    def _find_targets(self, runs: Sequence[NotableRun], total: int) -> list[int]:
        """Returns, for each run, the number of the run before which it belongs; its own number if it stays."""
        targets = [run.number for run in runs]
        later: dict[int, tuple[int, int]] = {}
        """Line -> build and target of the next failure."""
        for index in range(len(runs) - 1, -1, -1):
            run = runs[index]
            if run.flags & (FAILED | LEFT_OUT) != FAILED or run.build_id not in self._following:
                continue
            line, following = self._line_of(run.build_id), self._following[run.build_id]
            failed_again = later.get(line)
            if failed_again is not None and (following is None or following >= failed_again[0]):
                targets[index] = failed_again[1]
            elif following is None and (line == ASKED_BRANCH or self._now - run.minute <= OPEN_DAYS * MINUTES_OF_DAY):
                targets[index] = total + 1
            later[line] = run.build_id, targets[index]
        return targets


def _differs_on_commit(runs: Sequence[NotableRun], index: int) -> bool:
    """Returns whether the run before or after a failure passed on the same commit."""
    run = runs[index]
    before = runs[index - 1] if index and runs[index - 1].number == run.number - 1 else None
    if run.flags & SAME_COMMIT and (before is None or not before.flags & FAILED):
        return True
    after = runs[index + 1] if index + 1 < len(runs) else None
    return (
        after is not None
        and after.number == run.number + 1
        and after.flags & (SAME_COMMIT | FAILED | RETRIED) == SAME_COMMIT
    )


def _move(runs: Sequence[NotableRun], targets: Sequence[int]) -> list[NotableRun]:
    """Returns the runs, each of them right before the run whose number is its target."""
    numbers = [run.number for run in runs]
    order = sorted(range(len(runs)), key=lambda index: (targets[index], index))
    has_moved = {run.number for run, target in zip(runs, targets, strict=True) if target != run.number}
    moved: list[NotableRun] = []
    before: NotableRun | None = None
    for rank, index in enumerate(order):
        run, target = runs[index], targets[index]
        passes = target - 1 - bisect_left(numbers, target)
        follows = before is not None and before.number == run.number - 1
        if run.number not in has_moved and run.number - 1 not in has_moved:
            follows = True
        flags = run.flags if follows else run.flags & ~SAME_COMMIT
        moved.append(NotableRun(max(1, passes + rank + 1), run.build_id, run.minute, flags))
        before = run
    return moved
