"""The token: where it comes from, and that no build finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.fake_server import TOKEN, FakeServer
from tests.agent.harness import (
    AGENT_ENVIRONMENT,
    SYSTEM_PYTHON,
    Agent,
    StartAgent,
    processes_with,
)

from agent.process.privileges import choose_accounts

# Looks for the token in a file, and in everything that /proc shows of the processes above, up to the last one given.
SPY = """
import os, re, sys
pid, found = os.getppid(), b""
def read(path):
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(1 << 20)
    except OSError:
        return b""
ancestors = []
while pid > 0 and sys.argv[3] not in map(str, ancestors):
    ancestors.append(pid)
    folder = f"/proc/{pid}"
    found += read(f"{folder}/cmdline") + read(f"{folder}/environ")
    try:
        fds = os.listdir(f"{folder}/fd")
    except OSError:
        fds = []
    found += b"".join(read(f"{folder}/fd/{fd}") for fd in fds if not os.path.exists(f"{folder}/fd/{fd}") or
                      os.path.isfile(f"{folder}/fd/{fd}"))
    try:
        with open(f"{folder}/maps") as maps, open(f"{folder}/mem", "rb", buffering=0) as memory:
            for start, end in re.findall("^([0-9a-f]+)-([0-9a-f]+) rw", maps.read(), re.M):
                try:
                    memory.seek(int(start, 16))
                    found += memory.read(int(end, 16) - int(start, 16))
                except (OSError, ValueError):
                    pass
    except OSError:
        pass
    pid = int(read(f"{folder}/stat").rpartition(b")")[2].split()[1])
