"""What an agent gets to check out the repository of its project's SCM endpoint."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from api.live.agent_polls import fetch_credentials
from domain.scm import ScmEndpoint
from integrations.source_ports import NewSource
from tests.integrations.test_source_hosts import private_key
from tests.support.builders import Shop
from tests.support.server import Server

TOKEN = "ghp_0123456789TOKEN"


def _connect(shop: Shop, **fields: Any) -> str:
    body = {"type": "github", "name": "Main", "repo": "acme/shop", "token": TOKEN, "project_id": shop.project}
    return f"/api/v3/scm/{shop.server.admin.post('/api/v3/scm', json=body | fields).then(201)['id']}"


def _run(shop: Shop, job: int) -> dict[str, Any]:
    agent = shop.new_agent()
    shop.start(job)
    return agent.run()


def test_a_job_without_a_repository_uses_that_of_its_project(server: Server) -> None:
    shop = Shop(server)
    _connect(shop)
    build = _run(shop, shop.new_job())
    assert build["repository"] == "https://github.com/acme/shop.git"
    assert build["repository_credentials"] == {"username": "x-access-token", "password": TOKEN}
    shown = server.admin.get(f"/api/v3/builds/{build['id']}").then(200)
    assert TOKEN not in str(shown)
    with psycopg.connect(server.settings.database_url) as database:
        assert TOKEN not in str(database.execute("SELECT * FROM stored_events").fetchall())


def test_only_its_own_repository_gets_the_token(server: Server) -> None:
    shop = Shop(server)
    _connect(shop)
    for repository, has_token in (
        ("https://github.com/acme/shop", True),
        ("https://github.com/acme/other.git", False),
        ("https://github.example.com/acme/shop.git", False),
    ):
        build = _run(shop, shop.new_job(repository=repository))
        assert build["repository"] == repository
        assert (build["repository_credentials"] is not None) == has_token


def test_without_an_endpoint_nothing_is_checked_out(server: Server) -> None:
    shop = Shop(server)
    build = _run(shop, shop.new_job())
    assert (build["repository"], build["repository_credentials"]) == (None, None)
    endpoint = _connect(shop)
    server.admin.delete(endpoint).then(204)
    build = _run(shop, shop.new_job())
    assert (build["repository"], build["repository_credentials"]) == (None, None)


def test_a_host_that_gives_no_token_does_not_keep_the_build(server: Server) -> None:
    """The app's key is real, and nobody takes it: the test server may not call this machine."""
    shop = Shop(server)
    _connect(shop, token=private_key(), app_id=7, installation_id=8, host="https://github.invalid")
    build = _run(shop, shop.new_job())
    assert build["repository"] == "https://github.invalid/acme/shop.git"
    assert build["repository_credentials"] is None


def test_a_repository_in_a_folder_needs_no_token(server: Server) -> None:
    shop = Shop(server)
    path = str(Path(server.settings.local_repositories, "shop.git"))
    _connect(shop, type="git", repo=path, token=None)
    build = _run(shop, shop.new_job())
    assert (build["repository"], build["repository_credentials"]) == (path, None)


@dataclass
class HostileSource:
    """A host whose answer is awaited for ever, or causes an error that nobody has thought of."""

    is_slow: bool

    def open(self, endpoint: ScmEndpoint) -> Any:
        return self

    async def check(self, endpoint: NewSource, *, is_admin: bool) -> None:
        pass

    async def clone_credentials(self) -> NoReturn:
        if self.is_slow:
            await asyncio.Event().wait()
        raise ZeroDivisionError


@pytest.mark.anyio
@pytest.mark.parametrize("is_slow", [True, False])
async def test_a_hostile_host_holds_up_no_other_builds(monkeypatch: pytest.MonkeyPatch, is_slow: bool) -> None:
    monkeypatch.setattr("api.live.agent_polls.CREDENTIALS_TIMEOUT_S", 0.05)
    endpoint = ScmEndpoint(5, 3, "github", "Main", "https://evil.example", "acme/shop", b"sealed")
    assert await asyncio.wait_for(fetch_credentials(HostileSource(is_slow), endpoint), 5) is None
