"""Connecting, takeover of a killed agent's session, polls, heartbeats, and retries."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from tests.agent.fake_server import Answer, FakeServer
from tests.agent.harness import Agent, StartAgent

from agent import session
from agent.process import linux


def test_once_does_not_wait_for_another_session(server: FakeServer, start: StartAgent) -> None:
    server.fault = lambda call, *_: (409, {"detail": "another session is alive"}) if call == "connect" else None
    agent = start("--once")

    assert agent.wait() == 1
    assert "another session is alive" in agent.printed


@pytest.mark.parametrize("status", [403, 404])
def test_an_address_that_never_takes_the_agent_ends_it(server: FakeServer, start: StartAgent, status: int) -> None:
    server.fault = lambda call, *_: (status, {"detail": "There is no such thing here."}) if call == "connect" else None
    agent = start()

    assert agent.wait() == 1
    assert "The server refuses this agent: There is no such thing here." in agent.printed
    assert (f"Is {server.url} the address of a Testhide server, without /api/v3?" in agent.printed) == (status == 404)


def test_an_agent_retries_until_it_reaches_the_server(server: FakeServer, start: StartAgent) -> None:
    answers = iter([(503, None)] * 2)
    server.fault = lambda call, *_: next(answers, None) if call == "connect" else None
    agent = start("--once")

    server.wait_finished(server.queue("echo here"))
    assert agent.wait() == 0
    assert agent.printed.count("Cannot reach") == 1


def test_a_refused_session_connects_again_with_its_builds(server: FakeServer, agent: Agent, folder: Path) -> None:
    gate = folder / "gate"
    build = server.queue(f"echo begin; while [ ! -e {gate} ]; do sleep 0.02; done; echo end")
    server.wait_line(build, "begin")
    answers = iter([(409, None)])
    server.fault = lambda call, *_: next(answers, None) if call == "next" else None
    server.wait(lambda: len(server.connects) == 2)
    gate.touch()

    server.wait_finished(build)
    assert build.printed == ["begin", "end"]
    assert server.connects[1]["running"] == [1]
    assert server.connects[1]["session"] == server.connects[0]["session"]


def test_an_agent_waits_for_retry_after(server: FakeServer, start: StartAgent) -> None:
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
def test_the_next_poll_acknowledges_a_message(server: FakeServer) -> None:
    server.wait(lambda: server.receipts)
    server.send({"type": "later", "receipt": "later:1"})
    server.wait(lambda: server.receipts[-1] == "later:1")
    assert server.receipts[0] == ""


@pytest.mark.usefixtures("agent")
def test_heartbeats_name_a_build_until_its_end_is_accepted(server: FakeServer) -> None:
    """Otherwise the server would take the build for lost, while the agent still tries to report its end."""
    refused: list[int] = []  # number of the heartbeats before each refusal

    def busy(call: str, *_: object) -> Answer | None:
        if call != "finished" or (refused and len(server.heartbeats) >= refused[0] + 3):
            return None
        refused.append(len(server.heartbeats))
        return 503, None

    server.fault = busy
    build = server.queue("true")
    server.wait_finished(build)
    assert [state["running"] for state in server.heartbeats[refused[0] : refused[0] + 3]] == [[[1, 1]]] * 3
    server.wait_idle()


@pytest.mark.usefixtures("agent")
def test_heartbeats_report_the_load_of_the_machine(server: FakeServer) -> None:
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
def test_a_free_slot_is_reported_at_once(server: FakeServer) -> None:
    """The open poll reported no free slot, and would keep the next build waiting until it times out."""
    server.max_parallel = 1
    builds = [server.queue(f"echo {number}") for number in range(4)]
    for build in builds:
        server.wait_finished(build)

    assert [build.printed for build in builds] == [["0"], ["1"], ["2"], ["3"]]


def test_the_next_agent_in_a_work_folder_replaces_a_killed_agents_session(
    server: FakeServer, start: StartAgent
) -> None:
    agent = start()
    server.wait(lambda: server.polls)
    agent.process.kill()
    agent.wait()
    kept = agent.workdir / "session"
    assert kept.stat().st_mode & 0o777 == 0o600
    start().wait_printed("Connected")
    first, second = server.connects
    assert first["replaces"] is None
    assert hashlib.sha256(second["replaces"].encode()).hexdigest() == first["session"] != second["session"]
    assert second["replaces"] not in agent.printed


def test_no_session_is_replaced_after_a_reboot(folder: Path) -> None:
    session.write_secret(folder, "secret")
    assert session.read_secret(folder) == "secret"
    kept = folder / "session"
    kept.write_text(kept.read_text().replace(linux.read_boot_id(), "another-boot"))
    assert session.read_secret(folder) is None
    kept.write_text("")
    assert session.read_secret(folder) is None
