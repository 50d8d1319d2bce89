"""Lines of builds, which keep apart runs that say nothing about each other.

A line has the builds of one job, with one combination of matrix values, on the default branch of the job. A test may
fail on one line and pass on another at the same time: while the code of a line is broken, each build of the line fails,
whatever passes on other lines. So if no build of a line passed between two of its failures, the history of the test has
these failures next to each other, after the passes of other lines.

A failure on another branch than the default branch is left out, since the code of that branch may be broken. But the
failure counts if the run before or after it passed on the same commit, or if the job has no builds on its default
branch.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import zip_longest
from typing import NamedTuple

import msgspec

from domain.outages import count_frequent
from domain.run_histories import MINUTES_OF_DAY, NotableRun
from domain.test_health import BROKEN_BUILD, FAILED, OTHER_BRANCH, RETRIED, SAME_COMMIT

NO_LINE = 0
"""Value of `BuildOnLine.line` for a build that an older release recorded: its line is not known."""
OTHER_BRANCHES = -1
"""Value of `BuildOnLine.line` for a build that is not on the default branch."""
ASKED_BRANCH = -2
"""Value of `BuildOnLine.line` for a build on the branch that somebody asks about."""
OPEN_DAYS = 7
"""If no build of a line follows a failure, the test counts as failing on the line for this number of days. After them,
the line may have been given up, for example because its job is disabled.
"""


def line_number(job_id: int, matrix: Mapping[str, str]) -> int:
    """Returns a positive number of 31 bits that identifies a line, but does not reveal the values of the matrix."""
    key = repr((job_id, sorted(matrix.items()))).encode()
    return int.from_bytes(blake2b(key, digest_size=4).digest()) >> 1 or 1


class BuildOnLine(NamedTuple):
    """A build in which tests ran."""

    job_id: int
    line: int
    """Number of the build's line; NO_LINE, OTHER_BRANCHES or ASKED_BRANCH if it has none."""
    is_broken: bool
    following: int | None = None
    """Id of the next build of the line that has results, is not broken, and did not run only selected tests. None if no
    such build followed.
    """


class Lines:
    """The builds in which notable runs took place, with their lines."""

    def __init__(
        self, builds: Mapping[int, BuildOnLine], jobs: Collection[int], asked: Collection[int], now: int
    ) -> None:
        """Takes build id -> build. `jobs` has the ids of the jobs that have builds on their default branch. `asked` has
        the ids of the builds on the branch that somebody asks about. `now` is the time in minutes since 1970.
        """
        self._builds, self._jobs = dict(builds), jobs
        self._open_since = now - OPEN_DAYS * MINUTES_OF_DAY
        ordered = sorted(asked)
        for build_id, following in zip_longest(ordered, ordered[1:]):
            if (build := builds.get(build_id)) is not None and build.line == OTHER_BRANCHES:
                self._builds[build_id] = build._replace(line=ASKED_BRANCH, following=following)

    def arrange(self, runs: Sequence[NotableRun], total: int) -> Sequence[NotableRun]:
        """Returns the notable runs of a test case, ordered by number. Runs that say nothing about the test are marked,
        and the failures of each line are put next to each other. `total` is the number of all runs of the test case.
        """
        marks: dict[int, int] = {}
        """Index of a run -> flags that say why the run is left out."""
        targets: dict[int, int] = {}
        """Index of a failure -> number of the run before which it belongs."""
        later: dict[int, tuple[int, int]] = {}
        """Line -> (build id, target) of the next failure on this line."""
        builds = self._builds
        for index in range(len(runs) - 1, -1, -1):
            run = runs[index]
            build = builds.get(run.build_id)
            if build is None:
                continue
            line = build.line
            is_elsewhere = line == OTHER_BRANCHES and build.job_id in self._jobs
            if build.is_broken:
                marks[index] = BROKEN_BUILD | (OTHER_BRANCH if is_elsewhere else 0)
            elif not run.flags & FAILED or line == NO_LINE:
                continue
            elif line == OTHER_BRANCHES:
                if is_elsewhere and not _differs_on_commit(runs, index):
                    marks[index] = OTHER_BRANCH
            else:
                target, following = run.number, build.following
                failed_again = later.get(line)
                if failed_again is not None and (following is None or following >= failed_again[0]):
                    target = failed_again[1]
                elif following is None and (line == ASKED_BRANCH or run.minute >= self._open_since):
                    target = total + 1
                targets[index] = target
                later[line] = run.build_id, target
        marked = list(runs)
        for index, mark in marks.items():
            marked[index] = msgspec.structs.replace(runs[index], flags=runs[index].flags | mark)
        if all(target <= runs[index].number + 1 for index, target in targets.items()):
            return count_frequent(marked)  # no failure has to move
        return count_frequent(_move(marked, [targets.get(index, run.number) for index, run in enumerate(runs)]))


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
    """Returns the runs, each moved to right before the run whose number is its target."""
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
