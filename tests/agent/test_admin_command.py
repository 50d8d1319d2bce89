"""Shell lines of an administrator, and restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.fake_server import TOKEN, Answer, FakeServer
from tests.agent.harness import SYSTEM_PYTHON, Agent, StartAgent, processes_with

from agent.admin_command import MAX_OUTPUT_BYTES, OutputTail

FINE = {"exit_code": 0, "stdout": "", "stderr": "", "truncated": False, "timed_out": False}


@pytest.mark.usefixtures("agent")
def test_output_and_exit_code(server: FakeServer) -> None:
    first = server.execute("echo ä; echo wrong >&2; echo really > /dev/stderr; ls -A; exit 7")
    second = server.execute("kill -9 $$")

    assert server.wait_result(first) == {**FINE, "exit_code": 7, "stdout": "ä\n", "stderr": "wrong\nreally\n"}
    assert server.wait_result(second) == {**FINE, "exit_code": 137}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as another user")
def test_it_runs_as_the_builds_user(server: FakeServer, agent: Agent) -> None:
    result = server.wait_result(server.execute("id -u; cat $TOKEN_FILE; pwd; env"))

    user, folder, *env = result["stdout"].splitlines()
    assert user != "0"
    assert folder.startswith(str(agent.workdir))
    assert not [line for line in env if line.startswith("TESTHIDE_") or TOKEN in line]


def test_a_command_is_killed_with_all_its_processes_when_its_time_is_over(server: FakeServer, agent: Agent) -> None:
    mark = f"COMMAND_{agent.process.pid}"
    line = f"export {mark}=1; trap '' TERM; echo begun; (setsid sleep 600 &) ; sleep 600"
    result = server.wait_result(server.execute(line, timeout_s=1))

    assert result == {**FINE, "exit_code": None, "stdout": "begun\n", "timed_out": True}
    assert not processes_with(mark)
    server.wait(lambda: not list((agent.workdir / "builds").iterdir()) or (server.changed.wait(0.02) and False))


def test_processes_that_a_command_leaves_behind_are_ended(server: FakeServer, agent: Agent) -> None:
    mark = f"LEFT_{agent.process.pid}"

    assert server.wait_result(server.execute(f"{mark}=1 setsid sleep 600 & echo done")) == {**FINE, "stdout": "done\n"}
    assert not processes_with(mark)


@pytest.mark.usefixtures("agent")
def test_only_the_end_of_long_output_is_kept(server: FakeServer) -> None:
    result = server.wait_result(server.execute("seq 200000; printf 'ä%.0s' $(seq 150000) >&2; echo . >&2"))

    assert result["truncated"]
    assert result["stdout"].endswith("\n199999\n200000\n")
    assert len(result["stdout"]) == MAX_OUTPUT_BYTES
    assert result["stderr"] == "ä" * (MAX_OUTPUT_BYTES // 2 - 1) + ".\n"


def test_an_output_tail_does_not_begin_inside_a_character() -> None:
    for character in ("ä", "€", "😀"):
        tail = OutputTail()
        for _ in range(MAX_OUTPUT_BYTES // 2):
            tail.add(character.encode())
        tail.add(b".")
        assert set(tail.text()[:-1]) == {character}
        assert tail.is_cut


def test_a_command_needs_no_free_slot(server: FakeServer, start: StartAgent, folder: Path) -> None:
    server.max_parallel = 1
    agent = start()
    gate = folder / "gate"
    build = server.queue(f"echo begin; while [ ! -e {gate} ]; do sleep 0.02; done; echo end")
    server.wait_line(build, "begin")
    long = server.execute("sleep 600", timeout_s=600)

    assert server.wait_result(server.execute("echo beside"))["stdout"] == "beside\n"
    gate.touch()
    assert server.wait_finished(build)["exit_code"] == 0
    assert long not in server.results
    assert agent.end() == 0
    assert server.results[long] == {**FINE, "exit_code": None, "stderr": "Ended early: the agent was shut down\n"}


@pytest.mark.usefixtures("agent")
def test_a_result_is_sent_until_the_server_has_it_and_a_command_runs_once(server: FakeServer, folder: Path) -> None:
    answers: Iterator[Answer | str] = iter([(503, None), "drop", (429, None)])
    server.fault = lambda call, *_: next(answers, None) if call == "result" else None
    message = {"type": "execute", "command_id": "twice", "command": f"echo x >> {folder}/out", "timeout_s": 60}
    (folder / "out").touch()
    (folder / "out").chmod(0o666)
    server.send(message)
    server.send(message)

    assert server.wait_result("twice") == FINE
    server.wait_result(server.execute("true"))
    assert (folder / "out").read_text() == "x\n"


def test_a_refused_result_is_dropped(server: FakeServer, agent: Agent) -> None:
    answers = iter([(404, {"detail": "no such command"})])
    server.fault = lambda call, *_: next(answers, None) if call == "result" else None
    first = server.execute("true")
    server.wait(lambda: f"command {first}: no such command" in agent.printed or (server.changed.wait(0.02) and False))

    assert server.wait_result(server.execute("echo next"))["stdout"] == "next\n"
    assert first not in server.results


def test_a_command_that_cannot_be_started_says_why(server: FakeServer, agent: Agent) -> None:
    result = server.wait_result(server.execute("echo " + "x" * 200_000))

    assert result["exit_code"] == 126
    assert "Argument list too long" in result["stderr"]
    assert agent.process.poll() is None


def test_an_unknown_message_is_one_line(server: FakeServer, agent: Agent) -> None:
    server.send({"type": "sing", "song": "x"})
    server.send({"what": "no type"})
    build = server.queue("echo here")
    server.wait_finished(build)

    assert "does not know: 'sing'" in agent.printed
    assert "does not know: 'None'" in agent.printed
    assert build.printed == ["here"]


@pytest.mark.parametrize("way", ["root", "same user"])
def test_a_restart_keeps_process_and_session(server: FakeServer, start: StartAgent, way: str) -> None:
    # As the user that its builds run as, the agent must also hide the token from other processes of that user.
    options = {} if way == "root" else {"python": SYSTEM_PYTHON, "user": 65534 if os.geteuid() == 0 else None}
    agent = start(**options)
    running = server.queue("echo begin; while :; do sleep 0.1; done")
    server.wait_line(running, "begin")
    agent.token_file.unlink()
    for number in (1, 2):
        server.send({"type": "restart", "command_id": f"r{number}"})
        server.wait(lambda number=number: len(server.connects) == number + 1)  # type: ignore[misc]
        assert server.results[f"r{number}"] == FINE
    build = server.queue("echo here")
    server.wait_finished(build)

    assert server.wait_finished(running)["reason"] == "stopped"
    assert build.printed == ["here"]
    assert agent.process.poll() is None
    assert {connect["session"] for connect in server.connects} == {server.connects[0]["session"]}
    assert [connect["running"] for connect in server.connects] == [[], [], []]
    words = Path(f"/proc/{agent.process.pid}/cmdline").read_bytes().split(b"\0")
    assert TOKEN.encode() not in b" ".join(words)
    assert sum(word.startswith(b"fd:") for word in words) == 1
    assert agent.end() == 0


def test_a_restart_whose_result_is_refused_does_not_happen(server: FakeServer, agent: Agent) -> None:
    server.fault = lambda call, *_: (404, {"detail": "no such command"}) if call == "result" else None
    server.send({"type": "restart", "command_id": "r"})
    server.wait(lambda: "Not restarted: no such command" in agent.printed or (server.changed.wait(0.02) and False))

    server.wait_finished(server.queue("true"))
    assert len(server.connects) == 1


def test_an_agent_that_is_ending_does_not_restart(server: FakeServer, agent: Agent) -> None:
    server.wait_line(server.queue("trap '' TERM; echo begin; while :; do sleep 0.1; done"), "begin")
    server.send({"type": "restart", "command_id": "r"})
    server.wait_result("r")
    agent.process.send_signal(signal.SIGQUIT)

    assert agent.wait() == 0
    assert len(server.connects) == 1
