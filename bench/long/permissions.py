"""Tests who may do what: sends every operation as every kind of caller, and tests that this finds missing guards.

`./dev long permissions`. Sends each operation of `tests/permissions/table.py` as each caller (role, membership,
credential) and compares who is refused with the rules. Then removes or weakens one guard at a time in the running
application (a mutant) and sends the operations that it guards, until one is answered otherwise than the rules say. A
mutant that no operation reveals is a failure. `--no-mutants` leaves the mutants out. Prints each failure at once.
Writes results/permissions.json and exits with 1 if anything failed.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.permissions.matrix import Matrix, open_matrix
from tests.permissions.mutants import MutantSearch, mutants
from tests.permissions.rules import ALL_CALLERS
from tests.permissions.table import OPERATIONS
from tests.support.engines import temporary_engines
from tests.support.server import Server, server_on_new_database

from bench.support.report import write_result

PRINT_INTERVAL_S = 10.0
"""Least seconds between two printed lines about the progress."""


class Progress:
    """Prints each failure at once. From time to time prints how far the work is, and how long the rest will take."""

    def __init__(self, work: str, total: int) -> None:
        self._work = work
        self._total = total
        self._began = self._printed = time.monotonic()
        self.failures: list[str] = []

    def fail(self, sentence: str) -> None:
        self.failures.append(sentence)
        print(sentence, flush=True)

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now - self._printed >= PRINT_INTERVAL_S:
            self._printed = now
            left = (now - self._began) / done * (self._total - done)
            print(f"{self._work}: {done} of {self._total}, about {left:.0f} s to go", flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


async def check_all(matrix: Matrix) -> dict[str, Any]:
    progress, cells = Progress("operations", len(OPERATIONS)), Counter[int]()
    for done, operation in enumerate(OPERATIONS, 1):
        cells.update(operation.rule(caller) for caller in ALL_CALLERS)
        async for difference in matrix.differences(operation, ALL_CALLERS):
            progress.fail(difference.sentence)
        progress.show(done)
    print(f"{cells.total()} cells in {progress.seconds:.0f} s, {cells[0]} of them allowed", flush=True)
    return {"cells": cells.total(), "allowed": cells[0], "differences": progress.failures}


async def check_mutants(matrix: Matrix, seed: int) -> dict[str, Any]:
    chance, made = random.Random(seed), list(mutants(matrix))
    chance.shuffle(made)  # so that the first ones are typical, and the estimate is good
    search = MutantSearch(matrix, chance.sample(ALL_CALLERS, len(ALL_CALLERS)))
    progress = Progress("mutants", len(made))
    for done, mutant in enumerate(made, 1):
        if not await search.is_noticed(mutant):
            progress.fail(f"not noticed: {mutant.name}")
        progress.show(done)
    survivors = progress.failures
    print(f"{len(made)} mutants in {progress.seconds:.0f} s, {len(survivors)} of them not noticed", flush=True)
    return {"mutants": len(made), "survivors": survivors, "seed": seed}


async def run(server: Server, seed: int, *, with_mutants: bool) -> dict[str, Any]:
    async with open_matrix(server) as matrix:
        result = await check_all(matrix)
        return result | await check_mutants(matrix, seed) if with_mutants else result


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev long permissions", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--no-mutants", action="store_true", help="only compare the server with the rules")
    parser.add_argument("--seed", type=int, default=1, help="order of the mutants and of the callers")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the JSON file")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        temporary_engines() as engines,
        server_on_new_database(engines, Path(data), "serve", "project") as server,
    ):
        result = asyncio.run(run(server, arguments.seed, with_mutants=not arguments.no_mutants))
    write_result(arguments.results, "permissions", result)
    return 1 if result["differences"] or result.get("survivors") else 0


if __name__ == "__main__":
    sys.exit(main())