found += read(sys.argv[2]) + repr(sorted(os.environ.items())).encode()
print("ancestors", len(ancestors), "user", os.getuid(), "found", sys.argv[1][::-1].encode() in found)
"""


def _spy(folder: Path, token_file: Path, last: object) -> str:
    (folder / "spy.py").write_text(SPY)
    # Backwards: the spy would find its own command line otherwise.
    return f"{SYSTEM_PYTHON} {folder}/spy.py {TOKEN[::-1]} {token_file} {last}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run builds as another user")
def test_a_build_cannot_read_the_token(server: FakeServer, start: StartAgent, folder: Path) -> None:
    agent = start(python=sys.executable)
    build = server.queue(_spy(folder, agent.token_file, agent.process.pid))
    assert server.wait_finished(build)["exit_code"] == 0, build.lines

    words = build.printed[0].split()
    assert int(words[1]) >= 2
    assert words[3] != "0"
    assert words[5] == "False"


def test_a_trusted_build_finds_the_token_in_no_process(server: FakeServer, start: StartAgent, folder: Path) -> None:
    user = 65534 if os.geteuid() == 0 else None  # root could read all memory
    agent = start(python=SYSTEM_PYTHON, user=user)
    build = server.queue(_spy(folder, folder / "no-such-file", agent.process.pid) + "; touch out", artifacts=["out"])
    assert server.wait_finished(build)["exit_code"] == 0, build.lines

    assert build.printed[0].endswith("found False")
    assert build.artifacts == {"out": b""}
    assert "builds are trusted" in agent.printed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read other processes")
def test_the_spy_finds_a_token_that_is_not_hidden(folder: Path) -> None:
    spy = _spy(folder, folder / "no-such-file", "$PPID")
    parent = f"import subprocess; t = {TOKEN[::-1]!r}[::-1]; subprocess.run({spy!r}, shell=True, check=True)"
    done = subprocess.run([SYSTEM_PYTHON, "-c", parent], check=True, capture_output=True, text=True)

    assert done.stdout.strip().endswith("found True")


@pytest.mark.parametrize("way", ["stdin", "environment"])
def test_the_token_comes_by_standard_input_or_environment(
    server: FakeServer, bundle: Path, folder: Path, way: str
) -> None:
    by_environment = way == "environment"
    build = server.queue("echo here")
    process = subprocess.Popen(
        [sys.executable, str(bundle), "--server", server.url, "--workdir", str(folder / "work"), "--once"]
        + ([] if by_environment else ["--token-file", "-"]),
        env={**AGENT_ENVIRONMENT, **({"TESTHIDE_AGENT_TOKEN": TOKEN} if by_environment else {})},
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    with process, process.stdin:
        if not by_environment:
            process.stdin.write(TOKEN.encode() + b"\n")
            process.stdin.close()
        server.wait(lambda: server.connects)
        if os.geteuid() == 0:  # to anybody else they are closed
            assert TOKEN.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
        assert TOKEN.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert process.wait(15) == 0
    assert build.printed == ["here"]


def test_a_refused_token_ends_the_agent_with_one_sentence(server: FakeServer, start: StartAgent) -> None:
    server.token = "agt_another"
    agent = start()

    assert agent.wait() == 2
    assert agent.printed.splitlines()[1:] == [
        f"{server.url} does not accept this token: check it, or register the node again."
    ]


def test_a_revoked_token_ends_the_agent_and_its_builds(server: FakeServer, agent: Agent) -> None:
    mark = f"WITHDRAWN_{agent.process.pid}"
    server.wait_line(server.queue(f"echo begin; {mark}=1 sleep 600"), "begin")
    server.token = "agt_another"

    assert agent.wait() == 2
    assert not processes_with(mark)


@pytest.mark.parametrize("way", ["rotated", "refused before it is read", "wrong at first", "restarted"])
def test_a_new_token_in_the_file_is_taken_up(server: FakeServer, agent: Agent, folder: Path, way: str) -> None:
    gate, new = folder / "gate", "agt_new"
    build = server.queue(f"echo begin; while [ ! -e {gate} ]; do sleep 0.02; done; echo end")
    server.wait_line(build, "begin")
    if way == "wrong at first":
        agent.token_file.write_text("agt_wrong")
        agent.wait_printed("going on with the one before")
    elif way == "restarted":
        gate.touch()
        server.wait_finished(build)
        server.messages.append({"type": "restart", "command_id": 1})
        server.wait(lambda: len(server.connects) == 2)
    if way == "refused before it is read":
        agent.token_file.write_text(new)
        server.token = new
    else:
        server.old_token, server.token = TOKEN, new
        agent.token_file.write_text(new + "\n")
    server.wait(lambda: new in server.used_tokens)
    server.old_token = None
    gate.touch()
    server.wait_finished(build)
    assert build.printed == ["begin", "end"]
    assert "Using the new token" in agent.printed
    assert len(server.connects) == (2 if way == "restarted" else 1), "its session goes on"


@pytest.mark.parametrize("by_environment", [True, False])
def test_an_empty_token_is_named(server: FakeServer, bundle: Path, folder: Path, by_environment: bool) -> None:
    done = subprocess.run(
        [sys.executable, str(bundle), "--server", server.url, "--workdir", str(folder / "work")]
        + ([] if by_environment else ["--token-file", "-"]),
        env={**AGENT_ENVIRONMENT, **({"TESTHIDE_AGENT_TOKEN": ""} if by_environment else {})},
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    name = "TESTHIDE_AGENT_TOKEN" if by_environment else "Standard input"
    assert (done.returncode, done.stderr + done.stdout) == (2, f"{name} is empty: it must hold the node's token.\n")


def test_a_token_file_that_everybody_could_read_is_refused(start: StartAgent, folder: Path) -> None:
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o604)
    agent = start("--trust-builds")

    assert agent.wait() == 2
    assert agent.printed == f"Every user of this machine can read the token: chmod 600 {folder / 'token'}.\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run builds as another user")
def test_a_token_file_that_builds_could_read_is_refused(start: StartAgent, folder: Path) -> None:
    accounts = choose_accounts(None, trust_builds=False)
    assert accounts is not None
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o640)
    os.chown(folder / "token", 0, accounts.example.gid)
    agent = start()

    assert agent.wait() == 1
    assert "chmod 600" in agent.printed
