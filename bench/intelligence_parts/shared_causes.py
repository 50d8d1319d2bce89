"""Measures whether tests that share a cause are found by the builds in which they failed.

Histories are drawn at random: in each, some clusters of tests have a cause that is there in some builds, and each test
of the cluster fails in most of these. All tests fail now and then by themselves, too, and some tests have no shared
cause. `group` gets those that failed in one build with a cause, as a report does. Precision and recall are those of
pairs of tests: whether two tests are in one cluster, and whether they share a cause.
"""

import random
from collections import Counter
from itertools import combinations
from pathlib import Path

from bench.support.report import Report
from domain.failures.shared_failures import FailingRuns, find_failing, group
from domain.run_histories import NotableRun, RunHistory
from domain.test_health import FAILED

HISTORIES = 300
BUILDS = 200
CLUSTERS, SIZE = 3, 13
"""Number of clusters, and of tests in each: 13.5 on average (Parry et al. 2025)."""
ALONE = 40
"""Number of tests without a shared cause."""
CAUSE_RATE = 0.05
"""Share of builds in which a cause is there."""
OWN_RATES = (0.002, 0.01, 0.03)
"""Share of builds in which a test fails by itself: a third of the tests has each."""
BROKEN = 10
"""Number of tests that break, one in each build, near the end, and stay broken."""
PARTS = (1.0, 0.9, 0.7)
"""Probabilities that a test of a cluster fails in a build with its cause."""


def draw_history(draw: random.Random, part: float) -> tuple[list[list[int]], list[int]]:
    """Returns the builds in which each test failed, and the cluster of each test; -1 for tests without one."""
    causes = [[build for build in range(BUILDS) if draw.random() < CAUSE_RATE] for _ in range(CLUSTERS)]
    tests: list[list[int]] = []
    clusters = [cluster for cluster in range(CLUSTERS) for _ in range(SIZE)] + [-1] * (ALONE + BROKEN)
    for number, cluster in enumerate(clusters):
        rate = OWN_RATES[number % len(OWN_RATES)]
        failed = {build for build in range(BUILDS) if draw.random() < rate}
        if cluster >= 0:
            failed |= {build for build in causes[cluster] if draw.random() < part}
        if number >= len(clusters) - BROKEN:
            failed |= set(range(BUILDS - 2 * BROKEN + number % BROKEN, BUILDS))
        tests.append(sorted(failed))
    return tests, clusters


def to_failing(builds: list[int], up_to: int) -> FailingRuns:
    notable = [NotableRun(build + 1, build, 0, FAILED) for build in builds]
    return find_failing(RunHistory(notable, BUILDS), up_to)


def count_pairs(draw: random.Random, part: float) -> Counter[str]:
    """Returns the numbers of pairs that were found rightly and wrongly, and that were to be found."""
    tests, clusters = draw_history(draw, part)
    build = draw.choice([build for build in range(BUILDS // 2, BUILDS) if any(build in test for test in tests)])
    failed = [
        (to_failing(test, build), cluster) for test, cluster in zip(tests, clusters, strict=True) if build in test
    ]
    found = group([failing for failing, _ in failed])
    pairs: Counter[str] = Counter()
    for one, other in combinations(range(len(failed)), 2):
        shares = failed[one][1] >= 0 and failed[one][1] == failed[other][1]
        pairs["shared"] += shares
        pairs["right"] += shares and found[one] == found[other]
        pairs["found"] += found[one] == found[other]
    return pairs


def run(report: Report, _data: Path) -> None:
    for part in PARTS:
        pairs: Counter[str] = Counter()
        for seed in range(HISTORIES):
            pairs += count_pairs(random.Random(seed), part)
        name = f"shared causes, each test in {part:.0%} of the builds"
        report.add(f"{name}: pairs of tests", pairs["shared"], "pairs")
        report.add(f"{name}: precision", pairs["right"] / pairs["found"], "", at_least=0.95)
        report.add(f"{name}: recall", pairs["right"] / pairs["shared"], "")
