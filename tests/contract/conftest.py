from typing import Any

import pytest

from tests.support.server import Server

from .sample import Sample
from .world import World, build_world


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-values", action="store_true", help="send each operation all wrong values, not a sample")


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(request.node.name, bool(request.config.getoption("--all-values", default=False)))


@pytest.fixture(scope="session")
def world(server: Server) -> World:
    return build_world(server)


@pytest.fixture(scope="session")
def described(server: Server) -> dict[str, Any]:
    """The server's own description."""
    schema: dict[str, Any] = server.client().get("/api/v3/openapi.json").json()
    return schema
