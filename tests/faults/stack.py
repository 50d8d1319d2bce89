"""Stack of real processes: engines, two of each of the server's processes, agents. Ended processes are started again.

A process that ends without a reason is noted with the last line of its log. Each connection between two processes goes
through a proxy; the suite connects to the engines directly.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo

from agent.bundle import build_zipapp
from testhide.engines import Postgres, Valkey
from testhide.engines.accounts import engine_account
from testhide.engines.folder import open_folder, read_record
from testhide.operator_errors import Fault
from testhide.preparation import create_first_admin, migrate
from testhide.settings import Settings, save_settings
from testhide.supervise.program import Program
from tests.faults.proxy import Address, Proxy
from tests.support.server import ADMIN, free_port

SERVERS = ("serve", "project", "dispatch", "work")
ENGINES = ("postgres", "valkey")
INSTANCES = 2
"""Processes of each of the server's kinds."""
POLL_INTERVAL_S = 0.05
RESTART_DELAY_S = 0.3
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
MAX_SHOWN_CHARACTERS = 300
NO_DATABASE = "testhide: The database cannot be reached."
"""End of the last line of a process that found no database when it started."""
AGENT_DISK_SIZE = "48m"
"""Size of each agent's working folder, if a disk can be mounted there."""
DATABASE_DISK_SIZE = "768m"
CUSTOM_CONF = "max_wal_size = 96MB\n"
"""PostgreSQL settings that suit the small disk."""
DATABASE = "database"
WRITE_BYTES = 1 << 20


@dataclass
class Unit:
    """A process that is kept running."""

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    is_ready: Callable[[], bool] = lambda: True
    """Whether the running process does its work already."""
    restart_at: float = 0.0
    """Time by the monotonic clock."""
    is_end_expected: bool = False
    """Whether a fault or the suite ends it."""
    is_held: bool = False
    """Whether it stays down until it is released."""

    @property
    def pids(self) -> list[int]:
        """Process ids: all of PostgreSQL; for an agent not its builds, which the next agent has to end."""
        if self.process is None:
            return []
        return [self.process.pid, *(list_children(self.process.pid) if self.name == "postgres" else [])]

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            send_signal(pid, number)


