"""Tests that probably fail for one cause, since they fail in the same builds, whatever their messages and traces say.

Three of four flaky tests fail in clusters that share a cause, such as a service that is away now and then. Parry,
Kapfhammer and McMinn ("Systemic flakiness: an empirical analysis of co-occurring flaky test failures", EASE 2025) find
them by hierarchical clustering with the Jaccard distance of the sets of runs in which tests failed. The function
`group` does the same.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from domain.run_histories import RunHistory
from domain.test_health import BROKEN_BUILD, FAILED, RETRIED

MIN_BUILDS = 3
"""Two tests count as similar only if they failed together in at least this many builds."""
MIN_STREAKS = 2
"""Two tests count as similar only if the builds in which they failed together belong to at least this many streaks of
failures of each test. Two tests that broke one after the other fail together, too, but in one streak.
"""
MIN_LIFT = 3.0
"""Two tests count as similar only if the number of builds in which they failed together is at least this multiple of
the number that is expected by chance.
"""
MAX_CHANCE = 0.005
"""Two tests count as similar only if the probability that they failed together so often by chance is at most this. By
chance means that they fail independently of each other.
"""
MIN_SIMILARITY = 0.4
"""Two clusters are joined only if the tests of one and those of the other have at least this mean similarity."""


class FailingRuns(NamedTuple):
    streaks: dict[int, int]
    """Id of a build in which the test failed or passed only on a retry -> number of the streak. A streak is failures in
    a row.
    """
    runs: int
    """Number of runs of the test."""


def find_failing(history: RunHistory, up_to: int) -> FailingRuns:
    """Returns the failing runs of a test in the builds up to `up_to`. Leaves out broken builds."""
    known = history.without_unknown()
    streaks: dict[int, int] = {}
    streak, before = 0, -1
    for run in known.notable:
        if run.flags & (FAILED | RETRIED) and not run.flags & BROKEN_BUILD and run.build_id <= up_to:
            streak += run.number > before + 1
            before = run.number
            streaks[run.build_id] = streak
    return FailingRuns(streaks, known.runs)


def compare(one: FailingRuns, other: FailingRuns) -> float:
    """Returns the similarity of two tests: the number of builds in which both failed, divided by the number of builds
    in which at least one failed. Returns 0 if they may fail together by chance.
    """
    together = one.streaks.keys() & other.streaks.keys()
    if len(together) < MIN_BUILDS:
        return 0.0
    if any(len({test.streaks[build] for build in together}) < MIN_STREAKS for test in (one, other)):
        return 0.0
    by_chance = len(one.streaks) * len(other.streaks) / max(1, min(one.runs, other.runs))
    if len(together) < MIN_LIFT * by_chance:
        return 0.0
    if find_chance(len(together), len(one.streaks), len(other.streaks), min(one.runs, other.runs)) > MAX_CHANCE:
        return 0.0
    return len(together) / len(one.streaks.keys() | other.streaks.keys())


def find_chance(together: int, one: int, other: int, runs: int) -> float:
    """Returns the probability that two tests fail together in at least `together` of `runs` runs, if they fail `one`
    and `other` times independently of each other (hypergeometric distribution).
    """
    runs = max(runs, one, other)
    common = max(together, one + other - runs)
    if common > min(one, other):
        return 0.0
    probability = math.exp(
        _log_choose(one, common) + _log_choose(runs - one, other - common) - _log_choose(runs, other)
    )
    found = probability
    while common < min(one, other) and probability > found * 1e-9:
        probability *= (one - common) * (other - common) / ((common + 1) * (runs - one - other + common + 1))
        found += probability
        common += 1
    return min(1.0, found)


def _log_choose(of: int, chosen: int) -> float:
    """Returns the logarithm of the number of ways to choose `chosen` of `of` items."""
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)


def group(tests: Sequence[FailingRuns]) -> list[int]:
    """Returns the number of each test's cluster. The work grows with the square of the number of tests that have
    failed in MIN_BUILDS builds, and with its cube if nearly all of them are alike.
    """
    clusters = {number: [number] for number in range(len(tests))}
    compared = [number for number, test in enumerate(tests) if len(test.streaks) >= MIN_BUILDS]
    sums = {
        pair: similarity
        for pair in combinations(compared, 2)
        if (similarity := compare(tests[pair[0]], tests[pair[1]]))
    }
    """Pair of clusters -> sum of the similarities of all pairs of their tests."""
    while sums:
        (one, other), mean = max(
            ((pair, value / (len(clusters[pair[0]]) * len(clusters[pair[1]]))) for pair, value in sums.items()),
            key=lambda item: item[1],
        )
        if mean < MIN_SIMILARITY:
            break
        clusters[one] += clusters.pop(other)
        joined: dict[tuple[int, int], float] = {}
        for (left, right), value in sums.items():
            left, right = (one if number == other else number for number in (left, right))
            if left != right:
                pair = (min(left, right), max(left, right))
                joined[pair] = joined.get(pair, 0.0) + value
        sums = joined
    numbers = {test: number for number, cluster in clusters.items() for test in cluster}
    return [numbers[test] for test in range(len(tests))]


def find_builds_together(tests: Iterable[FailingRuns]) -> list[int]:
    """Returns the builds in which at least two of the tests failed, the newest first."""
    seen: set[int] = set()
    together: set[int] = set()
    for test in tests:
        together |= seen & test.streaks.keys()
        seen |= test.streaks.keys()
    return sorted(together, reverse=True)
