"""Measures how evenly tests are divided into four shards by their known durations, beside divisions by number.

Each cycle of continuous integration is divided by the durations of the cycles before, in order. The length of a shard
is that of its durations in the cycle itself. A cycle counts if it has enough tests and most of them have run at least
twice. No shard can be shorter than the longest test, so the best possible length is a quarter or the longest test.
"""

import csv
import gzip
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.support.report import Report, percentile
from domain.splitting import estimate_durations, split
from projections.splitting import MAX_BUILDS

CYCLES = "ci-cycles.csv.gz"
SHARDS = 4
MIN_TESTS = 40
MIN_RUNS = 2
"""Number of runs after which a test's duration counts as known."""
MIN_KNOWN = 0.9


def read_cycles(path: Path) -> list[dict[str, float]]:
    """Returns the durations of each cycle's tests, the oldest cycle first."""
    cycles: dict[int, dict[str, float]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter=";"):
            cycles.setdefault(int(row["Cycle"]), {})[row["Name"]] = float(row["Duration"])
    return [cycles[number] for number in sorted(cycles)]


def measure_excess(shards: Iterable[Iterable[str]], durations: Mapping[str, float]) -> float:
    """Returns by which share the longest shard is longer than the best possible length."""
    best = max(sum(durations.values()) / SHARDS, *durations.values())
    return max(sum(durations[name] for name in shard) for shard in shards) / best - 1


def run(report: Report, data: Path) -> None:
    history: dict[str, list[float]] = {}
    by_duration: list[float] = []
    by_number: list[float] = []
    moved: list[float] = []
    before: dict[str, int] = {}
    for cycle in read_cycles(data / CYCLES):
        known = {name: statistics.median(runs[-MAX_BUILDS:]) for name, runs in history.items() if len(runs) >= MIN_RUNS}
        if len(cycle) >= MIN_TESTS and sum(name in known for name in cycle) >= MIN_KNOWN * len(cycle):
            shards = split(estimate_durations(cycle, known), SHARDS)
            by_duration.append(measure_excess(shards, cycle))
            by_number.append(measure_excess([list(cycle)[shard::SHARDS] for shard in range(SHARDS)], cycle))
            after = {name: number for number, shard in enumerate(shards) for name in shard}
            if both := after.keys() & before.keys():
                moved.append(sum(after[name] != before[name] for name in both) / len(both))
            before = after
        for name, duration in cycle.items():
            history.setdefault(name, []).append(duration)
    report.add("splitting, cycles", len(by_duration))
    for label, found in (("by durations", by_duration), ("by number", by_number)):
        report.add(f"longest of {SHARDS} shards above the best, {label}: median", 100 * statistics.median(found), "%")
    report.add("the same, by durations: 90th percentile", 100 * percentile(by_duration, 90), "%", at_most=10)
    report.add("the same, by number: 90th percentile", 100 * percentile(by_number, 90), "%")
    report.add("tests that move to another shard from one cycle to the next", 100 * statistics.mean(moved), "%")
