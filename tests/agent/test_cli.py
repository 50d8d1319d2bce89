"""Options, the work folder, and `--once`."""

from __future__ import annotations

import os

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import Agent, StartAgent


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--token-file", "/no/such/file"), 2, "Cannot read the token"),
        (("--token-file", "/dev/null"), 2, "/dev/null is empty: it must hold the node's token."),
        (("--token-file", "/proc/self/comm"), 2, "Every user of this machine can read the token: chmod 600"),
        (("--server", "ftp://x"), 2, "is not an http or https URL"),
        (("--build-user", "no-such-user"), 2, "no-such-user" if os.geteuid() == 0 else "started as root"),
        (("--workdir", "/dev/null/x"), 1, "Cannot use /dev/null/x"),
    ],
)
def test_unusable_options_end_the_agent_with_one_sentence(
    start: StartAgent, options: tuple[str, ...], code: int, sentence: str
) -> None:
    agent = start(*options)

    assert agent.wait() == code
    assert sentence in agent.printed
    assert len(agent.printed.splitlines()) == 1


def test_two_agents_cannot_share_a_work_folder(server: FakeServer, agent: Agent, start: StartAgent) -> None:
    server.wait(lambda: server.connects)
    second = start()

    assert second.wait() == 1
    assert agent.process.poll() is None


def test_once_runs_one_build(server: FakeServer, start: StartAgent) -> None:
    first, second = server.queue("exit 5"), server.queue("echo never")
    agent = start("--once")

    assert agent.wait() == 0
    assert server.wait_finished(first)["exit_code"] == 5
    assert not second.lines
