"""Measures how soon failures that become more frequent are noticed, beside a CUSUM that knows both rates.

A test fails at 2 % of its runs, at random, and from some run on at 18 %. The CUSUM (Page 1954) knows both rates, and
its threshold is the lowest one with at most one false alarm per 10,000 runs at 2 %. No detector with so few false
alarms has a shorter delay in the worst case (Moustakides 1986). `observe` knows none of the rates; it has seen LEARNING
runs before. Runs are drawn as the numbers of passes between two failures, the same ones for both detectors.

In a cluster, tests share a cause that is there in some builds, and each test fails in about half of these. `observe`
follows the cause then: its runs are builds, which fail if any test of the cluster does.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.intelligence_parts.flaky_windows import SEQUENCES, read_sequences
from bench.support.report import Report, percentile
from domain.test_health import FAILED, RUNS_PER_FALSE_ALARM, DriftState, observe, observe_passes

BEFORE, AFTER = 0.02, 0.18
OTHER_CHANGES = ((0.005, 0.05), (0.01, 0.3), (0.02, 0.06), (0.05, 0.25))
STABLE_RATES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
LEARNING = 500
"""Number of stable runs before anything is counted."""
STABLE_RUNS = 10_000
YOUNG_RUNS = 1_000
TESTS = 400
"""Number of tests with STABLE_RUNS stable runs after LEARNING."""
CHANGES = 4_000
"""Number of changes whose delay is measured."""
CLUSTER = 13
"""Number of tests that fail in clusters, on average (Parry et al. 2025)."""
REGRESSION_EVERY = 200
"""Number of runs for each regression, of 1 to MAX_REGRESSION builds."""
MAX_REGRESSION = 20
SHARED = 0.5
"""Probability that a test of a cluster fails when the cause of the cluster is there."""

Gaps = Iterator[int]
"""Numbers of passes before each failure."""


def draw_gaps(draw: random.Random, rate: float) -> Gaps:
    scale = math.log1p(-rate)
    while True:
        yield int(math.log(1 - draw.random()) / scale)


@dataclass
class KnownRates:
    """A CUSUM that knows the rates before and after the change."""

    before: float
    after: float
    threshold: float = math.inf
    evidence: float = 0.0

    def __post_init__(self) -> None:
        self.gain = math.log(self.after / self.before)
        self.loss = math.log((1 - self.before) / (1 - self.after))

    def learn(self, gaps: Gaps) -> None:
        pass

    def observe(self, passes: int) -> bool:
        """Adds passes and the failure after them. Returns whether that is an alarm, and begins anew after one."""
        self.evidence = max(0.0, self.evidence - passes * self.loss) + self.gain
        if self.evidence < self.threshold:
            return False
        self.evidence = 0.0
        return True


@dataclass
class Observed:
    """`observe`, which begins anew after an alarm, but keeps what it knows of the time before."""

    state: DriftState = field(default_factory=DriftState)

    def learn(self, gaps: Gaps) -> None:
        while self.state.runs + self.state.recent_runs < LEARNING:
            self.observe(next(gaps))

    def observe(self, passes: int) -> bool:
        self.state = observe(observe_passes(self.state, passes), FAILED)
        if not self.state.is_emerging:
            return False
        self.state = DriftState(runs=self.state.runs, failures=self.state.failures)
        return True


Detector = KnownRates | Observed


def count_false_alarms(make: Callable[[], Detector], rate: float, *, young: bool = False) -> float:
    """Returns the number of alarms per RUNS_PER_FALSE_ALARM stable runs. With `young`, no runs were before, and only
    the first YOUNG_RUNS of each test count.
    """
    alarms = 0
    tests, counted = (TESTS * STABLE_RUNS // YOUNG_RUNS, YOUNG_RUNS) if young else (TESTS, STABLE_RUNS)
    for seed in range(tests):
        gaps = draw_gaps(random.Random(seed), rate)
        detector = make()
        if not young:
            detector.learn(gaps)
        runs = 0
        while runs < counted:
            passes = next(gaps)
            runs += passes + 1
            alarms += detector.observe(passes)
    return alarms / (tests * counted) * RUNS_PER_FALSE_ALARM


def measure_delays(make: Callable[[], Detector], before: float, after: float) -> list[int]:
    """Returns numbers of runs from the change to the alarm."""
    delays = []
    for seed in range(CHANGES):
        draw = random.Random(seed)
        detector = make()
        stable = draw_gaps(draw, before)
        detector.learn(stable)
        for _ in range(5):
            detector.observe(next(stable))
        delay = 0
        for passes in draw_gaps(draw, after):
            delay += passes + 1
            if detector.observe(passes):
                break
        delays.append(delay)
    return delays


def tune(before: float, after: float) -> float:
    """Returns the lowest threshold of KnownRates with at most one false alarm per RUNS_PER_FALSE_ALARM runs."""
    low, high = 0.0, math.log(RUNS_PER_FALSE_ALARM)
    while high - low > 0.02:
        middle = (low + high) / 2
        threshold = middle
        if count_false_alarms(lambda: KnownRates(before, after, threshold), before) > 1:  # noqa: B023
            low = middle
        else:
            high = middle
    return high


def measure_regressions() -> float:
    """Returns the number of alarms for each 100 regressions of tests that fail at BEFORE on good code."""
    alarms = regressions = 0
    for seed in range(TESTS):
        draw = random.Random(seed)
        detector = Observed()
        detector.learn(draw_gaps(draw, BEFORE))
        state = detector.state
        for _ in range(STABLE_RUNS // REGRESSION_EVERY):
            history = [FAILED if draw.random() < BEFORE else 0 for _ in range(REGRESSION_EVERY)]
            index = draw.randrange(REGRESSION_EVERY)
            history[index:index] = [FAILED] * draw.randint(1, MAX_REGRESSION)
            for run in history:
                state = observe(state, run)
                if state.is_emerging:
                    alarms += 1
                    state = DriftState(runs=state.runs, failures=state.failures)
            regressions += 1
    return 100 * alarms / regressions


def count_real_alarms(data: Path) -> float:
    """Returns the number of alarms per RUNS_PER_FALSE_ALARM runs of real flaky tests, all on one commit."""
    sequences = [sequence for sequence in read_sequences(data / SEQUENCES) if sequence.is_flaky]
    alarms = 0
    for sequence in sequences:
        state = DriftState()
        for run in sequence.runs:
            state = observe(state, run)
            if state.is_emerging:
                alarms += 1
                state = DriftState(runs=state.runs, failures=state.failures)
    return alarms / sum(len(sequence.runs) for sequence in sequences) * RUNS_PER_FALSE_ALARM


def measure_cost(report: Report) -> None:
    draw = random.Random(1)
    runs = [FAILED if draw.random() < BEFORE else 0 for _ in range(100_000)]
    state = DriftState()
    begun = time.process_time()
    for run in runs:
        state = observe(state, run)
    report.add("emerging: CPU of a run", (time.process_time() - begun) / len(runs) * 1e6, "µs", at_most=5)


def run(report: Report, data: Path) -> None:
    threshold = tune(BEFORE, AFTER)
    known_delays = measure_delays(lambda: KnownRates(BEFORE, AFTER, threshold), BEFORE, AFTER)
    report.add("emerging: threshold of the CUSUM", threshold)
    known = percentile(known_delays, 90)
    report.add("emerging: delay of the CUSUM, p50", percentile(known_delays, 50), "runs")
    report.add("emerging: delay of the CUSUM, p90", known, "runs")
    delays = measure_delays(Observed, BEFORE, AFTER)
    report.add("emerging: delay, p50", percentile(delays, 50), "runs")
    report.add("emerging: delay, p90", percentile(delays, 90), "runs")
    report.add("emerging: delay, p90, in those of the CUSUM", percentile(delays, 90) / known, at_most=1.2)
    together = 1 - (1 - SHARED) ** CLUSTER
    delays = measure_delays(Observed, BEFORE / SHARED * together, AFTER / SHARED * together)
    report.add("emerging: delay of a cluster, p90, in those of the CUSUM", percentile(delays, 90) / known, at_most=1)
    for rate in STABLE_RATES:
        alarms = count_false_alarms(Observed, rate)
        report.add(f"emerging: false alarms at {rate:.1%}", alarms, "per 10,000 runs", at_most=1)
        alarms = count_false_alarms(Observed, rate, young=True)
        report.add(f"emerging: false alarms at {rate:.1%}, first 1,000 runs", alarms, "per 10,000 runs", at_most=1)
    report.add("emerging: alarms in real runs at a steady rate", count_real_alarms(data), "per 10,000 runs")
    report.add("emerging: false alarms by regressions", measure_regressions(), "per 100")
    for before, after in OTHER_CHANGES:
        best = tune(before, after)
        known = percentile(measure_delays(lambda: KnownRates(before, after, best), before, after), 90)  # noqa: B023
        delay = percentile(measure_delays(Observed, before, after), 90)
        report.add(f"emerging: delay from {before:.1%} to {after:.0%}, p90", delay, f"runs; CUSUM {known:.0f}")
    measure_cost(report)
