"""How an agent ends: by itself, told to, killed; and what then becomes of its builds."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import Agent, StartAgent, processes_until, processes_with

from agent import takeover
from agent.process import linux, orphans

FOREVER = "while :; do sleep 0.1; done"


@pytest.mark.parametrize("numbers", [[signal.SIGQUIT], [signal.SIGTERM] * 2, [signal.SIGINT, signal.SIGQUIT]])
def test_it_ends_with_its_builds(server: FakeServer, agent: Agent, numbers: list[signal.Signals]) -> None:
    mark = f"END_{agent.process.pid}"
    builds = [server.queue(f"export {mark}=1; echo begin; setsid sleep 600 & {FOREVER}") for _ in range(2)]
    for build in builds:
        server.wait_line(build, "begin")

    for number in numbers:
        agent.process.send_signal(number)
        agent.wait_said("No more builds", number is not signal.SIGQUIT)

    assert agent.process.wait(5) == 0
    for build in builds:
        verdict = server.wait_finished(build)
        assert (verdict["reason"], verdict["detail"]) == ("stopped", "the agent was shut down")
    assert not processes_with(mark)
    assert not processes_with(str(agent.workdir))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_lets_its_builds_end_and_takes_no_more(
    server: FakeServer, agent: Agent, place: Path, number: signal.Signals
) -> None:
    build = server.queue(f"echo begin; while [ ! -e {place}/gate ]; do sleep 0.02; done; touch out", artifacts=["out"])
    server.wait_line(build, "begin")
    server.wait(lambda: server.polls[-1] == 1)

    agent.process.send_signal(number)
    server.wait(lambda: server.polls[-1] == 0)
    second = server.queue("echo never")
    server.wait_idle(running=[[1, 1]])
    (place / "gate").touch()

    verdict = server.wait_finished(build)
    assert (verdict["exit_code"], verdict["reason"]) == (0, None)
    assert agent.wait() == 0
    assert build.artifacts == {"out": b""}
    assert not second.lines
    assert server.released == [server.connects[0]["session"]]


def test_it_delivers_what_ended_while_the_server_was_away_before_it_ends(server: FakeServer, agent: Agent) -> None:
    build = server.queue("echo begin; sleep 0.2; echo end")
    server.wait_line(build, "begin")
    server.fault = lambda *_: "drop"
    agent.process.terminate()
    agent.wait_said("Cannot reach")
    server.fault = lambda *_: None

    assert agent.wait() == 0
    assert server.wait_finished(build)["exit_code"] == 0
    assert build.own == ["begin", "end"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_an_agent_that_is_stopped_releases_its_session(
    server: FakeServer, agent: Agent, number: signal.Signals
) -> None:
    server.wait(lambda: server.polls)
    agent.process.send_signal(number)
    assert agent.wait() == 0
    assert server.released == [server.connects[0]["session"]]
    assert len(server.connects) == 1, "and does not come back for it"


def test_builds_end_before_the_session_does(server: FakeServer, agent: Agent) -> None:
    build = server.queue(f"echo begin; {FOREVER}")
    server.wait_line(build, "begin")
    ended: list[object] = []
    server.fault = lambda call, *_: ended.append(build.finished) if call == "disconnect" else None
    assert agent.end() == 0
    (verdict,) = ended
    assert verdict is not None


def test_once_releases_its_session(server: FakeServer, start: StartAgent) -> None:
    server.queue("true")
    agent = start("--once")
    assert agent.wait() == 0
    assert server.released == [server.connects[0]["session"]]


def test_it_ends_in_time_when_the_server_is_away(server: FakeServer, agent: Agent) -> None:
    mark = f"AWAY_{agent.process.pid}"
    server.wait_line(server.queue(f"{mark}=1; export {mark}; trap '' TERM; echo begin; {FOREVER}"), "begin")
    server.fault = lambda *_: "drop"

    agent.process.send_signal(signal.SIGQUIT)

    assert agent.process.wait(5) == 0
    assert not processes_with(mark)


def test_a_killed_agent_leaves_no_process_and_the_next_one_no_file(server: FakeServer, start: StartAgent) -> None:
    agent = start()
    mark = f"KILLED_{agent.process.pid}"
    server.wait_line(server.queue(f"export {mark}=1; setsid sleep 600 & echo begin; {FOREVER}"), "begin")
    agent.process.kill()
    agent.wait()
    server.wait(lambda: not processes_with(mark) or (server.changed.wait(0.02) and False))
    assert list((agent.workdir / "builds").iterdir())

    server.connects.clear()
    start()
    server.wait(lambda: server.connects)
    assert not (agent.workdir / "builds").exists()


def test_a_killed_agents_place_is_taken_by_the_next_one_in_its_folder(server: FakeServer, start: StartAgent) -> None:
    agent = start()
    server.wait(lambda: server.polls)
    agent.process.kill()
    agent.wait()
    kept = agent.workdir / "session"
    assert kept.stat().st_mode & 0o777 == 0o600
    start().wait_said("Connected")
    first, second = server.connects
    assert first["replaces"] is None
    assert hashlib.sha256(second["replaces"].encode()).hexdigest() == first["session"] != second["session"]
    assert second["replaces"] not in agent.said


def test_where_the_machine_has_started_since_nobody_is_replaced(place: Path) -> None:
    takeover.bequeath(place, "secret")
    assert takeover.inherited(place) == "secret"
    kept = place / "session"
    kept.write_text(kept.read_text().replace(linux.boot(), "another-boot"))
    assert takeover.inherited(place) is None
    kept.write_text("")
    assert takeover.inherited(place) is None


def test_what_outlived_agent_and_supervisor_is_ended_by_the_next_agent(server: FakeServer, start: StartAgent) -> None:
    agent = start()
    mark = f"600.{agent.process.pid}"
    command = f"setsid sleep {mark} & (setsid sleep {mark} &) ; env -i sleep {mark} & echo begin; {FOREVER}"
    server.wait_line(server.queue(command), "begin")
    processes_until(mark, 3)
    supervisors = [pid for pid in linux.descendants(agent.process.pid) if _is_slot(pid)]
    # Stopped, so that they do not notice that the agent dies.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in supervisors:
            os.kill(pid, number)
        agent.process.kill()
    agent.wait()
    assert len(processes_with(mark)) >= 3, "they run on"
    bystander = subprocess.Popen(["sleep", f"{mark}1"], start_new_session=True)
    try:
        server.connects.clear()
        again = start()
        server.wait(lambda: server.connects)
        assert processes_with(f"{mark}\0") == []
        assert bystander.poll() is None
        assert not (agent.workdir / "builds").exists()
        assert "left running" in again.said
    finally:
        bystander.kill()
        bystander.wait()


def test_sessions_of_another_boot_or_leader_are_left_alone(place: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        build = place / "1-1"
        build.mkdir()
        process = linux.process(bystander.pid)
        assert process is not None
        other_boot = f"0-0-0 {process.pid} {process.started}"
        other_leader = f"{linux.boot()} {process.pid} {process.started - 1}"
        (build / "processes").write_text(f"{other_boot}\n{other_leader}\n")
        orphans.end_all(place)
        assert bystander.poll() is None
        orphans.record(str(build / "processes"), bystander.pid)
        orphans.end_all(place)
        assert bystander.wait(5) == -signal.SIGKILL
    finally:
        bystander.kill()
        bystander.wait()


def _is_slot(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0slot\0")
