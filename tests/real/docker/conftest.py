"""A Docker engine, and a server whose workers spawn agents on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testhide.engines import Engines
from tests.real.docker.daemon import HOST, NETWORK, Daemon
from tests.real.docker.yard import DockerYard
from tests.support.server import server_on_new_database


@pytest.fixture(name="daemon", scope="package")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("docker"))
    daemon.start()
    try:
        daemon.import_image()
        yield daemon
    finally:
        daemon.remove()


@pytest.fixture(name="gateway", scope="package")
def _gateway(daemon: Daemon) -> str:
    return daemon.make_network()


@pytest.fixture(name="yard", scope="package")
def _yard(
    engines: Engines, daemon: Daemon, gateway: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerYard]:
    settings = {"docker_hosts": f"{HOST}={daemon.url}", "docker_images": "testhide/agent:*", "docker_network": NETWORK}
    folder: Path = tmp_path_factory.mktemp("server")
    processes = ("serve", "project", "dispatch", "work")
    with server_on_new_database(engines, folder, *processes, host=gateway, logs=folder, **settings) as server:
        yield DockerYard(server, daemon)
