"""A Docker engine of the tests' own: `dockerd` with folders, a socket and a bridge network of its own."""

import fcntl
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from tests.real.docker.agent_image import BUNDLE, build_image
from tests.real.vcenter.simulated import make_certificates
from tests.support.server import free_port

HOST, IMAGE = "build-host-01", "testhide/agent:3.14"
"""Names that the API reference uses in its examples."""
NETWORK = "testhide-tests"
READY_S = 60.0
LOCK = Path(tempfile.gettempdir()) / "testhide-tests-dockerd.lock"


@contextmanager
def changing_chains() -> Iterator[None]:
    """Lets one engine after the other change the chains of iptables, which all engines of a machine share. An engine
    that starts removes those of the others and makes them again; meanwhile no other can make or remove a network.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass
class Daemon:
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=free_port)
    """Port on loopback for clients with a certificate (`certificates`)."""
    _client: Any = field(default=None)

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    @property
    def certificates(self) -> Path:
        """Folder with the certificates and keys of the engine, which are its clients', too."""
        return self.folder / "certificates"

    @property
    def client(self) -> Any:
        """Client of the engine, for what tests look at."""
        if self._client is None:
            self._client = docker.APIClient(self.url, version="auto", timeout=60)
        return self._client

    def start(self) -> None:
        if not self.certificates.exists():
            self.certificates.mkdir()
            make_certificates(self.certificates)
        with changing_chains():
            self.process = self.launch()
            deadline = time.monotonic() + READY_S
            while not self.is_ready():
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2_000:]
                assert time.monotonic() < deadline, "the Docker engine does not start"
                time.sleep(0.05)  # between two looks; the deadline is above

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts `dockerd` without waiting until it is ready. One that ran before must have ended."""
        (self.folder / "docker.pid").unlink(missing_ok=True)
        options = {"data-root": "data", "exec-root": "exec", "pidfile": "docker.pid"}
        folders = [f"--{option}={self.folder / name}" for option, name in options.items()]
        files = {"tlscacert": "ca.pem", "tlscert": "cert.pem", "tlskey": "key.pem"}
        tls = [f"--{option}={self.certificates / file}" for option, file in files.items()]
        hosts = [f"--host={self.url}", f"--host=tcp://127.0.0.1:{self.port}", "--tlsverify", *tls]
        command = ["dockerd", *folders, *hosts, "--bridge=none", "--shutdown-timeout=5"]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def is_ready(self) -> bool:
        # Without the client, which leaves sockets open when it cannot connect.
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(f"{self.folder}/docker.sock")
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b"200 OK" in connection.recv(1_000)
        except OSError:
            return False

    def make_network(self) -> str:
        """Makes the network of the agents, and returns the address of this machine in it."""
        options = {"com.docker.network.bridge.enable_icc": "false"}
        with changing_chains():
            self.client.create_network(NETWORK, driver="bridge", options=options)
        gateway: str = self.client.inspect_network(NETWORK)["IPAM"]["Config"][0]["Gateway"]
        return gateway

    def import_image(self) -> None:
        entrypoint = f'ENTRYPOINT ["/usr/local/bin/python3", "-I", "/{BUNDLE}"]'
        changes = [entrypoint, "ENV PATH=/usr/local/bin:/usr/bin:/bin", "ENV LANG=C.UTF-8"]
        self.client.import_image_from_data(build_image(), repository="testhide/agent", tag="3.14", changes=changes)

    def build_image(self, base: bytes, folder: Path, dockerfile: str, tag: str) -> str:
        """Builds an image from a folder, on top of the files of a base, without a network. Returns what it printed."""
        self.client.import_image_from_data(base, repository="testhide/base", tag="test")
        options = {"dockerfile": dockerfile, "buildargs": {"BASE": "testhide/base:test"}, "network_mode": "none"}
        messages = list(self.client.build(path=str(folder), tag=tag, decode=True, rm=True, **options))
        printed = "".join(message.get("stream", message.get("error", "")) for message in messages)
        assert "error" not in messages[-1], printed
        return printed

    def stop(self) -> None:
        """Ends the engine, and with it all its containers."""
        self.disconnect()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def remove(self) -> None:
        for container in self.client.containers(all=True):
            self.client.remove_container(container["Id"], v=True, force=True)
        with changing_chains():
            for network in self.client.networks():
                if network["Name"] not in ("bridge", "host", "none"):
                    self.client.remove_network(network["Id"])
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
