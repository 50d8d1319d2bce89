"""Made-up histories against real processes, for longer: `python -m bench.long.lifecycle --seconds 600 --seed 1`.

Starts its own server and plays histories of users, builds and build machines (tests/e2e/lifecycle.py), again and again
with another seed, until the time is over. What breaks a rule is a failure, told with the steps that led there. Writes
results/lifecycle.json and exits with 1 if anything failed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.e2e.lifecycle import Company, play
from tests.e2e.steps import Step, histories
from tests.support.server import running_server

from testhide.engines import temporary_engines
from testhide.preparation import create_first_admin

MAX_FAILURES = 10
EXAMPLES = 10
"""Of each seed."""


def run(seconds: float, first_seed: int, steps: int) -> dict[str, Any]:
    failures: list[dict[str, Any]] = []
    rounds = played = 0
    with (
        tempfile.TemporaryDirectory(prefix="testhide-lifecycle-") as data,
        temporary_engines() as engines,
        running_server(engines, Path(data), "serve", "project", "dispatch") as server,
        ThreadPoolExecutor(64) as threads,
    ):
        asyncio.run(create_first_admin(server.settings))
        server.settle()
        company = Company.of(server, threads)
        until = time.monotonic() + seconds

        def one(steps: list[Step]) -> None:
            nonlocal played
            if time.monotonic() < until:
                play(company, steps)
                played += 1

        while time.monotonic() < until and len(failures) < MAX_FAILURES:
            number, rounds = first_seed + rounds, rounds + 1
            limits = settings(
                max_examples=EXAMPLES,
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
                seed(number)(limits(given(steps=histories(steps))(one)))()
            except Exception as error:  # whatever it is: it was found
                said = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
                print(said, file=sys.stderr)
                failures.append({"seed": number, "fault": said[:8_000]})
                # What it left behind must not matter to the next.
                company = Company.of(server, threads)
    return {
        "seed": first_seed,
        "seconds": seconds,
        "steps": steps,
        "rounds": rounds,
        "histories": played,
        "seen": dict(sorted(company.seen.items())),
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Play made-up histories against a server.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="of each history")
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    result = run(options.seconds, options.seed, options.steps)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "lifecycle.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if result["failures"] or not result["histories"] else 0


if __name__ == "__main__":
    sys.exit(main())
