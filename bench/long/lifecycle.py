"""Plays generated histories against real processes: `./dev long lifecycle --seconds 600 --seed 1`.

Starts a server and plays histories of users, builds and agents (tests/e2e/lifecycle.py), with a new seed in each round,
until the time is over. A history that breaks a rule is a failure, and its steps are printed. It is also a failure if
too little happens in the histories altogether. Writes results/lifecycle.json and exits with 1 if anything failed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.e2e.lifecycle import Company, play
from tests.e2e.steps import Step, histories
from tests.support.engines import temporary_engines
from tests.support.server import server_on_new_database

from bench.support.report import write_result

MAX_FAILURES = 10
HISTORIES_PER_ROUND = 10
MIN_HISTORIES = 5
"""Least number of histories, which are played even if the time is too short: the first history that hypothesis makes is
the simplest one.
"""


def run(seconds: float, first_seed: int, steps: int) -> dict[str, Any]:
    failures: list[dict[str, Any]] = []
    rounds = played = 0
    with (
        tempfile.TemporaryDirectory(prefix="testhide-lifecycle-") as data,
        temporary_engines() as engines,
        server_on_new_database(engines, Path(data), "serve", "project", "dispatch") as server,
        ThreadPoolExecutor(64) as threads,
    ):
        company = Company.of(server, threads)
        until = time.monotonic() + seconds

        def play_one(steps: list[Step]) -> None:
            nonlocal played
            if time.monotonic() < until or played < MIN_HISTORIES:
                play(company, steps)
                played += 1

        while (time.monotonic() < until or played < MIN_HISTORIES) and len(failures) < MAX_FAILURES:
            number, rounds = first_seed + rounds, rounds + 1
            limits = settings(
                max_examples=HISTORIES_PER_ROUND,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=[
                    HealthCheck.too_slow,
                    HealthCheck.data_too_large,
                    HealthCheck.large_base_example,
                ],
            )
            try:
                seed(number)(limits(given(steps=histories(steps))(play_one)))()
            except Exception as error:  # any exception is a failure to report
                text = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
                print(text, file=sys.stderr)
                failures.append({"seed": number, "fault": text[:8_000]})
                # Starts anew, so that the next round does not depend on the state that the failed history left.
                company = Company.of(server, threads)
    if not failures and not _is_eventful(company.seen, played):
        failures.append({"seed": first_seed, "fault": f"the histories are too tame: {dict(company.seen)}"})
    return {
        "seed": first_seed,
        "seconds": seconds,
        "steps": steps,
        "rounds": rounds,
        "histories": played,
        "seen": dict(sorted(company.seen.items())),
        "failures": failures,
    }


def _is_eventful(seen: Counter[str], histories: int) -> bool:
    """Returns whether enough has happened in the histories to test their rules."""
    return seen["build.requeued"] > 0 and seen["build.finished"] > 3 * histories and seen["answers as of then"] > 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Play generated histories against a server.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="steps of each history")
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    result = run(options.seconds, options.seed, options.steps)
    write_result(options.results, "lifecycle", result)
    print(json.dumps(result))
    return 1 if result["failures"] or not result["histories"] else 0


if __name__ == "__main__":
    sys.exit(main())
