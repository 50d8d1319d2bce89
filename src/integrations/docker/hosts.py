"""Configured Docker hosts: their addresses, and the settings that all containers share."""

from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from domain.loopback import is_loopback
from integrations.container_ports import DockerHost, DockerRejected

DEFAULT_NETWORK = "testhide-agents"
HOST_NETWORK = "host"
"""Name that Docker gives to the network of the host itself. A container in it reaches programs that listen on the
host's loopback address.
"""
CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")
"""Names of the certificate files of a host with TLS: the authority that signed the host's certificate, and the
certificate and the key of this server.
"""


class DockerSetup(msgspec.Struct, frozen=True):
    """The configured Docker hosts, and the settings that containers on all of them share."""

    hosts: Mapping[str, str]
    """Name of a host -> URL of its Docker engine."""
    installation: str
    """Id of this server, in a label of its containers."""
    server_url: str
    """URL at which the containers reach this server."""
    certificates: str = ""
    """Folder with a subfolder for each host with TLS. The subfolder has the host's name, and contains CERTIFICATES."""
    network: str = DEFAULT_NETWORK
    """Name of the network of the containers."""

    def url_of(self, name: str) -> str:
        """Returns the URL of a host. Raises DockerRejected if no such host is configured."""
        if name not in self.hosts:
            raise DockerRejected(f"Docker host {name} is not configured any more (TESTHIDE_DOCKER_HOSTS)")
        return self.hosts[name]

    def certificates_of(self, name: str) -> Path:
        return Path(self.certificates, name)


class ConfiguredDockerHosts:
    """Implements `DockerHosts`. Loads the client library when the first host is opened."""

    def __init__(self, setup: DockerSetup) -> None:
        self._setup = setup
        self._opened: dict[str, DockerHost] = {}

    @property
    def names(self) -> Collection[str]:
        return self._setup.hosts.keys()

    def open(self, name: str) -> DockerHost:
        self._setup.url_of(name)
        if name not in self._opened:
            from integrations.docker.engine import DockerEngine

            self._opened[name] = DockerEngine(self._setup, name)
        return self._opened[name]


def find_server_problem(server_url: str, network: str) -> str:
    """Returns why containers in this network cannot reach the server at this URL, as a sentence without its full stop.
    Returns an empty string if the URL may work.
    """
    host = urlsplit(server_url).hostname or ""
    if network == HOST_NETWORK or not is_loopback(host):
        return ""
    return (
        f"containers cannot reach this server at {server_url}, since {host} is the container itself there: set"
        " TESTHIDE_DOCKER_SERVER_URL to a URL that they reach, and let the server listen there"
    )


def parse_hosts(text: str, certificates: str) -> dict[str, str]:
    """Returns name -> URL from the setting: `NAME=URL,…`. Raises ValueError, whose message completes a sentence that
    begins with the name of the setting.
    """
    hosts: dict[str, str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, _, url = item.partition("=")
        if not name or not name.replace("-", "").replace(".", "").replace("_", "").isalnum() or name in hosts:
            raise ValueError(f"must be NAME=URL, separated by commas, each name once, not {item!r}")
        parts = urlsplit(url)
        is_local = parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc
        is_tcp = parts.scheme == "tcp" and bool(parts.hostname and parts.port)
        if not is_local and not is_tcp and not (parts.scheme == "ssh" and parts.hostname):
            raise ValueError(
                f"must have URLs like unix:///run/docker.sock, tcp://HOST:2376 or ssh://USER@HOST, not {item!r}"
            )
        if is_tcp and (missing := [file for file in CERTIFICATES if not _exists(certificates, name, file)]):
            raise ValueError(
                f"has the host {name} at tcp://, which needs TLS: {', '.join(missing)} must be in the folder {name} of"
                " TESTHIDE_DOCKER_CERTIFICATES"
            )
        hosts[name] = url
    return hosts


def _exists(folder: str, *parts: str) -> bool:
    return bool(folder) and Path(folder, *parts).is_file()
