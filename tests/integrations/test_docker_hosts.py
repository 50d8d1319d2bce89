"""The setting of Docker hosts."""

from pathlib import Path

import pytest

from integrations.container_ports import DockerRejected, NewContainer
from integrations.docker.hosts import CERTIFICATES, ConfiguredDockerHosts, DockerSetup, find_server_problem, parse_hosts


def test_hosts_have_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for file in CERTIFICATES:
        (tmp_path / "b" / file).touch()
    text = "a=unix:///run/docker.sock, b=tcp://10.0.0.5:2376, c-1.d=ssh://ci@build-host"
    hosts = {"a": "unix:///run/docker.sock", "b": "tcp://10.0.0.5:2376", "c-1.d": "ssh://ci@build-host"}
    assert parse_hosts(text, str(tmp_path)) == hosts
    assert parse_hosts("", "") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unix:///run/docker.sock", "NAME=URL"),
        ("a=unix:///x,a=unix:///y", "each name once"),
        ("../a=unix:///x", "NAME=URL"),
        ("a=unix://x", "URLs like"),
        ("a=http://127.0.0.1:2375", "URLs like"),
        ("a=tcp://10.0.0.5", "URLs like"),
        ("a=tcp://10.0.0.5:2375", "needs TLS: ca.pem, cert.pem, key.pem"),
    ],
)
def test_other_hosts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|has)") as refused:
        parse_hosts(text, "")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("url", "network", "is_reached"),
    [
        ("http://127.0.0.1:8000", "testhide-agents", False),
        ("http://localhost:8000", "testhide-agents", False),
        ("http://[::1]:8000", "testhide-agents", False),
        ("http://172.29.77.1:8000", "testhide-agents", True),
        ("https://ci.example.com", "testhide-agents", True),
        ("http://127.0.0.1:8000", "host", True),
    ],
)
def test_the_server_must_be_reached_from_containers(url: str, network: str, is_reached: bool) -> None:
    assert bool(find_server_problem(url, network)) is not is_reached


async def test_no_container_is_created_that_cannot_reach_the_server() -> None:
    setup = DockerSetup({"a": "unix:///nonexistent/docker.sock"}, "i", "http://127.0.0.1:8000")
    with pytest.raises(DockerRejected, match="TESTHIDE_DOCKER_SERVER_URL"):
        await ConfiguredDockerHosts(setup).open("a").create(NewContainer("da-1", "i:1", None, None, {}))


def test_only_configured_hosts_are_opened() -> None:
    hosts = ConfiguredDockerHosts(DockerSetup({"a": "unix:///x"}, "i", "http://127.0.0.1"))
    with pytest.raises(DockerRejected, match="not configured"):
        hosts.open("b")
