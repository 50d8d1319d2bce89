"""Token, user, start and end of the agent itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.agent.fake_server import TOKEN, Answer, FakeServer
from tests.agent.harness import (
    AGENT_ENVIRONMENT,
    SYSTEM_PYTHON,
    Agent,
    StartAgent,
    processes_with,
)

FOREVER = "while :; do sleep 0.1; done"
# Reads all that may hold the token: of every process above up to the last one given, and the file.
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
while pid > 1 and sys.argv[3] not in map(str, ancestors):
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


def _spy(place: Path, token_file: Path, last: object) -> str:
    (place / "spy.py").write_text(SPY)
    # Backwards, since the words of a command are readable to all and would be found.
    return f"{SYSTEM_PYTHON} {place}/spy.py {TOKEN[::-1]} {token_file} {last}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run builds as another user")
def test_a_build_cannot_read_the_token(server: FakeServer, agent: Agent, place: Path) -> None:
    build = server.queue(_spy(place, agent.token_file, agent.process.pid))
    assert server.wait_finished(build)["exit_code"] == 0, build.lines

    words = build.own[0].split()
    assert int(words[1]) >= 2
    assert words[3] != "0"
    assert words[5] == "False"


def test_not_even_a_build_of_the_agents_own_user_finds_it_in_a_process(
    server: FakeServer, start: StartAgent, place: Path
) -> None:
    user = 65534 if os.geteuid() == 0 else None  # root could read all memory
    agent = start(python=SYSTEM_PYTHON, user=user)
    build = server.queue(_spy(place, place / "no-such-file", agent.process.pid) + "; touch out", artifacts=["out"])
    assert server.wait_finished(build)["exit_code"] == 0, build.lines

    assert build.own[0].endswith("found False")
    assert build.artifacts == {"out": b""}
    assert "builds are trusted" in agent.said


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not look at all")
def test_the_spy_finds_what_is_not_hidden(place: Path) -> None:
    spy = _spy(place, place / "no-such-file", "$PPID")
    parent = f"import subprocess; t = {TOKEN[::-1]!r}[::-1]; subprocess.run({spy!r}, shell=True, check=True)"
    done = subprocess.run([SYSTEM_PYTHON, "-c", parent], check=True, capture_output=True, text=True)

    assert done.stdout.strip().endswith("found True")


@pytest.mark.parametrize("way", ["stdin", "environment"])
def test_a_token_that_is_no_file(server: FakeServer, bundle: Path, place: Path, way: str) -> None:
    by_environment = way == "environment"
    build = server.queue("echo here")
    process = subprocess.Popen(
        [sys.executable, str(bundle), "--server", server.url, "--workdir", str(place / "work"), "--once"]
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
    assert build.own == ["here"]


def test_a_bad_token_is_one_sentence(server: FakeServer, start: StartAgent) -> None:
    server.token = "agt_another"
    agent = start()

    assert agent.wait() == 2
    assert agent.said.splitlines()[1:] == [
        f"{server.url} does not accept this token: check it, or register the node again."
    ]


def test_a_token_that_is_withdrawn_ends_the_agent_and_its_builds(server: FakeServer, agent: Agent) -> None:
    mark = f"WITHDRAWN_{agent.process.pid}"
    server.wait_line(server.queue(f"echo begin; {mark}=1 sleep 600"), "begin")
    server.token = "agt_another"

    assert agent.wait() == 2
    assert not processes_with(mark)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--token-file", "/no/such/file"), 2, "Cannot read the token"),
        (("--token-file", "/dev/null"), 2, "holds no token"),
        (("--server", "ftp://x"), 2, "is not an http or https URL"),
        (("--build-user", "no-such-user"), 2, "no-such-user" if os.geteuid() == 0 else "started as root"),
        (("--workdir", "/dev/null/x"), 1, "Cannot use /dev/null/x"),
    ],
)
def test_what_cannot_work_is_said(start: StartAgent, options: tuple[str, ...], code: int, sentence: str) -> None:
    agent = start(*options)

    assert agent.wait() == code
    assert sentence in agent.said
    assert len(agent.said.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run builds as another user")
def test_a_token_file_that_builds_could_read_is_refused(start: StartAgent, place: Path) -> None:
    (place / "token").write_text(TOKEN)
    (place / "token").chmod(0o644)
    agent = start()

    assert agent.wait() == 1
    assert "chmod 600" in agent.said


def test_two_agents_do_not_share_a_folder(server: FakeServer, agent: Agent, start: StartAgent) -> None:
    server.wait(lambda: server.connects)
    second = start()

    assert second.wait() == 1
    assert agent.process.poll() is None


def test_once_is_one_build(server: FakeServer, start: StartAgent) -> None:
    first, second = server.queue("exit 5"), server.queue("echo never")
    agent = start("--once")

    assert agent.wait() == 0
    assert server.wait_finished(first)["exit_code"] == 5
    assert not second.lines


def test_once_does_not_wait_for_another_session(server: FakeServer, start: StartAgent) -> None:
    server.fault = lambda call, *_: (409, {"detail": "another session is alive"}) if call == "connect" else None
    agent = start("--once")

    assert agent.wait() == 1
    assert "another session is alive" in agent.said


def test_an_agent_waits_for_a_server_that_is_away(server: FakeServer, start: StartAgent) -> None:
    answers = iter([(503, None)] * 2)
    server.fault = lambda call, *_: next(answers, None) if call == "connect" else None
    agent = start("--once")

    server.wait_finished(server.queue("echo here"))
    assert agent.wait() == 0
    assert agent.said.count("Cannot reach") == 1


def test_a_lost_session_is_connected_again_with_its_builds(server: FakeServer, agent: Agent, place: Path) -> None:
    gate = place / "gate"
    build = server.queue(f"echo begin; while [ ! -e {gate} ]; do sleep 0.02; done; echo end")
    server.wait_line(build, "begin")
    answers = iter([(409, None)])
    server.fault = lambda call, *_: next(answers, None) if call == "next" else None
    server.wait(lambda: len(server.connects) == 2)
    gate.touch()

    server.wait_finished(build)
    assert build.own == ["begin", "end"]
    assert server.connects[1]["running"] == [1]
    assert server.connects[1]["session"] == server.connects[0]["session"]


def test_an_agent_waits_as_long_as_the_server_asks(server: FakeServer, start: StartAgent) -> None:
    server.retry_after = "1"
    asked: list[float] = []

    def busy(call: str, *_: object) -> Answer | None:
        if call == "connect":
            asked.append(time.monotonic())
        return (503, None) if len(asked) == 1 else None

    server.fault = busy
    start()
    server.wait(lambda: server.connects)
    assert 1 <= asked[1] - asked[0] < 3


@pytest.mark.usefixtures("agent")
def test_a_message_that_arrived_is_confirmed_by_the_next_poll(server: FakeServer) -> None:
    server.wait(lambda: server.receipts)
    server.tell({"type": "later", "receipt": "later:1"})
    server.wait(lambda: server.receipts[-1] == "later:1")
    assert server.receipts[0] == ""


@pytest.mark.usefixtures("agent")
def test_heartbeats_tell_how_the_machine_is(server: FakeServer) -> None:
    server.wait(lambda: len(server.heartbeats) >= 2)

    connect, beat = server.connects[0], server.heartbeats[-1]
    assert connect["cpu_cores"] >= 1
    assert connect["ram_gb"] > 0
    assert connect["platform"] == "linux"
    assert beat["session"] == connect["session"]
    assert 0 <= beat["cpu_pct"] <= 100
    assert 0 < beat["ram_pct"] < 100
    assert beat["disk_free_gb"] > 0
    assert beat["uptime_s"] > 0


@pytest.mark.usefixtures("agent")
def test_room_for_a_build_is_told_at_once(server: FakeServer) -> None:
    """A poll that said "no room" would otherwise keep the next build waiting until it is answered."""
    server.max_parallel = 1
    builds = [server.queue(f"echo {number}") for number in range(4)]
    for build in builds:
        server.wait_finished(build)

    assert [build.own for build in builds] == [["0"], ["1"], ["2"], ["3"]]
