"""Measures how fast diagnoses, summaries and insights are over a history of 1,000,000 results: `./dev bench diagnosis`.

How good diagnoses are is measured by `testhide evals run --suite diagnosis`.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable

import psycopg

from bench.rebuild import NAMES, fill_log, paused_projector, run_projections, vacuum
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from projections.builds import BuildRow
from projections.results import BlockRow

EVENTS, RESULTS = 1_000_000, 1_000_000
REQUESTS = 200
WITHIN_MS = 300
"""Milliseconds in which 99 of 100 diagnoses are answered."""


def measure(name: str, ask: Callable[[], object], report: Report) -> None:
    seconds = []
    for _ in range(REQUESTS):
        begun = time.monotonic()
        ask()
        seconds.append(time.monotonic() - begun)
    report.add(f"{name}: p50", percentile(seconds, 50) * 1000, "ms")
    report.add(f"{name}: p99", percentile(seconds, 99) * 1000, "ms", at_most=WITHIN_MS)


def measure_speed(stack: Stack, report: Report) -> None:
    with psycopg.connect(stack.settings.database_url) as connection:
        failed = [build for (build,) in connection.execute(f"SELECT id FROM {BuildRow.table} WHERE status = 'failed'")]
        projects = [project for (project,) in connection.execute(f"SELECT DISTINCT project_id FROM {BuildRow.table}")]
        ((results,),) = connection.execute(f"SELECT sum(results) FROM {BlockRow.table}").fetchall()
    report.add("results", int(results), "results")
    report.add("failed builds", len(failed), "builds")
    rng = random.Random(1)
    measure("diagnosis", lambda: stack.call("POST", "/api/v3/ai/diagnose", {"build_id": rng.choice(failed)}), report)
    measure("summary", lambda: stack.call("GET", f"/api/v3/ai/summary/{rng.choice(failed)}"), report)
    measure("insights", lambda: stack.call("GET", f"/api/v3/ai/insights?project_id={rng.choice(projects)}"), report)


def main() -> int:
    parser = argparse.ArgumentParser(description="Diagnose builds of a long history.")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--results", type=int, default=RESULTS)
    options = parser.parse_args()
    report = Report("diagnosis")
    with running_stack(agent=False) as stack:
        with paused_projector(stack):
            fill_log(stack, options.events, options.results, report)
            run_projections(stack, "rebuild", *NAMES, "--switch")
        run_projections(stack, "drop", *NAMES)
        vacuum(stack)
        measure_speed(stack, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
