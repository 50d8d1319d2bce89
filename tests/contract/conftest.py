from typing import Any

import pytest

from tests.support.server import Server

from .world import World, build_world


@pytest.fixture(scope="session")
def world(server: Server) -> World:
    return build_world(server)


@pytest.fixture(scope="session")
def described(server: Server) -> dict[str, Any]:
    """The server's own description."""
    schema: dict[str, Any] = server.client().get("/api/v3/openapi.json").json()
    return schema
