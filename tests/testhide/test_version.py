"""`/healthz` names the version and the build that a server comes from."""

import dataclasses
import subprocess
from pathlib import Path

import msgspec
import pytest
import requests

from testhide.settings import from_environment
from testhide.version import CHECKOUT, VERSION, find_build
from tests.support.in_process_server import serve_in_process
from tests.support.server import Server

COMMIT = subprocess.run(
    ["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
).stdout.strip()


def health(url: str) -> dict[str, str]:
    return dict(requests.get(f"{url}/api/v3/healthz", timeout=5).json())


@pytest.mark.skipif(not COMMIT, reason="this is no git checkout")
def test_a_server_in_a_checkout_names_its_commit(server: Server) -> None:
    shown = health(server.url)
    assert shown["version"] == VERSION
    assert len(shown["build"]) == 12
    assert COMMIT.startswith(shown["build"])


def test_a_server_with_a_named_build_shows_it(server: Server) -> None:
    named = dataclasses.replace(server, settings=msgspec.structs.replace(server.settings, build="release-7"))
    with serve_in_process(named) as inside:
        assert health(inside.url)["build"] == "release-7"


def test_the_environment_names_the_build() -> None:
    environ = {"TESTHIDE_DATABASE_URL": "-", "TESTHIDE_REDIS_URL": "-", "TESTHIDE_SECRET_KEY": "00" * 32}
    assert from_environment({**environ, "TESTHIDE_BUILD": "c0ffee"}).build == "c0ffee"
    assert from_environment({**environ, "TESTHIDE_BUILD": ""}).build == ""


def test_outside_of_a_checkout_the_version_is_the_build(tmp_path: Path) -> None:
    assert find_build(tmp_path) == VERSION
    (tmp_path / ".git").touch()
    assert find_build(tmp_path) == VERSION, "git cannot read this one"
