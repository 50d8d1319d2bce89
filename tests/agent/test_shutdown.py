"""How an agent ends at a signal, what becomes of its builds, and that it signs off."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import FOREVER, Agent, StartAgent, processes_with


@pytest.mark.parametrize("numbers", [[signal.SIGQUIT], [signal.SIGTERM] * 2, [signal.SIGINT, signal.SIGQUIT]])
def test_two_signals_or_sigquit_end_the_agent_with_its_builds(
    server: FakeServer, agent: Agent, numbers: list[signal.Signals]
) -> None:
    mark = f"END_{agent.process.pid}"
    builds = [server.queue(f"export {mark}=1; echo begin; setsid sleep 600 & {FOREVER}") for _ in range(2)]
    for build in builds:
        server.wait_line(build, "begin")

    for number in numbers:
        agent.process.send_signal(number)
        agent.wait_printed("No more builds", number is not signal.SIGQUIT)

    assert agent.process.wait(5) == 0
    for build in builds:
        verdict = server.wait_finished(build)
        assert (verdict["reason"], verdict["detail"]) == ("stopped", "the agent was shut down")
    assert not processes_with(mark)
    assert not processes_with(str(agent.workdir))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_drains_the_agent(server: FakeServer, agent: Agent, folder: Path, number: signal.Signals) -> None:
    build = server.queue(f"echo begin; while [ ! -e {folder}/gate ]; do sleep 0.02; done; touch out", artifacts=["out"])
    server.wait_line(build, "begin")
    server.wait(lambda: server.polls[-1] == 1)

    agent.process.send_signal(number)
    server.wait(lambda: server.polls[-1] == 0)
    second = server.queue("echo never")
    server.wait_idle(running=[[1, 1]])
    (folder / "gate").touch()

    verdict = server.wait_finished(build)
    assert (verdict["exit_code"], verdict["reason"]) == (0, None)
    assert agent.wait() == 0
    assert build.artifacts == {"out": b""}
    assert not second.lines
    assert server.signed_off == [server.connects[0]["session"]]


def test_a_draining_agent_reports_its_builds_before_it_ends(server: FakeServer, agent: Agent) -> None:
    build = server.queue("echo begin; sleep 0.2; echo end")
    server.wait_line(build, "begin")
    server.fault = lambda *_: "drop"
    agent.process.terminate()
    agent.wait_printed("Cannot reach")
    server.fault = lambda *_: None

    assert agent.wait() == 0
    assert server.wait_finished(build)["exit_code"] == 0
    assert build.printed == ["begin", "end"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stopped_agent_signs_off(server: FakeServer, agent: Agent, number: signal.Signals) -> None:
    server.wait(lambda: server.polls)
    agent.process.send_signal(number)
    assert agent.wait() == 0
    assert server.signed_off == [server.connects[0]["session"]]
    assert len(server.connects) == 1, "and does not come back for it"


def test_builds_end_before_the_agent_signs_off(server: FakeServer, agent: Agent) -> None:
    build = server.queue(f"echo begin; {FOREVER}")
    server.wait_line(build, "begin")
    ended: list[object] = []
    server.fault = lambda call, *_: ended.append(build.finished) if call == "disconnect" else None
    assert agent.end() == 0
    (verdict,) = ended
    assert verdict is not None


def test_an_agent_with_once_signs_off(server: FakeServer, start: StartAgent) -> None:
    server.queue("true")
    agent = start("--once")
    assert agent.wait() == 0
    assert server.signed_off == [server.connects[0]["session"]]


def test_it_ends_in_time_when_the_server_is_unreachable(server: FakeServer, agent: Agent) -> None:
    mark = f"AWAY_{agent.process.pid}"
    server.wait_line(server.queue(f"{mark}=1; export {mark}; trap '' TERM; echo begin; {FOREVER}"), "begin")
    server.fault = lambda *_: "drop"

    agent.process.send_signal(signal.SIGQUIT)

    assert agent.process.wait(5) == 0
    why = "the agent was shut down, and the server did not answer in time"
    assert f"Dropped build 1, attempt 1: {why}\n" in agent.printed
    assert not processes_with(mark)
