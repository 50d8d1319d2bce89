"""Caches of builds: restored before setup, saved after a build that passed, and never across scopes."""

from __future__ import annotations

import hashlib
import io
import tarfile
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


MAIN, FEATURE, OTHER = "3-members-main", "3-members-feature", "3-members-other"


@pytest.mark.usefixtures("agent")
def test_a_branch_has_the_caches_of_the_default_branch_until_it_saves_its_own(server: FakeServer) -> None:
    _run(server, MAKE, scope=MAIN)

    first = _run(server, f"{SHOW}; true", scope=FEATURE, fallback_cache_scope=MAIN)
    assert first.printed == ["1", "1"]
    assert any("Cache deps: restored from this agent (default branch), " in line for line in first.lines), first.lines
    assert not any("saved" in line for line in first.lines)

    _run(server, MAKE, scope=FEATURE)  # as a branch that was there before the default branch had this cache
    assert _run(server, f"{SHOW}; true", scope=FEATURE, fallback_cache_scope=MAIN).printed == ["3", "3"]


@pytest.mark.usefixtures("agent")
def test_no_branch_has_the_caches_of_another_one(server: FakeServer) -> None:
    _run(server, MAKE, scope=FEATURE, fallback_cache_scope=MAIN)

    assert _run(server, f"{SHOW}; true", scope=OTHER, fallback_cache_scope=MAIN).printed == []
    assert _run(server, f"{SHOW}; true", scope=MAIN).printed == []
    assert _run(server, f"{SHOW}; true", scope=MAIN, fallback_cache_scope=None).printed == []


def test_what_the_server_has_of_the_default_branch_stays_that_branchs(server: FakeServer, agent: Agent) -> None:
    _run(server, MAKE, scope=MAIN, shared_cache_bytes=10**6)
    _forget_caches(agent)
    server.caches, server.fallback_caches = {}, server.caches

    for source in ("the server", "this agent"):
        feature = _run(server, f"{SHOW}; true", scope=FEATURE, fallback_cache_scope=MAIN, shared_cache_bytes=10**6)
        assert feature.printed == ["1", "1"]
        assert any(f"Cache deps: restored from {source} (default branch), " in line for line in feature.lines)
    assert server.caches == {}

    assert _run(server, f"{SHOW}; true", scope=FEATURE).printed == []
    assert _run(server, f"{SHOW}; true", scope=MAIN).printed == ["1", "1"]


# Changes what `tar` writes, as soon as there is a file for it.
FORGE = """
import io, os, tarfile, time
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
    for name in ("workspace/Makefile", "home/.profile", "workspace/deps/a"):
        member = tarfile.TarInfo(name)
        member.size = 5
        tar.addfile(member, io.BytesIO(b"EVIL\\n"))
path = os.path.join(os.path.dirname(os.getcwd()), "saved-cache-0.tar")
open("ready", "w").close()
while True:
    try:
        file = os.open(path, os.O_WRONLY)
        break
    except OSError:
        pass
while True:
    os.pwrite(file, archive.getvalue(), 0)
"""


@pytest.mark.usefixtures("agent")
def test_no_process_of_a_build_writes_the_archive(server: FakeServer) -> None:
    forge = f"cat > forge.py <<'END'\n{FORGE}\nEND\nsetsid python3 forge.py > /dev/null 2>&1 &\n"
    saved = _run(server, f"{MAKE}\n{forge} while [ ! -e ready ]; do sleep 0.01; done")
    assert any("Cache deps: saved" in line for line in saved.lines), saved.lines

    later = _run(server, f"{SHOW}; cat Makefile ~/.profile 2> /dev/null; true")

    assert later.printed == ["1", "1"]


@pytest.mark.usefixtures("agent")
def test_variables_of_the_job_change_no_archive(server: FakeServer) -> None:
    env = {"TAR_OPTIONS": "--transform=s/deps/source/"}
    _run(server, MAKE, env=env)

    assert _run(server, f"{SHOW}; true", env=env).printed == ["1", "1"]