@dataclass
class Stack:
    folder: Path
    settings: Settings
    """Settings of the suite, with the database's direct address."""
    postgres: Postgres
    proxies: dict[str, Proxy] = field(default_factory=dict)
    """Proxies by name: `api`, `database of serve-0`, `redis of work-1`, `docker`, `vcenter`."""
    units: dict[str, Unit] = field(default_factory=dict)
    unexpected_ends: list[str] = field(default_factory=list)
    """Processes that ended without a reason: name, exit code, last line of the log."""
    disks: dict[str, Path] = field(default_factory=dict)
    """Folders with a disk mounted there, by the name of the agent, or `database`."""
    _fillers: set[Path] = field(default_factory=set)
    """Files that fill disks now."""
    _may_end: set[str] = field(default_factory=set)
    """Engines whose disk was full in this round: they may end by themselves."""
    _keeper_task: asyncio.Task[None] | None = None

    def list_names(self, kind: str) -> list[str]:
        return [name for name in self.units if name.partition("-")[0] == kind]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, hold: bool = False) -> None:
        unit = self.units[name]
        unit.is_held = hold
        if unit.process is not None and unit.process.poll() is None:
            unit.is_end_expected = True
            unit.signal(number)

    def terminate(self, name: str) -> None:
        self.kill(name, signal.SIGTERM)

    @staticmethod
    def pause(pids: Sequence[int]) -> None:
        for pid in pids:
            send_signal(pid, signal.SIGSTOP)

    @staticmethod
    def resume(pids: Sequence[int]) -> None:
        for pid in pids:
            send_signal(pid, signal.SIGCONT)

    def release_held(self) -> None:
        """Lets processes that were held down start again."""
        for unit in self.units.values():
            unit.is_held = False

    def fill_disk(self, name: str) -> None:
        filler = self.disks[name] / "filler"
        self._fillers.add(filler)
        if name == DATABASE:
            self._may_end |= set(ENGINES)
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(WRITE_BYTES)) == WRITE_BYTES:
                continue

    def fill_wal(self) -> None:
        """Writes to PostgreSQL until it has no room for its write-ahead log and ends."""
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self.settings.database_url, autocommit=True, connect_timeout=2) as connection,
        ):
            while self._fillers:
                connection.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', %s))", (WRITE_BYTES,))

    def empty_disks(self) -> None:
        for filler in self._fillers:
            filler.unlink(missing_ok=True)
        self._fillers.clear()

    async def wait_until_running(self) -> None:
        """Waits until every process runs and PostgreSQL accepts connections. Raises AssertionError after a minute."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while down := [unit for unit in self.units.values() if not self._is_running(unit)]:
            details = self.unexpected_ends, {unit.name: read_last_line(unit.log) for unit in down}
            assert time.monotonic() < deadline, f"processes do not start again: {details}"
            await asyncio.sleep(POLL_INTERVAL_S)
        self._may_end.clear()

    async def add_proxy(
        self, name: str, addresses: Sequence[Address], rng: random.Random, listen: str | Path = "127.0.0.1"
    ) -> int:
        """Starts a proxy and returns its port."""
        proxy = self.proxies[name] = Proxy(addresses, rng)
        await proxy.start(listen)
        return proxy.port

    @property
    def url(self) -> str:
        """Address of the API for clients: that of its proxy."""
        return self.settings.base_url

    def add_process(self, name: str, argv: Sequence[str], **env: str) -> None:
        """Adds a process, which the keeper starts."""
        log = self.folder / "logs" / f"{name}.log"

        def start() -> "subprocess.Popen[bytes]":
            with log.open("ab") as output:
                return subprocess.Popen(
                    argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )

        self.units[name] = Unit(name, start, log)

    def add_agent(self, name: str, token: str) -> None:
        workdir = self.folder / "agents" / name
        workdir.mkdir(parents=True)
        if mount_disk(workdir, f"size={AGENT_DISK_SIZE},mode=711"):
            self.disks[name] = workdir
        token_file = self.folder / f"{name}.token"
        token_file.write_text(token)
        token_file.chmod(0o600)
        program = [sys.executable, "-I", str(self.folder / "agent.pyz"), "--server", self.url, "--trust-builds"]
        self.add_process(name, [*program, "--token-file", str(token_file), "--workdir", str(workdir)])

    def start_keeper(self) -> None:
        self._keeper_task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Stops the agents first and the engines last, then the proxies, and unmounts the disks."""
        if self._keeper_task is not None:
            self._keeper_task.cancel()
            await asyncio.gather(self._keeper_task, return_exceptions=True)
        waves = [self.list_names("agent"), [name for kind in SERVERS for name in self.list_names(kind)], ENGINES]
        for wave in waves:
            running = [self.units[name] for name in wave if name in self.units]
            for unit in running:
                unit.signal(signal.SIGCONT)
                if unit.process is not None:
                    send_signal(unit.process.pid, signal.SIGINT if unit.name == "postgres" else signal.SIGTERM)
            for unit in running:
                await asyncio.to_thread(_wait_for_end, unit)
        for unit in self.units.values():
            unit.signal(signal.SIGCONT)  # those of machines on demand, whose owner ends them
        for proxy in self.proxies.values():
            await proxy.close()
        for disk in self.disks.values():
            subprocess.run(["umount", "-l", str(disk)], check=False)

    def list_build_processes(self) -> list[str]:
        """Returns id and command line of the running processes that builds have started."""
        mark = b"TESTHIDE_WORKSPACE=" + os.fsencode(self.folder)
        return [
            f"{pid}: {command[:MAX_SHOWN_CHARACTERS]}"
            for pid, command, environ in iterate_processes()
            if mark in environ
        ]

    async def _keep_running(self) -> None:
        """Starts ended processes again until cancelled."""
        while True:
            for unit in list(self.units.values()):
                await self._restart_if_ended(unit)
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _restart_if_ended(self, unit: Unit) -> None:
        if unit.process is not None and (code := unit.process.poll()) is not None:
            line = read_last_line(unit.log)
            # A process that finds no database at its start ends and has to be started again.
            if not unit.is_end_expected and unit.name not in self._may_end and not line.endswith(NO_DATABASE):
                self.unexpected_ends.append(f"{unit.name} ended with {code}: {line}")
            unit.process, unit.is_end_expected = None, False
            unit.restart_at = time.monotonic() + RESTART_DELAY_S
        if unit.process is None and not unit.is_held and time.monotonic() >= unit.restart_at:
            try:
                unit.process = await asyncio.to_thread(unit.start)
            except (OSError, Fault) as error:
                if unit.name not in self._may_end:
                    self.unexpected_ends.append(f"{unit.name} cannot be started: {error}")
                unit.restart_at = time.monotonic() + RESTART_DELAY_S

    def _is_running(self, unit: Unit) -> bool:
        if unit.process is None or unit.process.poll() is not None:
            return False
        return unit.is_ready() and (unit.name != "postgres" or self.postgres.ready(unit.process.pid))


