"""Measures who recognises flaky tests, on real runs and beside simple rules.

Each run has a commit of its own, as in a build of every commit. Of the windows with failures, two thirds are of flaky
tests and one third of stable tests with a regression. The thresholds of the simple rules are the best ones for each
size on one half of the tests, by their names; the other half is reported. The assessment has the same parameters for
all sizes, none of them fitted to these runs.
"""

import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench.intelligence_parts.flaky_windows import (
    SEQUENCES,
    SIZES,
    Sequence,
    count_episodes,
    list_regressions,
    read_sequences,
)
from bench.support.report import Report, percentile
from domain.test_health import FAILED, FLAKY_FROM, RECENCY, SAME_COMMIT, assess

REGRESSION_SHARE = 1 / 3
"""Share of regressions among the windows with failures. At Google, 16 % of the changes from pass to failure were not
due to flaky tests (Micco 2016); twice as many are harder to tell.
"""
OTHER_SHARES = (0.16, 0.5)
BOUNDED_SIZES = (20, 50)
RESAMPLES = 1_000

Rule = Callable[[bytes], float]


@cache
def score_assessment(window: bytes) -> float:
    return assess(window).flaky_probability


def score_same_commit(window: bytes) -> float:
    return float(any(after & SAME_COMMIT and (before ^ after) & FAILED for before, after in pairwise(window)))


def score_flip_rate(window: bytes) -> float:
    return sum((before ^ after) & FAILED for before, after in pairwise(window)) / (len(window) - 1)


def score_transitions(window: bytes) -> float:
    """Returns the flip rate in which recent transitions count most."""
    weights = [RECENCY ** (len(window) - 2 - index) for index in range(len(window) - 1)]
    pairs = zip(pairwise(window), weights, strict=True)
    return sum(weight for (before, after), weight in pairs if (before ^ after) & FAILED) / sum(weights)


SIMPLE_RULES: dict[str, Rule] = {
    "same commit": score_same_commit,
    "flip rate": score_flip_rate,
    "transition score": score_transitions,
}


class Counts(NamedTuple):
    """Windows of one test, or of several."""

    windows: int = 0
    exposed: int = 0
    """Those with a failure."""
    repeated: int = 0
    """Those with two or more episodes of failures."""
    found: int = 0
    found_repeated: int = 0

    def __add__(self, other: "Counts") -> "Counts":  # type: ignore[override]
        return Counts(*(mine + its for mine, its in zip(self, other, strict=True)))


class Measured(NamedTuple):
    precision: float
    recall: float
    exposed_recall: float
    repeated_recall: float
    f1: float
    """Of the windows with failures."""
    f1_of_all: float


def count(sequence: Sequence, size: int, rule: Rule, threshold: float) -> Counts:
    total = Counts()
    for window in sequence.cut(size):
        number = count_episodes(window)
        found = bool(number) and rule(window) >= threshold
        total += Counts(1, number > 0, number > 1, found, found and number > 1)
    return total


def find_false_share(size: int, rule: Rule, threshold: float) -> float:
    """Returns the share of regressions that the rule takes for flakiness."""
    return sum(share for window, share in list_regressions(size) if rule(window) >= threshold)


def measure(counts: Counts, false_share: float, regression_share: float = REGRESSION_SHARE) -> Measured:
    regressions = counts.exposed * regression_share / (1 - regression_share)
    flagged = counts.found + false_share * regressions
    return Measured(
        counts.found / flagged if flagged else 1.0,
        counts.found / counts.windows,
        counts.found / max(counts.exposed, 1),
        counts.found_repeated / max(counts.repeated, 1),
        2 * counts.found / (flagged + counts.exposed) if counts.exposed else 0.0,
        2 * counts.found / (flagged + counts.windows),
    )


def evaluate(sequences: list[Sequence], size: int, rule: Rule, threshold: float) -> Measured:
    total = sum_counts(count(sequence, size, rule, threshold) for sequence in sequences)
    return measure(total, find_false_share(size, rule, threshold))


def sum_counts(counts: Iterator[Counts]) -> Counts:
    total = Counts()
    for each in counts:
        total += each
    return total


