"""Every operation is refused to whom the contract says, and to nobody else. All cells: `./dev long permissions`."""

import asyncio

from litestar.routes import HTTPRoute

from tests.support.server import Server

from .matrix import Matrix, open_matrix
from .mutants import MutantSearch, mutants
from .rules import TYPICAL_CALLERS
from .table import OPERATIONS, UNDECLARED


def served_routes(matrix: Matrix) -> set[str]:
    return {
        f"{method} {route.path_format.removeprefix('/api/v3')}"
        for route in matrix.app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS", "HEAD"}
    }


def test_who_may(server: Server) -> None:
    async def run() -> None:
        async with open_matrix(server) as matrix:
            assert served_routes(matrix) == {operation.route for operation in OPERATIONS} | set(UNDECLARED)
            found = [
                sentence
                for operation in OPERATIONS
                async for _, sentence in matrix.differences(operation, TYPICAL_CALLERS)
            ]
            assert not found, "\n".join(found)
            sample, search = list(mutants(matrix))[::40], MutantSearch(matrix)
            assert [mutant.name for mutant in sample if not await search.is_noticed(mutant)] == []

    asyncio.run(run())
