from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import Agent, StartAgent

from agent.bundle import build_zipapp


@pytest.fixture(scope="session")
def bundle() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "agent.pyz"
        path.write_bytes(build_zipapp())
        yield path


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can reach: pytest's own cannot be entered by a build's user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer().running() as running:
        yield running


@pytest.fixture
def start(bundle: Path, place: Path, server: FakeServer) -> Iterator[StartAgent]:
    with ExitStack() as agents:

        def start(*options: str, python: str = sys.executable, user: int | None = None) -> Agent:
            agent = Agent(bundle, place, server.url, *options, python=python, user=user)
            agents.callback(agent.close)
            return agent

        yield start


@pytest.fixture
def agent(start: StartAgent) -> Agent:
    return start()
