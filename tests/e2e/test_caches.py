"""Caches of builds that one agent saves and another one restores, by way of the server."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import Shop
from tests.support.server import Server

MAKE = "cat deps/a || { mkdir deps && echo $TESTHIDE_BUILD_ID > deps/a; }"


@pytest.fixture
def shop(server: Server) -> Shop:
    shop = Shop(server)
    configuration: dict[str, Any] = {"command": MAKE, "setup": [], "env": {}, "artifacts": []}
    caches = [{"key": "deps", "paths": ["deps"]}]
    shop.admin.when("PUT", f"/jobs/{shop.job}/configuration", json=configuration | {"caches": caches}).then(200)
    return shop


@contextlib.contextmanager
def running_agent(shop: Shop, folder: Path) -> Iterator[None]:
    """An agent on a new machine of the shop's pool."""
    folder.mkdir()
    token = folder / "token"
    token.write_text(shop.new_token())
    token.chmod(0o600)
    options = ["--server", shop.server.url, "--token-file", str(token), "--workdir", str(folder / "work")]
    with (folder / "stderr").open("w") as errors:
        command = [sys.executable, "-m", "agent", *options, "--trust-builds"]
        process = subprocess.Popen(command, stderr=errors, cwd=folder)
    try:
        yield
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (folder / "stderr").read_text()


def run_build(shop: Shop) -> tuple[int, list[str]]:
    """The id of a build that passed, and its log."""
    build = shop.start()
    assert shop.ended(build)["status"] == "passed"
    page = shop.admin.get(f"/api/v3/builds/{build}/pipeline_logs", params={"limit": 1_000}).json()
    return build, page["lines"]


def says(lines: list[str], text: str) -> bool:
    return any(text in line for line in lines)


def test_a_new_agent_has_the_caches_of_others(shop: Shop, tmp_path: Path) -> None:
    with running_agent(shop, tmp_path / "first"):
        first, saved = run_build(shop)
    assert says(saved, "Cache deps: not on this agent yet, nor on the server"), saved
    assert says(saved, "and sent to the server in"), saved

    with running_agent(shop, tmp_path / "second"):
        _, restored = run_build(shop)
    assert says(restored, "Cache deps: restored from the server, "), restored
    assert says(restored, f"] {first}"), restored

    (blob,) = Path(shop.server.settings.data_dir, "blobs", "caches", str(shop.job)).iterdir()
    content = bytearray(blob.read_bytes())
    content[0] ^= 1
    blob.write_bytes(content)

    with running_agent(shop, tmp_path / "third"):
        third, anew = run_build(shop)
    assert says(anew, "not from the server: it is damaged"), anew
    assert says(anew, "and sent to the server in"), anew
    with running_agent(shop, tmp_path / "fourth"):
        assert says(run_build(shop)[1], f"] {third}")
