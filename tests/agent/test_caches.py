"""Caches of builds: restored before setup, saved after a build that passed, and never across scopes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from tests.agent.fake_server import FakeServer, ReceivedBuild
from tests.agent.harness import Agent, StartAgent

from agent.cache_store import CacheStore

MAKE = "mkdir -p ~/.cache/pip deps && echo $TESTHIDE_BUILD_ID | tee deps/a > ~/.cache/pip/b"
SHOW = "cat deps/a ~/.cache/pip/b 2> /dev/null; ls -d deps/link 2> /dev/null"
CACHE = {"key": "deps", "paths": ["deps", "~/.cache/pip"]}


def _run(server: FakeServer, command: str, key: str = "deps", scope: str = "3-admins", **other: Any) -> ReceivedBuild:
    build = server.queue(command, caches=[{**CACHE, "key": key}], cache_scope=scope, **other)
    server.wait_finished(build)
    return build


@pytest.mark.usefixtures("agent")
def test_a_later_build_has_what_a_build_that_passed_has_left(server: FakeServer) -> None:
    failed = _run(server, f"{MAKE}; exit 1")
    assert not any("saved" in line for line in failed.lines)
    saved = _run(server, f"{MAKE}; ln -s /etc/passwd deps/link")
    assert any("Cache deps: saved" in line for line in saved.lines), saved.lines

    later = _run(server, "true", setup=[SHOW])

    assert later.printed == ["2", "2", "deps/link"]
    assert later.lines.index("==> Setup: " + SHOW) > next(
        number for number, line in enumerate(later.lines) if "Cache deps: restored" in line
    )
    assert not any("saved" in line for line in later.lines)
    assert _run(server, f"{SHOW}; true", scope="3-members").printed == []
    assert _run(server, f"{SHOW}; true", scope="4-admins").printed == []


@pytest.mark.usefixtures("agent")
def test_the_key_has_checksums_of_files(server: FakeServer) -> None:
    key = 'deps-{{ checksum "deps.lock" }}'
    build = _run(server, "echo > deps.lock", key=key)

    assert any("is not used: deps.lock: No such file" in line for line in build.lines)
    assert (build.finished or {})["exit_code"] == 0


def test_a_damaged_cache_is_left_out(server: FakeServer, agent: Agent) -> None:
    _run(server, MAKE)
    (archive,) = (agent.workdir / "caches").glob("*/*.tar")
    archive.write_bytes(archive.read_bytes()[:-700])

    build = _run(server, f"{SHOW}; {MAKE}")

    assert build.printed == []
    assert (build.finished or {})["exit_code"] == 0
    assert any("Cache deps: saved" in line for line in build.lines), "it is made anew"


def test_a_cache_beyond_the_limit_is_not_saved(server: FakeServer, start: StartAgent) -> None:
    start("--cache-limit-gb", "0.0001")
    build = _run(server, "mkdir deps && head -c 400000 /dev/zero > deps/a")

    assert (build.finished or {})["exit_code"] == 0
    assert any("not saved" in line for line in build.lines)


def test_other_builds_cannot_read_caches(server: FakeServer, agent: Agent) -> None:
    _run(server, MAKE)
    (archive,) = (agent.workdir / "caches").glob("*/*.tar")
    assert archive.stat().st_mode & 0o077 == 0
    assert (agent.workdir / "caches").stat().st_mode & 0o077 == 0


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = CacheStore(tmp_path / "caches", limit_bytes=2500)
    store.prepare()
    for number in range(2):
        store.save("1-admins", f"key {number}", io.BytesIO(bytes([number]) * 1000))
    assert store.copy_to("1-admins", "key 0", tmp_path / "used")
    store.save("2-admins", "key 2", io.BytesIO(b"c" * 1000))

    assert store.copy_to("1-admins", "key 0", tmp_path / "0")
    assert not store.copy_to("1-admins", "key 1", tmp_path / "1")
    assert store.copy_to("2-admins", "key 2", tmp_path / "2")
    assert (tmp_path / "0").read_bytes() == bytes(1000)


def test_what_a_killed_agent_was_saving_is_removed(tmp_path: Path) -> None:
    scope = tmp_path / "1-admins"
    scope.mkdir()
    (scope / "unfinished-x").write_text("half")
    CacheStore(tmp_path, 1000).prepare()

    assert list(scope.iterdir()) == []


@pytest.mark.parametrize("scope", ["", "..", "a/b", "../1-admins"])
def test_a_scope_is_one_folder(tmp_path: Path, scope: str) -> None:
    with pytest.raises(ValueError, match="no scope"):
        CacheStore(tmp_path, 1000).save(scope, "key", io.BytesIO(b""))
