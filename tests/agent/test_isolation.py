"""Two builds on one agent of root: neither reaches the other, and neither leaves anything on the machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import SYSTEM_PYTHON, Agent, StartAgent

from agent.build.workspace import Workspace
from agent.credentials import own_command_line
from agent.process import namespaces
from agent.process.privileges import SLOT_UIDS, BuildAccount
from agent.process.supervisor_client import SupervisorClient

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run builds as users of their own")

ATTACK = """
set +e
cat /proc/[0-9]*/environ 2> /dev/null | tr '\\0' '\\n' | grep VICTIM_{mark} && echo read the environment
ls {victim}/* && echo listed the files; cat {victim}/workspace/file && echo read a file
echo x > {victim}/workspace/file && echo changed a file; touch {victim}/tmp/x && echo added a file
ls {victim}/python && echo entered the folder
kill -9 -1; kill -9 {pid} && echo killed
echo the end
"""
LEAVE = """
for folder in /tmp /var/tmp /dev/shm; do mkdir -p $folder/left-{mark} && echo x > $folder/left-{mark}/file; done
echo x > /dev/shm/file-{mark}; ls /tmp; id -u; id -un 2> /dev/null || echo no name; echo left
"""


@pytest.fixture(name="way", params=["namespaces", "no namespaces"])
def _way(request: pytest.FixtureRequest, start: StartAgent, folder: Path) -> tuple[str, Agent]:
    way: str = request.param
    if way == "namespaces":
        refusal = namespaces.find_refusal()
        if refusal:
            pytest.skip(f"this kernel or container gives no namespaces: {refusal}")
        return way, start()
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv to take a capability from the agent")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec setpriv --bounding-set -sys_admin {sys.executable} "$@"\n')
    python.chmod(0o755)
    return way, start(python=str(python))


def test_a_build_does_not_reach_another_one(server: FakeServer, way: tuple[str, Agent], folder: Path) -> None:
    agent = way[1]
    mark = str(agent.process.pid)
    gate = folder / "gate"
    victim = server.queue(
        f"export VICTIM_{mark}=1; sleep 600 & echo safe > file; chmod 666 file; echo $!;"
        f" while [ ! -e {gate} ]; do sleep 0.02; done; kill -0 $! && cat file && ls $TMPDIR"
    )
    server.wait(lambda: victim.printed)
    victims = agent.workdir / "builds" / "1-1"
    attacker = server.queue(ATTACK.format(mark=mark, victim=victims, pid=victim.printed[0]))
    server.wait_finished(attacker)
    gate.touch()

    assert server.wait_finished(victim)["exit_code"] == 0, victim.lines
    assert victim.printed[1:] == ["safe"]
    successes = ("read", "listed", "changed", "added", "entered", "killed")
    assert [line for line in attacker.printed if line.startswith(successes)] == []
    assert attacker.printed[-1] == "the end"


def test_a_build_leaves_nothing_on_the_machine(server: FakeServer, way: tuple[str, Agent]) -> None:
    mark = str(way[1].process.pid)
    for _ in range(2):
        build = server.queue(LEAVE.format(mark=mark))
        assert server.wait_finished(build)["exit_code"] == 0, build.lines
        *listed, uid, name, end = build.printed
        assert (int(uid) in SLOT_UIDS, end) == (True, "left"), build.lines
        if way[0] == "namespaces":
            assert (listed, name) == ([f"left-{mark}"], f"testhide-build-{uid}")
        else:
            assert "Builds have no namespaces" in way[1].printed
        server.wait_idle()
        left = [path for folder in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(folder).glob(f"*-{mark}")]
        assert left == []


def test_shared_memory_ends_with_the_build(server: FakeServer, start: StartAgent) -> None:
    if namespaces.find_refusal():
        pytest.skip("this kernel or container gives no namespaces")
    start()
    make = "import ctypes; print(ctypes.CDLL(None).shmget(0x7e57, 4096, 0o1666) >= 0)"
    for _ in range(2):
        build = server.queue(f"wc -l < /proc/sysvipc/shm; {SYSTEM_PYTHON} -c '{make}'; wc -l < /proc/sysvipc/shm")
        server.wait_finished(build)
        assert build.printed == ["1", "True", "2"], "the first line is a heading"


def test_a_setuid_file_gives_no_build_the_user_of_another_one(
    server: FakeServer, way: tuple[str, Agent], folder: Path
) -> None:
    gate, shared = folder / "gate", folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    victim = server.queue(
        f"cp $(command -v id) {shared}/x && chmod 6755 {shared}/x && id -u; while [ ! -e {gate} ]; do sleep 0.02; done"
    )
    server.wait(lambda: victim.printed)
    thief = server.queue(f"id -u; {shared}/x -u; id -g; {shared}/x -g")
    server.wait_finished(thief)
    gate.touch()

    server.wait_finished(victim)
    user, got_user, group, got_group = thief.printed
    assert (got_user, got_group) == (user, group)
    assert user != victim.printed[0]


KEYS = """
import ctypes, os, sys
add, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
call = ctypes.CDLL(None).syscall
rings = {"session": -3, "user": -4, "user session": -5, "persistent": call(keyctl, 22, ctypes.c_long(-1), -2)}
for name, ring in rings.items():
    if sys.argv[1] == "add":
        call(add, b"user", b"key", b"secret", 6, ctypes.c_long(ring))
    if call(keyctl, 10, ctypes.c_long(ring), b"user", b"key", 0) > 0:
        print(name)
"""


@pytest.mark.parametrize("options", [[], ["isolated"]])
def test_keys_do_not_outlive_a_build(options: list[str], folder: Path) -> None:
    if options and namespaces.find_refusal():
        pytest.skip("this kernel or container gives no namespaces")
    uid = SLOT_UIDS[-1]
    workspace = Workspace(folder / "1-1", BuildAccount(uid, uid, []))
    script = workspace.root / "keys.py"
    script.write_text(KEYS)
    supervisor = SupervisorClient([*own_command_line(), "slot", *options])

    def run(action: str) -> list[str]:
        argv = [SYSTEM_PYTHON, str(script), action]
        supervisor.run(argv, "/", workspace.base_environment(), workspace.account, workspace.record)
        while not (answers := supervisor.receive()):
            pass
        assert answers == [{"exit": 0}]
        return (supervisor.read_output() or b"").decode().splitlines()

    try:
        if not run("add"):
            pytest.skip("this kernel or container gives no keys")
        assert {"session", "user", "user session"} <= set(run("look")), "the steps of a build share them"
        supervisor.end(0)
        while not any(supervisor.count_survivors(answer) == 0 for answer in supervisor.receive()):
            pass
        assert run("look") == []
    finally:
        supervisor.close()
        supervisor.wait(5)


def test_users_take_turns(server: FakeServer, start: StartAgent) -> None:
    """A file that a build left in a folder open to all belongs to no user of the next builds."""
    start()
    uids = []
    for _ in range(3):
        build = server.queue("id -u")
        server.wait_finished(build)
        server.wait_idle()
        uids.append(build.printed[0])
    assert len(set(uids)) == 3


def test_two_builds_have_different_users(server: FakeServer, start: StartAgent, folder: Path) -> None:
    start()
    gate = folder / "gate"
    builds = [server.queue(f"id -u; while [ ! -e {gate} ]; do sleep 0.02; done") for _ in range(2)]
    server.wait(lambda: all(build.printed for build in builds))
    gate.touch()
    for build in builds:
        server.wait_finished(build)
    assert len({build.printed[0] for build in builds}) == 2
