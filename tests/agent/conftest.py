from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.agent.agent_forks import AgentForks, open_agent_forks
from tests.agent.fake_server import FakeServer
from tests.agent.harness import AGENT_ENVIRONMENT, Agent, StartAgent
from tests.agent.pytest_forks import PytestForks, open_forks
from tests.support.compiled_bundle import build_compiled_zipapp

from agent.process.removal import remove_tree


@pytest.fixture(scope="session")
def bundle() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as created:
        Path(created).chmod(0o755)
        path = Path(created) / "agent.pyz"
        path.write_bytes(build_compiled_zipapp())
        yield path


@pytest.fixture(scope="session")
def agent_forks(bundle: Path) -> Iterator[AgentForks]:
    with open_agent_forks(bundle, AGENT_ENVIRONMENT) as forks:
        yield forks


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that every user can enter, unlike the `tmp_path` of pytest."""
    # Not in /tmp, since each build of root's agent has a /tmp of its own.
    created = Path(tempfile.mkdtemp(dir="/var/cache" if os.geteuid() == 0 else None))
    created.chmod(0o755)
    yield created
    remove_tree(created)  # an agent that is ended may leave a workspace deeper than shutil can remove


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer().running() as running:
        yield running


@pytest.fixture
def start(bundle: Path, agent_forks: AgentForks, folder: Path, server: FakeServer) -> Iterator[StartAgent]:
    with ExitStack() as agents:

        def start(*options: str, python: str | None = None, user: int | None = None) -> Agent:
            agent = Agent(bundle, folder, server.url, *options, forks=agent_forks, python=python, user=user)
            agents.callback(agent.close)
            return agent

        yield start


@pytest.fixture
def agent(start: StartAgent) -> Agent:
    return start()


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PytestForks]:
    with open_forks(tmp_path_factory.mktemp("forks")) as forks:
        yield forks
