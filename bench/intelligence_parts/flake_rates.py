"""Measures how often the interval of a flake rate contains the rate, for tests that fail at random on good code.

The rates are drawn from LOWEST to HIGHEST, those of each magnitude equally often, not from the distribution that the
assessment expects. Only histories with failures count: nobody reads the rate of a test that has not failed.
"""

import math
import random
from pathlib import Path

from bench.support.report import Report
from domain.test_health import FAILED, assess

LOWEST, HIGHEST = 0.005, 0.5
SIZES = (20, 50, 200)
"""Numbers of runs of a history."""
HISTORIES = 1_500


def run(report: Report, _: Path) -> None:
    for size in SIZES:
        draw = random.Random(size)
        inside = histories = 0
        for _number in range(HISTORIES):
            rate = math.exp(draw.uniform(math.log(LOWEST), math.log(HIGHEST)))
            runs = bytes(FAILED if draw.random() < rate else 0 for _ in range(size))
            if any(runs):
                found = assess(runs)
                histories += 1
                inside += found.flake_rate_low <= rate <= found.flake_rate_high
        name = f"flake rates, {size} runs: share of intervals that contain the rate"
        report.add(name, inside / histories, at_least=0.9)