def tune(sequences: list[Sequence], size: int, rule: Rule) -> float:
    """Returns the threshold with the highest F1."""
    scores = [rule(window) for sequence in sequences for window in sequence.cut(size) if any(window)]
    regressions = [(rule(window), share) for window, share in list_regressions(size)]
    scale = len(scores) * REGRESSION_SHARE / (1 - REGRESSION_SHARE)
    best, chosen = -1.0, 1.0
    for threshold in sorted({*scores, *(score for score, _ in regressions)} - {0.0}):
        found = sum(score >= threshold for score in scores)
        false = scale * sum(share for score, share in regressions if score >= threshold)
        if (f1 := 2 * found / (found + false + len(scores))) > best:
            best, chosen = f1, threshold
    return chosen


def find_intervals(counts: list[Counts], false_share: float) -> list[tuple[float, float]]:
    """Returns an interval of 95 % for each field of Measured, by drawing tests with replacement: windows of one test
    are much alike.
    """
    draw = random.Random(1)
    samples = [measure(sum_counts(iter(draw.choices(counts, k=len(counts)))), false_share) for _ in range(RESAMPLES)]
    return [(percentile(values, 2.5), percentile(values, 97.5)) for values in zip(*samples, strict=True)]


def measure_cost(report: Report, sequences: list[Sequence]) -> None:
    windows = {window for sequence in sequences for window in sequence.cut(200)}
    times = []
    for window in windows:
        begun = time.perf_counter()
        assess(window)
        times.append((time.perf_counter() - begun) * 1e6)
    report.add("flaky: time of an assessment of 200 runs, p50", percentile(times, 50), "µs", at_most=1_000)


def run(report: Report, data: Path) -> None:
    every = read_sequences(data / SEQUENCES)
    flaky = [sequence for sequence in every if sequence.is_flaky]
    training, reported = ([sequence for sequence in flaky if sequence.half == half] for half in (0, 1))
    report.add("flaky: tests that failed and passed, reported half", len(reported), "tests")
    for size in SIZES:
        measure_size(report, size, training, reported)
    labelled = [sequence for sequence in every if sequence.half == 1]
    for size in BOUNDED_SIZES:
        total = sum_counts(count(sequence, size, score_assessment, FLAKY_FROM) for sequence in labelled)
        report.add(f"flaky, {size} runs: recall of all, with tests that never changed", total.found / total.windows)
    measure_cost(report, flaky)


def measure_size(report: Report, size: int, training: list[Sequence], reported: list[Sequence]) -> None:
    name = f"flaky, {size} runs"
    counts = [count(sequence, size, score_assessment, FLAKY_FROM) for sequence in reported]
    total = sum_counts(iter(counts))
    false_share = find_false_share(size, score_assessment, FLAKY_FROM)
    ours = measure(total, false_share)
    intervals = find_intervals(counts, false_share)
    report.add(f"{name}: windows of flaky tests", total.windows, "windows")
    report.add(f"{name}: of these with failures", total.exposed, "windows")
    labels = ("precision", "recall of all", "recall with failures", "recall with two episodes", "F1", "F1 of all")
    for label, value, (low, high) in zip(labels, ours, intervals, strict=True):
        bound = 0.97 if label == "precision" and size == 50 else None
        report.add(f"{name}: {label}", value, f"{low:.3f} to {high:.3f}", at_least=bound)
    for share in OTHER_SHARES:
        other = measure(total, false_share, share)
        report.add(f"{name}: precision if {share:.0%} are regressions", other.precision)
    rules = {}
    for label, rule in SIMPLE_RULES.items():
        threshold = tune(training, size, rule)
        rules[label] = evaluate(reported, size, rule, threshold)
        report.add(f"{name}: F1 of {label}", rules[label].f1, f"from {threshold:.3f}")
        report.add(f"{name}: F1 of all of {label}", rules[label].f1_of_all)
    best = max(measured.f1 for measured in rules.values())
    bound = 5 if size in BOUNDED_SIZES else None
    report.add(f"{name}: F1 above the best simple rule", 100 * (ours.f1 - best), "points", at_least=bound)
    best = max(measured.f1_of_all for measured in rules.values())
    report.add(f"{name}: F1 of all above the best simple rule", 100 * (ours.f1_of_all - best), "points")
