"""The server against its own description, for longer: `python -m bench.long.schemathesis --seconds 600 --seed 1`.

Starts its own server and goes through all described operations, again and again with another seed, until the time is
over. An answer of 5xx, one of a status, media type or form that is not described, or none in time is a failure. Writes
results/schemathesis.json and exits with 1 if anything failed. Everything follows from the seed and the ids that the
server gives out; a failure tells the request as a curl line.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.contract.fuzzing import OUTGOING, PROCESSES, a_small_world, fuzz
from tests.support.server import ADMIN, running_server

from testhide.engines import temporary_engines
from testhide.preparation import create_first_admin

MAX_FAILURES = 50


def run(seconds: float, seed: int, examples: int) -> dict[str, Any]:
    failures: list[dict[str, Any]] = []
    answers: dict[str, Counter[int]] = {}
    rounds = 0
    with (
        tempfile.TemporaryDirectory(prefix="testhide-schemathesis-") as data,
        temporary_engines() as engines,
        running_server(engines, Path(data), *PROCESSES, outgoing_allow=OUTGOING) as server,
    ):
        asyncio.run(create_first_admin(server.settings))
        server.settle()
        until = time.monotonic() + seconds
        while time.monotonic() < until and len(failures) < MAX_FAILURES:
            rounds += 1
            # Anew, since the round before ended by deleting what it found.
            fuzzed = a_small_world(server.client(*ADMIN), f"round {rounds}")
            for operation in fuzzed.operations():
                if time.monotonic() >= until:
                    break
                counted = answers.setdefault(operation.label, Counter())
                try:
                    counted.update(fuzz(fuzzed, operation, examples, seed + rounds))
                except Exception as error:  # whatever it is: it was found
                    said = "".join(_told(error))
                    print(f"{operation.label}: {said}", file=sys.stderr)
                    failures.append({"operation": operation.label, "seed": seed + rounds, "fault": said[:4_000]})
    return {
        "seed": seed,
        "seconds": seconds,
        "examples": examples,
        "rounds": rounds,
        "requests": sum(counted.total() for counted in answers.values()),
        "answers": {label: dict(sorted(counted.items())) for label, counted in sorted(answers.items())},
        "failures": failures,
    }


def _told(error: BaseException) -> list[str]:
    """What it says, and what those say that it is made of."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [f"{type(error).__name__}: {error}\n", *(line for one in inner for line in _told(one))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Try the server against its own description.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=100, help="requests of each operation in a round")
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    result = run(options.seconds, options.seed, options.examples)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "schemathesis.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "answers"}))
    return 1 if result["failures"] or not result["requests"] else 0


if __name__ == "__main__":
    sys.exit(main())
