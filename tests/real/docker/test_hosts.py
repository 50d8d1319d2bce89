"""Docker hosts on other machines: an engine that is reached over TLS, and over ssh."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integrations.docker.hosts import CERTIFICATES
from testhide.engines import Engines
from tests.real.docker.daemon import NETWORK, Daemon
from tests.real.docker.remote import running_sshd
from tests.real.docker.yard import DockerYard, wait_for
from tests.real.vcenter.simulated import make_certificates
from tests.support.server import server_on_new_database

pytestmark = pytest.mark.real("dockerd", "sshd")
WRONG = {"other-engine": ["ca.pem"], "other-client": ["cert.pem", "key.pem"]}
"""Name of a host -> files of another authority that the server has for it."""


@pytest.fixture(name="remote", scope="module")
def _remote(
    engines: Engines, daemon: Daemon, gateway: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerYard]:
    """A server that reaches the engine over TLS and ssh alone."""
    folder, ssh, certificates, others = map(tmp_path_factory.mktemp, ("server", "ssh", "certificates", "others"))
    make_certificates(others)
    for name in ("over-tls", *WRONG):
        (certificates / name).mkdir()
        for file in CERTIFICATES:
            source: Path = others if file in WRONG.get(name, []) else daemon.certificates
            shutil.copy(source / file, certificates / name)
    with running_sshd(ssh, daemon.url) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{ssh}:{os.environ['PATH']}")
        patch.setenv("REQUESTS_CA_BUNDLE", str(others / "ca.pem"))  # is for other programs of the machine
        hosts = {"over-ssh": url, **dict.fromkeys(("over-tls", *WRONG), f"tcp://127.0.0.1:{daemon.port}")}
        settings = {
            "docker_hosts": ",".join(f"{name}={address}" for name, address in hosts.items()),
            "docker_certificates": str(certificates),
            "docker_images": "testhide/agent:*",
            "docker_network": NETWORK,
        }
        processes = ("serve", "project", "dispatch", "work")
        with server_on_new_database(engines, folder, *processes, host=gateway, logs=folder, **settings) as server:
            yield DockerYard(server, daemon)


@pytest.mark.parametrize("host", ["over-tls", "over-ssh"])
def test_spawn_build_stop_start_destroy(remote: DockerYard, host: str) -> None:
    agent_id = remote.spawn(host=host, memory_mb=128)
    node = remote.wait_online(agent_id)
    build = remote.build(remote.job("echo hello"))
    assert remote.wait_build(build, status="passed")["node_id"] == node["id"]
    path = f"/api/v3/docker-agents/{agent_id}"
    assert remote.server.admin.post(f"{path}/stop", timeout=60).then(200)["status"] == "stopped"
    assert remote.server.admin.post(f"{path}/start", timeout=60).then(200)["status"] == "running"
    lines = remote.server.admin.get(f"{path}/logs").then(200)["lines"]
    assert any("Connected to" in line for line in lines)
    # Only the events of the host show this before the next comparison of all containers.
    remote.wait_online(agent_id)
    remote.daemon.client.kill(remote.containers()[agent_id]["Id"])
    assert "killed" in remote.wait(agent_id, status="error")["error"]
    assert remote.server.admin.delete(path, timeout=60).status_code == 204
    assert agent_id not in remote.containers()


@pytest.mark.parametrize(
    ("host", "error"), [("other-engine", "CERTIFICATE_VERIFY_FAILED"), ("other-client", "ALERT_UNKNOWN_CA")]
)
def test_the_certificates_of_both_sides_are_checked(remote: DockerYard, host: str, error: str) -> None:
    agent_id = remote.spawn(host=host)
    shown = wait_for(lambda: remote.show(agent_id), {"status": "starting"}, lambda shown: shown["error"] is not None)
    assert error in shown["error"]
    assert agent_id not in remote.containers()
