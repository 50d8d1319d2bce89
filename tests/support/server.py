"""A whole server for tests: real engines, real processes, its own data folder."""

import asyncio
import contextlib
import dataclasses
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo

from api.http.request_context import MIN_POSITION
from domain.projects import Access
from domain.users import Role
from store.crypto.secrets import Secrets
from store.key_ring.ring import load_secrets
from testhide.engines import Engines
from testhide.preparation import create_first_admin, migrate
from testhide.settings import Settings, save_settings
from tests.support.connections import Connections
from tests.support.forked_process import ForkedProcess
from tests.support.http import Client
from tests.support.registrar import Registrar

ADMIN = ("admin@example.com", "correct horse battery")
READY_S = 60.0
NO_DOCKER = {"docker_hosts": "build-host-01=unix:///nonexistent/docker.sock", "docker_images": "testhide/agent:*"}
"""Settings of a Docker host that nobody can reach. Tests with a Docker engine replace them."""


@dataclass
class Server:
    url: str
    engines: Engines
    settings: Settings
    processes: dict[str, ForkedProcess] = field(default_factory=dict)
    logs: Path | None = None
    """Folder to which the processes log; None for the output of the tests."""
    _admin: Client | None = None
    _registrar: Registrar | None = None

    @property
    def admin(self) -> Client:
        if self._admin is None:
            self._admin = self.client(*ADMIN)
        return self._admin

    @property
    def secrets(self) -> Secrets:
        """The server's secrets, loaded anew at each use."""
        return asyncio.run(load_secrets(self.settings.database_url, self.settings.secret_key))

    def client(self, email: str = "", password: str = "") -> Client:
        return Client(self.url, email, password)

    def make_user(self, role: Role, access: dict[int, Access] | None = None) -> Client:
        """Creates a user with this role and these memberships. Returns a client that is signed in as this user."""
        if self._registrar is None:
            self._registrar = Registrar(self.settings)
        token, position = self._registrar.register(role, access or {})
        self._wait_until_shown(position)
        return self.client().authorize(token)

    def wait_until_projected(self) -> None:
        """Waits until the read models have reached the end of the log."""
        deadline = time.monotonic() + READY_S
        while not _answers(self.url):
            assert time.monotonic() < deadline, "the read models do not catch up"

    def _wait_until_shown(self, position: int) -> None:
        """Waits until the read models have reached this position. Takes a fifth of the time of `wait_until_projected`,
        which also inspects the server.
        """
        deadline = time.monotonic() + READY_S
        while "Testhide-Projected" in self.admin.when("GET", "/me", headers={MIN_POSITION: str(position)}).headers:
            assert time.monotonic() < deadline, "the read models do not catch up"

    def start(self, name: str) -> None:
        settings = Path(self.settings.data_dir, "settings.json")
        self.processes[name] = ForkedProcess([name], settings, self.logs and self.logs / name)
        self.processes[name].start()

    def close(self) -> None:
        if self._registrar is not None:
            self._registrar.close()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(10)


def make_database(engines: Engines) -> str:
    """Makes a migrated database by copying one, which takes a tenth of the time that its migrations take. Returns its
    connection string.
    """
    template, name = _make_template(engines.database_url), f"tests_{uuid4().hex}"
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
    return make_conninfo(engines.database_url, dbname=name)


@cache
def _make_template(database_url: str) -> str:
    """Makes the database that others are copies of, without keys. Returns its name."""
    name = "template_of_tests"
    conninfo = make_conninfo(database_url, dbname=name)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    migrate(Settings(database_url=conninfo, redis_url="", secret_key=b"s" * 32, data_dir=""))
    with psycopg.connect(conninfo) as connection:
        connection.execute("DELETE FROM root_key_wraps")
        connection.execute("DELETE FROM root_keys")  # so that each copy makes its own
    return name


def free_port() -> int:
    """Returns a free port below those that the kernel gives to connections: a connection could take such a port before
    a server listens on it.
    """
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running_server(
    engines: Engines, data: Path, *names: str, outgoing_allow: str = "", logs: Path | None = None, **more: str | bool
) -> Iterator[Server]:
    """Runs the named processes of a server on these engines, whose database is migrated."""
    port = free_port()
    settings = Settings(
        database_url=engines.database_url,
        redis_url=engines.redis_url,
        secret_key=b"s" * 32,
        data_dir=str(data),
        port=port,
        admin_email=ADMIN[0],
        admin_password=ADMIN[1],
        outgoing_allow=outgoing_allow,
        local_repositories=str(data / "repositories"),
        requests_per_token=0,  # tests send more requests than these limits allow
        session_idle_minutes=60,
        streams_per_user=0,
        **NO_DOCKER | more,  # type: ignore[arg-type]
    )
    save_settings(settings, data / "settings.json")
    server = Server(settings.public_url, engines, settings, logs=logs)
    try:
        for name in names:
            server.start(name)
        deadline = time.monotonic() + READY_S
        while not _answers(server.url):
            assert time.monotonic() < deadline, "the server does not start"
            assert all(process.is_alive() for process in server.processes.values()), "a process died at its start"
        yield server
    finally:
        for process in server.processes.values():
            process.terminate()
        for process in server.processes.values():
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        server.close()


def _answers(url: str) -> bool:
    try:
        return Connections(url).exchange("GET", "/api/v3/readyz", None, {}, timeout_s=5)[0].status == 200
    except ConnectionError:
        time.sleep(0.05)  # between two checks; the caller has the deadline
        return False


@contextlib.contextmanager
def server_on_new_database(
    engines: Engines, data: Path, *names: str, outgoing_allow: str = "", logs: Path | None = None, **more: str | bool
) -> Iterator[Server]:
    """Runs the named processes of a server on a new database with the first administrator."""
    engines_there = dataclasses.replace(engines, database_url=make_database(engines))
    with running_server(engines_there, data, *names, outgoing_allow=outgoing_allow, logs=logs, **more) as server:
        asyncio.run(create_first_admin(server.settings))
        server.wait_until_projected()
        yield server


@contextlib.contextmanager
def server_with_workers(engines: Engines, data: Path) -> Iterator[Server]:
    """Runs a server with workers on a new database. The workers may call addresses of this machine."""
    with server_on_new_database(engines, data, "serve", "project", "work", outgoing_allow="127.0.0.0/8") as server:
        yield server
