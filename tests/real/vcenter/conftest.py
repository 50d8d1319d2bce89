"""A simulated vCenter for tests (`tests/real/vcenter/simulated.py`)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.vcenter.simulated import Simulator, build_simulator, make_certificates, start_simulator

StartSimulator = Callable[[], Simulator]


@pytest.fixture(name="program", scope="session")
def _program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_simulator(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(name="certificates", scope="session")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture(name="start", scope="module")
def _start(program: Path, certificates: Path) -> Iterator[StartSimulator]:
    started: list[Simulator] = []

    def start() -> Simulator:
        started.append(start_simulator(program, certificates))
        return started[-1]

    yield start
    for simulator in started:
        simulator.stop()


@pytest.fixture(name="simulator", scope="module")
def _simulator(start: StartSimulator) -> Simulator:
    return start()
