"""Fuzzes the API by its OpenAPI description: `./dev long schemathesis --seconds 600 --seed 1`.

Starts a server. In the first round, calls all described operations a few times as an admin. Then calls them in further
rounds, each with a new seed, until the time since the first round is over. The callers of these rounds are, in turn: a
developer of a project, a viewer of the project, a developer without a project, a caller without credentials, and an
admin.

Failures are: a status of 5xx; a status, media type or body that is not described; a request that fits the description
and is refused, unless by a rule that `tests/contract/schema_limits.py` lists; no answer in time; a name from a project
of which the caller is no member; an operation that ends the admin's session; a first round in which too few operations
succeed. Prints a failed request as a curl command. The seed and the ids that the server assigns determine
the requests. Writes results/schemathesis.json and exits with 1 if anything failed.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.contract.fuzzing import ENDLESS, OUTGOING, PROCESSES, ROLES, Fuzzed, Role, a_small_world, fuzz
from tests.contract.test_served import own_operations
from tests.support.engines import temporary_engines
from tests.support.server import server_on_new_database

from bench.support.report import write_result

MAX_FAILURES = 50
FIRST_EXAMPLES = 7
"""Number of requests to each operation in the first round. An operation that refused all of them gets as many again."""
EXAMPLES = 25
"""Number of requests to each operation in a further round. So few that 20 minutes are enough for all callers."""
MIN_REACHED = 2 / 3
"""Least share of the operations that must succeed in the first round, so that the run does not only test refusals."""


def run(seconds: float, seed: int, examples: int) -> dict[str, Any]:
    failures: list[dict[str, Any]] = []
    answers: dict[Role, dict[str, Counter[int]]] = {}
    rounds = 0
    with (
        tempfile.TemporaryDirectory(prefix="testhide-schemathesis-") as data,
        temporary_engines() as engines,
        server_on_new_database(engines, Path(data), *PROCESSES, outgoing_allow=OUTGOING) as server,
    ):
        until = math.inf
        while time.monotonic() < until and len(failures) < MAX_FAILURES:
            rounds += 1
            is_first = rounds == 1
            # The round before has deleted its project, users and builds.
            fuzzed = a_small_world(server.make_user("admin"), f"round {rounds}")
            fuzzed.add_users(server)
            role = ROLES[(rounds - 1) % len(ROLES)]
            for operation in fuzzed.operations():
                if time.monotonic() >= until:
                    break
                counted = answers.setdefault(role, {}).setdefault(operation.label, Counter())
                count = FIRST_EXAMPLES if is_first else examples
                try:
                    counted.update(fuzz(fuzzed, operation, count, seed + rounds, role))
                    if is_first and not _succeeded(counted):
                        counted.update(fuzz(fuzzed, operation, count, seed, role))
                    fuzzed.session.get("/api/v3/me").then(200)  # the operation has not ended the session
                except (Exception, BaseExceptionGroup) as error:  # any exception is a failure to report
                    text = "\n".join(_format_error(error))
                    print(f"{operation.label} as {role}: {text}", file=sys.stderr)
                    failure = {"operation": operation.label, "role": role, "seed": seed + rounds, "fault": text[:4_000]}
                    failures.append(failure)
            if is_first:
                failures += [{"fault": fault} for fault in _find_gaps(fuzzed, answers[role])]
                until = time.monotonic() + seconds
    return {
        "seed": seed,
        "seconds": seconds,
        "examples": examples,
        "rounds": rounds,
        "requests": {role: sum(counted.total() for counted in each.values()) for role, each in answers.items()},
        "answers": {
            role: {label: dict(sorted(counted.items())) for label, counted in sorted(each.items())}
            for role, each in answers.items()
        },
        "failures": failures,
    }


def _succeeded(counted: Counter[int]) -> bool:
    return any(status < 300 for status in counted)


def _find_gaps(fuzzed: Fuzzed, answers: dict[str, Counter[int]]) -> Iterator[str]:
    described = fuzzed.session.get("/api/v3/openapi.json").json()
    if gaps := {f"{method} {path}" for method, path in own_operations(described)} ^ (answers.keys() | ENDLESS.keys()):
        yield f"these operations were not asked, or are not described: {sorted(gaps)}"
    refused = [label for label, counted in answers.items() if not _succeeded(counted)]
    if len(refused) > len(answers) * (1 - MIN_REACHED):
        yield f"too many operations only refused their requests: {refused}"


def _format_error(error: BaseException) -> list[str]:
    """Returns the text of an error, followed by the texts of the errors in it if it is a group."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [f"{type(error).__name__}: {error}", *(text for one in inner for text in _format_error(one))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the API by its OpenAPI description.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="requests to each operation in a round")
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    result = run(options.seconds, options.seed, options.examples)
    write_result(options.results, "schemathesis", result)
    print(json.dumps({name: value for name, value in result.items() if name != "answers"}))
    return 1 if result["failures"] or not result["requests"] else 0


if __name__ == "__main__":
    sys.exit(main())