def list_children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def send_signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def iterate_processes() -> Iterator[tuple[int, str, bytes]]:
    """Yields id, command line and environment of the processes that this user may inspect."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(entry), command, Path(f"/proc/{entry}/environ").read_bytes()


def read_last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][-MAX_SHOWN_CHARACTERS:] if lines else ""


def mount_disk(folder: Path, options: str) -> bool:
    """Mounts a disk at the folder. Returns whether that worked: only root may do it, and not on every machine."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0


@contextlib.asynccontextmanager
async def running_stack(
    rng: random.Random, smtp_url: str, connect: Callable[[Stack, list[int]], Awaitable[None]]
) -> AsyncIterator[Stack]:
    """Starts engines and server processes, without agents. Stops and deletes everything at the end. `connect` is called
    before the server starts, with the ports of its API; it may change the settings.
    """
    folder = Path(tempfile.mkdtemp(prefix="testhide-faults-"))
    folder.chmod(0o711)  # as root the engines run under another account, which must enter the folder
    data = folder / "data"
    disks = _mount_database_disk(data / "engines")
    try:
        with open_folder(data) as opened:
            postgres, valkey = Postgres(opened), Valkey(opened)
            settings = Settings(
                database_url=postgres.url,
                redis_url=valkey.url,
                secret_key=b"s" * 32,
                data_dir=str(data),
                admin_email=ADMIN[0],
                admin_password=ADMIN[1],
                outgoing_allow="127.0.0.0/8",
                requests_per_token=0,  # what uses it hurries
                smtp_url=smtp_url,
                mail_from="testhide@example.com",
            )
            stack = Stack(folder, settings, postgres, disks=disks)
            try:
                await _start_all(stack, postgres, valkey, rng, connect)
                yield stack
            finally:
                await stack.stop()
    finally:
        record = read_record(data)
        for leftover in {folder, *([Path(record.home), Path(record.sockets)] if record else [])}:
            shutil.rmtree(leftover, ignore_errors=True)


def _mount_database_disk(home: Path) -> dict[str, Path]:
    """Mounts a small disk for the database. Returns no disk if that is not possible."""
    account = engine_account(home)
    home.mkdir(parents=True)
    size = f"size={DATABASE_DISK_SIZE},mode=700"
    if account is not None and mount_disk(home, f"{size},uid={account.uid},gid={account.gid}"):
        return {DATABASE: home}
    home.rmdir()
    return {}


async def _start_all(
    stack: Stack,
    postgres: Postgres,
    valkey: Valkey,
    rng: random.Random,
    connect: Callable[[Stack, list[int]], Awaitable[None]],
) -> None:
    ports = [free_port() for _ in range(INSTANCES)]
    url = f"http://127.0.0.1:{await stack.add_proxy('api', ports, rng)}"
    stack.settings = msgspec.structs.replace(stack.settings, base_url=url)
    await connect(stack, ports)
    save_settings(stack.settings, stack.folder / "settings.json")
    (stack.folder / "logs").mkdir()
    for engine in (postgres, valkey):
        program = engine.program()
        log = stack.folder / "logs" / f"{engine.name}.log"

        def start(program: Program = program, log: Path = log) -> "subprocess.Popen[bytes]":
            program.prepare()
            with log.open("ab") as output:
                return program.start(stdout=output, stderr=output)

        stack.units[engine.name] = Unit(engine.name, start, log)
    (postgres.cluster / "custom.conf").write_text(CUSTOM_CONF)
    stack.start_keeper()
    await stack.wait_until_running()
    await asyncio.to_thread(migrate, stack.settings)
    await create_first_admin(stack.settings)
    (stack.folder / "agent.pyz").write_bytes(build_zipapp())
    for kind in SERVERS:
        for number in range(INSTANCES):
            name = f"{kind}-{number}"
            to_database = await stack.add_proxy(f"database of {name}", [postgres.socket], rng)
            to_redis = await stack.add_proxy(f"redis of {name}", [valkey.socket], rng)
            settings = msgspec.structs.replace(
                stack.settings,
                port=ports[number],
                database_url=make_conninfo(postgres.url, host="127.0.0.1", port=to_database),
                redis_url=f"redis://:{valkey.folder.record.valkey_password}@127.0.0.1:{to_redis}/0",
            )
            file = stack.folder / f"settings-{name}.json"
            save_settings(settings, file)
            stack.add_process(name, [sys.executable, "-P", "-m", "testhide", kind], TESTHIDE_SETTINGS=str(file))
    await stack.wait_until_running()


def _wait_for_end(unit: Unit) -> None:
    if unit.process is None:
        return
    try:
        unit.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        unit.signal(signal.SIGKILL)
        unit.process.wait()
