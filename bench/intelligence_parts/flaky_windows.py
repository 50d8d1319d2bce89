"""Windows of runs with known causes of their failures, for measuring who recognises flaky tests.

Flaky windows are cut from real runs, all on one commit, of tests that both failed and passed meanwhile. Windows of
stable tests have one regression each: failures in a row of 1 to MAX_REGRESSION builds, all lengths equally often,
which begin at any run of the window, all equally often, and may last beyond its end. Windows of stable tests without a
failure are not generated, since no rule takes them for flaky.
"""

import csv
import gzip
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from domain.test_health import FAILED

SEQUENCES = "flaky-sequences.csv.gz"
"""Name of the file with the runs."""
SIZES = (10, 20, 50, 200)
"""Numbers of runs of a window."""
WINDOWS = 80
"""Number of windows that are cut from the runs of each test, if there are so many runs."""
MAX_REGRESSION = 20


class Sequence(NamedTuple):
    test: str
    runs: bytes

    @property
    def is_flaky(self) -> bool:
        """Whether the test both failed and passed. A test that never did shows nothing that could be recognised."""
        return len(set(self.runs)) == 2

    @property
    def half(self) -> int:
        """0 for tests that thresholds are tuned on, 1 for tests that are reported."""
        return hashlib.sha256(self.test.encode()).digest()[0] % 2

    def cut(self, size: int) -> list[bytes]:
        starts = range(0, len(self.runs) - size + 1, size)[:WINDOWS]
        return [self.runs[start : start + size] for start in starts]


def read_sequences(path: Path) -> list[Sequence]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [
            Sequence(
                f"{row['project']} {row['test']}", bytes(0 if result == "P" else FAILED for result in row["results"])
            )
            for row in csv.DictReader(file)
        ]


def count_episodes(window: bytes) -> int:
    return sum(bool(failures) for failures in window.split(b"\0"))


@cache
def list_regressions(size: int) -> list[tuple[bytes, float]]:
    """Returns all windows with one regression, each with its share of them."""
    return list(_generate_regressions(size))


def _generate_regressions(size: int) -> Iterator[tuple[bytes, float]]:
    for length in range(1, MAX_REGRESSION + 1):
        for start in range(size):
            failures = min(length, size - start)
            window = bytes(start) + bytes([FAILED]) * failures + bytes(size - start - failures)
            yield window, 1 / MAX_REGRESSION / size
