from typing import Any

import pytest

from .world import World, build_world


@pytest.fixture(scope="session")
def world(server: Any) -> World:
    return build_world(server)


@pytest.fixture(scope="session")
def described(server: Any) -> dict[str, Any]:
    """The server's own description."""
    schema: dict[str, Any] = server.client().get("/api/v3/openapi.json").json()
    return schema
