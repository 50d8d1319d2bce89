"""A whole server for tests: real engines, real processes, its own data folder; one for each worker of the test run."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urljoin

import psycopg
import pytest
import requests
from psycopg.conninfo import make_conninfo

from commands.handler import CommandContext, Handler
from commands.members import AdmitMember
from commands.users import register_user
from domain.projects import Access
from domain.users import Role
from store.clock import utcnow
from testhide.engines import Engines, temporary_engines
from testhide.processes import Core, core, migrate
from testhide.settings import Settings, save_settings

ADMIN = ("admin@example.com", "correct horse battery")
READY_S = 30.0
DISCONNECT_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
WIPE = """
    CREATE FUNCTION pg_temp.wipe(kept text[]) RETURNS void LANGUAGE plpgsql AS $body$
    DECLARE
        place text;
        thing text;
    BEGIN
        FOR place, thing IN
            SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'beside', 'previous')
        LOOP
            EXECUTE format(
                CASE WHEN place || '.' || thing = ANY (kept) THEN 'DELETE FROM %I.%I' ELSE 'DROP TABLE %I.%I' END,
                place, thing
            );
        END LOOP;
        PERFORM setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences WHERE schemaname = 'public';
    END
    $body$
"""
"""Emptying tables takes milliseconds, making a database half a second."""


class Client(requests.Session):
    """A `requests` session that knows the server's address and, signed in, who it is."""

    def __init__(self, url: str, email: str = "", password: str = "") -> None:
        super().__init__()
        self.url = url
        if email:
            answer = self.post("/api/v3/authenticate", json={"username": email, "password": password})
            assert answer.status_code == 200, answer.text
            self.headers["Authorization"] = f"Bearer {answer.json()['token']}"

    def request(self, method: str | bytes, url: str | bytes, *args: object, **kwargs: object) -> requests.Response:
        kwargs.setdefault("timeout", 30)
        return super().request(method, urljoin(self.url, str(url)), *args, **kwargs)  # type: ignore[arg-type]


@dataclass
class Server:
    url: str
    engines: Engines
    settings: Settings
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _users: Iterator[int] = field(default_factory=count)
    _admin: Client | None = None

    @property
    def admin(self) -> Client:
        if self._admin is None:
            self._admin = self.client(*ADMIN)
        return self._admin

    def client(self, email: str = "", password: str = "") -> Client:
        return Client(self.url, email, password)

    def make_user(self, role: Role, access: dict[int, Access] | None = None) -> Client:
        """A new user with this role and these memberships, signed in."""
        email, password = f"user{next(self._users)}-{os.getpid()}@example.com", "a password of theirs"

        async def make() -> None:
            async with core(self.settings, pool_size=1) as parts:
                handler, caller = Handler(parts.log, utcnow), CommandContext("system:tests")
                user_id = await register_user(
                    handler, parts.ids, parts.secrets, caller, email=email, password=password, role=role
                )
                for project_id, level in (access or {}).items():
                    await handler.execute(AdmitMember(project_id, user_id, level), caller)

        asyncio.run(make())
        self.settle()
        return self.client(email, password)

    def settle(self) -> None:
        """Returns once the read models are at the log's end."""
        deadline = time.monotonic() + READY_S
        while requests.get(f"{self.url}/api/v3/readyz", timeout=5).status_code != 200:
            assert time.monotonic() < deadline, "the read models do not catch up"

    def start(self, name: str) -> None:
        environ = {**os.environ, "TESTHIDE_SETTINGS": str(Path(self.settings.data_dir, "settings.json"))}
        self.processes[name] = subprocess.Popen([sys.executable, "-P", "-m", "testhide", name], env=environ)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(10)


def free_port() -> int:
    """Below those that the kernel gives to connections: one of these may take it before it is listened on."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running_server(engines: Engines, data: Path, *names: str, outgoing_allow: str = "") -> Iterator[Server]:
    """The named processes of a server on these engines."""
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
    )
    save_settings(settings, data / "settings.json")
    migrate(settings)
    server = Server(settings.public_url, engines, settings)
    try:
        for name in names:
            server.start(name)
        deadline = time.monotonic() + READY_S
        while not _answers(server.url):
            assert time.monotonic() < deadline, "the server does not start"
            assert all(process.poll() is None for process in server.processes.values()), "a process died at its start"
        yield server
    finally:
        for process in server.processes.values():
            process.terminate()
        for process in server.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/v3/readyz", timeout=5).status_code == 200
    except requests.ConnectionError:
        time.sleep(0.05)  # between two looks; the deadline is the caller's
        return False


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    with temporary_engines() as started:
        yield started


@pytest.fixture(scope="session")
def _reused_database(engines: Engines) -> tuple[str, list[str]]:
    """A migrated database and the names of its tables."""
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE tests")
    conninfo = make_conninfo(engines.database_url, dbname="tests")
    migrate(_settings(conninfo))
    with psycopg.connect(conninfo) as connection:
        names = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('public', 'beside', 'previous')"
        ).fetchall()
    return conninfo, [name for (name,) in names]


@pytest.fixture
def database(_reused_database: tuple[str, list[str]]) -> Iterator[str]:
    """The connection string of a migrated database in which nothing has happened yet."""
    conninfo, tables = _reused_database
    yield conninfo
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(DISCONNECT_OTHERS)
        connection.execute(WIPE)
        connection.execute("SELECT pg_temp.wipe(%s)", (tables,))


@pytest.fixture
async def parts(database: str) -> AsyncIterator[Core]:
    """What every process of the server has, on a database of its own."""
    async with core(_settings(database)) as made:
        yield made


def _settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, redis_url="", secret_key=b"s" * 32, data_dir="")


@pytest.fixture(scope="session")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from testhide.processes import create_first_admin

    with running_server(engines, tmp_path_factory.mktemp("data"), "serve", "project", "dispatch") as started:
        asyncio.run(create_first_admin(started.settings))
        started.settle()
        yield started
