"""Who may do what: every operation as every kind of caller, and whether that notices guards that are missing.

`./dev long permissions`. Sends each operation of `tests/permissions/table.py` as each caller (role, membership,
credential) and compares who is refused with the rules. Then removes or weakens one guard at a time in the running
application and sends the operations that it guards, until one is answered otherwise than the rules say; a mutant that
nobody notices is a failure. `--no-mutants` leaves these out. Writes results/permissions.json and exits with 1 if
anything failed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.permissions.matrix import Matrix, open_matrix
from tests.permissions.mutants import is_noticed, mutants
from tests.permissions.rules import ALL_CALLERS
from tests.permissions.table import OPERATIONS
from tests.support.engines import temporary_engines
from tests.support.server import Server, server_on_new_database

from bench.support.report import write_result


async def check_all(matrix: Matrix) -> dict[str, Any]:
    started, cells, differences = time.monotonic(), Counter[int](), []
    for operation in OPERATIONS:
        cells.update(operation.rule(caller) for caller in ALL_CALLERS)
        differences += [difference async for difference in matrix.differences(operation, ALL_CALLERS)]
    print(f"{cells.total()} cells in {time.monotonic() - started:.0f} s, {cells[0]} of them allowed")
    return {"cells": cells.total(), "allowed": cells[0], "differences": differences}


async def run(server: Server, *, with_mutants: bool) -> dict[str, Any]:
    async with open_matrix(server) as matrix:
        result = await check_all(matrix)
        if with_mutants:
            started, made = time.monotonic(), list(mutants(matrix))
            survivors = [mutant.name for mutant in made if not await is_noticed(matrix, mutant)]
            print(f"{len(made)} mutants in {time.monotonic() - started:.0f} s, {len(survivors)} of them not noticed")
            result |= {"mutants": len(made), "survivors": survivors}
        return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev long permissions", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--no-mutants", action="store_true", help="only compare the server with the rules")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the JSON file")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        temporary_engines() as engines,
        server_on_new_database(engines, Path(data), "serve", "project") as server,
    ):
        result = asyncio.run(run(server, with_mutants=not arguments.no_mutants))
    failures = [*result["differences"], *(f"not noticed: {name}" for name in result.get("survivors", ()))]
    print("\n".join(failures))
    write_result(arguments.results, "permissions", result)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