def test_only_the_paths_of_a_cache_are_unpacked(server: FakeServer, agent: Agent) -> None:
    _run(server, MAKE)
    (archive,) = (agent.workdir / "caches").glob("*/*.tar")
    content = _pack("workspace/Makefile")
    name = archive.name.partition("-")[0]
    archive.rename(archive.with_name(f"{name}-{hashlib.sha256(content).hexdigest()}.tar")).write_bytes(content)

    build = _run(server, f"ls; {MAKE}")

    assert build.printed == []
    why = "'workspace/Makefile' is none of its paths"
    assert f"==> Cache deps: the one on this agent is not used: {why}" in build.lines
    assert _run(server, f"{SHOW}; true").printed == ["2", "2"], "it is made anew"


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


def _forget_caches(agent: Agent) -> None:
    """Leave the agent as one that has run no build yet."""
    for archive in (agent.workdir / "caches").glob("*/*.tar"):
        archive.unlink()


def test_a_cache_that_an_agent_lacks_comes_from_the_server(server: FakeServer, agent: Agent) -> None:
    saved = _run(server, MAKE, shared_cache_bytes=10**6)
    assert any("Cache deps: not on this agent yet, nor on the server" in line for line in saved.lines), saved.lines
    assert any("Cache deps: saved" in line and "and sent to the server in" in line for line in saved.lines)
    _forget_caches(agent)

    for source in ("the server", "this agent"):
        later = _run(server, f"{SHOW}; true", shared_cache_bytes=10**6)
        assert later.printed == ["1", "1"]
        assert any(f"Cache deps: restored from {source}, " in line for line in later.lines), later.lines
        assert not any("saved" in line for line in later.lines)


def _pack(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no archive", "it is damaged (truncated header)"),
        (_pack("workspace/deps/a")[:600], "it ends too early"),
        (_pack("workspace/.bashrc"), "'workspace/.bashrc' is none of its paths"),
        (bytes(300_000), "it has more than 200,000 bytes"),
    ],
)
def test_a_cache_of_the_server_that_is_not_right_is_made_anew(
    server: FakeServer, agent: Agent, content: bytes, why: str
) -> None:
    _run(server, MAKE, shared_cache_bytes=200_000)
    _forget_caches(agent)
    (name,) = server.caches
    server.caches[name] = content

    build = _run(server, f"{SHOW}; {MAKE}", shared_cache_bytes=200_000)

    assert (build.finished or {})["exit_code"] == 0
    assert build.printed == []
    assert f"==> Cache deps: not on this agent yet, and not from the server: {why}" in build.lines
    assert any("and sent to the server" in line for line in build.lines)
    assert server.caches[name] != content


@pytest.mark.usefixtures("agent")
def test_a_server_that_does_not_answer_fails_no_build(server: FakeServer) -> None:
    server.fault = lambda call, *_: (503, {}) if len(call) == 64 else None
    build = _run(server, MAKE, shared_cache_bytes=10**6)

    assert (build.finished or {})["exit_code"] == 0
    assert "==> Cache deps: not on this agent yet, and not from the server: the server does not give it" in build.lines
    assert any("saved" in line and "not sent to the server: the server does not" in line for line in build.lines)


@pytest.mark.usefixtures("agent")
def test_what_the_server_would_not_keep_is_not_sent(server: FakeServer) -> None:
    large = _run(server, MAKE, shared_cache_bytes=1_000)
    assert any("not sent to the server: it has more than 1,000 bytes" in line for line in large.lines), large.lines
    off = _run(server, MAKE, key="other", shared_cache_bytes=0)
    assert any("Cache other: saved" in line and "sent" not in line for line in off.lines)

    assert server.caches == {}


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

    assert list(tmp_path.iterdir()) == []


def test_a_branch_without_caches_leaves_no_folder(tmp_path: Path) -> None:
    store = CacheStore(tmp_path, limit_bytes=1500)
    for branch in ("one", "two", "three"):
        store.save(f"1-members-{branch}", "key", io.BytesIO(bytes(1000)))

    assert [folder.name for folder in tmp_path.iterdir()] == ["1-members-three"]


@pytest.mark.parametrize("scope", ["", "..", "a/b", "../1-admins"])
def test_a_scope_is_one_folder(tmp_path: Path, scope: str) -> None:
    with pytest.raises(ValueError, match="no scope"):
        CacheStore(tmp_path, 1000).save(scope, "key", io.BytesIO(b""))
