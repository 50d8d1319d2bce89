"""A stack of real processes: engines, two of each of the server's processes, agents. Whatever ends is started again.

What ended without having been told to is remembered with its last words. Every way between two processes leads through
a proxy of its own; the suite itself asks the engines directly.
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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
from tests.faults.proxy import End, Proxy
from tests.support.server import ADMIN, free_port

SERVERS = ("serve", "project", "dispatch", "work")
ENGINES = ("postgres", "valkey")
OF_EACH = 2
LOOK_S = 0.05
AGAIN_S = 0.3
START_S = 60.0
STOP_S = 10.0
SHOWN = 300
NO_DATABASE = "testhide: The database cannot be reached."
"""Of what a process said last."""
DISK_OF_AGENT = "48m"
"""Of each agent's working folder, where it can be a disk of its own."""
DISK_OF_DATABASE = "768m"
CUSTOM_CONF = "max_wal_size = 96MB\n"
"""Of the database on a small disk."""
DATABASE = "database"
PIECE = 1 << 20


@dataclass
class Unit:
    """One process that is kept running."""

    name: str
    begin: Callable[[], "subprocess.Popen[bytes]"]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    due: float = 0.0
    expected: bool = False
    """Its end was asked for."""
    held: bool = False
    """Stays down until it is released."""

    @property
    def pids(self) -> list[int]:
        """An engine is all of its processes; what an agent leaves behind is its successor's matter."""
        if self.process is None:
            return []
        return [self.process.pid, *(children(self.process.pid) if self.name == "postgres" else [])]

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            send(pid, number)


@dataclass
class Stack:
    folder: Path
    settings: Settings
    """The database is asked directly, too."""
    postgres: Postgres
    ways: dict[str, Proxy] = field(default_factory=dict)
    """`api`, `database of serve-0`, `redis of work-1`."""
    units: dict[str, Unit] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)
    """Processes that ended by themselves: name, how, last words."""
    disks: dict[str, Path] = field(default_factory=dict)
    """Folders that are disks of their own: of agents by their names, and `database`."""
    _full: set[Path] = field(default_factory=set)
    _may_end: set[str] = field(default_factory=set)
    """Engines that have, or had in this round, no room on their disk."""
    _keeper: asyncio.Task[None] | None = None

    def names(self, kind: str) -> list[str]:
        return [name for name in self.units if name.partition("-")[0] == kind]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, hold: bool = False) -> None:
        unit = self.units[name]
        unit.held = hold
        if unit.process is not None and unit.process.poll() is None:
            unit.expected = True
            unit.signal(number)

    def end(self, name: str) -> None:
        self.kill(name, signal.SIGTERM)

    @staticmethod
    def pause(pids: Sequence[int]) -> None:
        for pid in pids:
            send(pid, signal.SIGSTOP)

    @staticmethod
    def resume(pids: Sequence[int]) -> None:
        for pid in pids:
            send(pid, signal.SIGCONT)

    def release(self) -> None:
        """What was to stay down starts again."""
        for unit in self.units.values():
            unit.held = False

    def fill_disk(self, name: str) -> None:
        filler = self.disks[name] / "filler"
        self._full.add(filler)
        if name == DATABASE:
            self._may_end |= set(ENGINES)
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(PIECE)) == PIECE:
                continue

    def use_up_log(self) -> None:
        """Other work writes until PostgreSQL has no room for its log, which ends it."""
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self.settings.database_url, autocommit=True, connect_timeout=2) as connection,
        ):
            while self._full:
                connection.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', %s))", (PIECE,))

    def empty_disks(self) -> None:
        for filler in self._full:
            filler.unlink(missing_ok=True)
        self._full.clear()

    async def all_run(self) -> None:
        deadline = time.monotonic() + START_S
        while down := [unit for unit in self.units.values() if not self._runs(unit)]:
            said = self.unasked, {unit.name: last_words(unit.log) for unit in down}
            assert time.monotonic() < deadline, f"not everything starts again: {said}"
            await asyncio.sleep(LOOK_S)
        self._may_end.clear()

    async def lead_way(self, name: str, ends: Sequence[End], rng: random.Random) -> int:
        """The port at which it begins."""
        proxy = self.ways[name] = Proxy(ends, rng)
        await proxy.start()
        return proxy.port

    @property
    def url(self) -> str:
        """Where clients find the API."""
        return self.settings.base_url

    def begin(self, name: str, argv: Sequence[str], **env: str) -> None:
        log = self.folder / "logs" / f"{name}.log"

        def begin() -> "subprocess.Popen[bytes]":
            with log.open("ab") as output:
                return subprocess.Popen(
                    argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )

        self.units[name] = Unit(name, begin, log)

    def begin_agent(self, name: str, token: str) -> None:
        place = self.folder / "agents" / name
        place.mkdir(parents=True)
        if mounted(place, f"size={DISK_OF_AGENT},mode=711"):
            self.disks[name] = place
        token_file = self.folder / f"{name}.token"
        token_file.write_text(token)
        token_file.chmod(0o600)
        program = [sys.executable, "-I", str(self.folder / "agent.pyz"), "--server", self.url, "--trust-builds"]
        self.begin(name, [*program, "--token-file", str(token_file), "--workdir", str(place)])

    def keep(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Agents first, engines last."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        waves = [self.names("agent"), [name for kind in SERVERS for name in self.names(kind)], ENGINES]
        for wave in waves:
            running = [self.units[name] for name in wave if name in self.units]
            for unit in running:
                unit.signal(signal.SIGCONT)
                if unit.process is not None:
                    send(unit.process.pid, signal.SIGINT if unit.name == "postgres" else signal.SIGTERM)
            for unit in running:
                await asyncio.to_thread(_end, unit)
        for proxy in self.ways.values():
            await proxy.close()
        for disk in self.disks.values():
            subprocess.run(["umount", "-l", str(disk)], check=False)

    def builds_at_work(self) -> list[str]:
        """Processes that builds have started and that are still there."""
        mark = b"TESTHIDE_WORKSPACE=" + os.fsencode(self.folder)
        return [f"{pid}: {words[:SHOWN]}" for pid, words, environ in processes() if mark in environ]

    async def _keep(self) -> None:
        """For ever."""
        while True:
            for unit in list(self.units.values()):
                await self._look_after(unit)
            await asyncio.sleep(LOOK_S)

    async def _look_after(self, unit: Unit) -> None:
        if unit.process is not None and (code := unit.process.poll()) is not None:
            words = last_words(unit.log)
            # Who finds no database when it starts says so and leaves the rest to its keeper.
            if not unit.expected and unit.name not in self._may_end and not words.endswith(NO_DATABASE):
                self.unasked.append(f"{unit.name} ended with {code}: {words}")
            unit.process, unit.expected, unit.due = None, False, time.monotonic() + AGAIN_S
        if unit.process is None and not unit.held and time.monotonic() >= unit.due:
            try:
                unit.process = await asyncio.to_thread(unit.begin)
            except (OSError, Fault) as error:
                if unit.name not in self._may_end:
                    self.unasked.append(f"{unit.name} cannot be started: {error}")
                unit.due = time.monotonic() + AGAIN_S

    def _runs(self, unit: Unit) -> bool:
        if unit.process is None or unit.process.poll() is not None:
            return False
        return unit.name != "postgres" or self.postgres.ready(unit.process.pid)


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def processes() -> Iterator[tuple[int, str, bytes]]:
    """Id, command line and environment of what may be looked at."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(entry), words, Path(f"/proc/{entry}/environ").read_bytes()


def last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][-SHOWN:] if lines else ""


def mounted(place: Path, options: str) -> bool:
    """Whether the folder is a disk of its own now: only root may have that, and not everywhere."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0


@contextlib.asynccontextmanager
async def running_stack(rng: random.Random) -> AsyncIterator[Stack]:
    """Engines and server processes. No agents yet."""
    folder = Path(tempfile.mkdtemp(prefix="testhide-faults-"))
    folder.chmod(0o711)  # the engines' account has to get through
    data = folder / "data"
    disks = _disk_of_database(data / "engines")
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
            )
            stack = Stack(folder, settings, postgres, disks=disks)
            try:
                await _begin(stack, postgres, valkey, rng)
                yield stack
            finally:
                await stack.stop()
    finally:
        record = read_record(data)
        for place in {folder, *([Path(record.home), Path(record.sockets)] if record else [])}:
            shutil.rmtree(place, ignore_errors=True)


def _disk_of_database(home: Path) -> dict[str, Path]:
    """Where that is possible."""
    account = engine_account(home)
    home.mkdir(parents=True)
    size = f"size={DISK_OF_DATABASE},mode=700"
    if account is not None and mounted(home, f"{size},uid={account.uid},gid={account.gid}"):
        return {DATABASE: home}
    home.rmdir()
    return {}


async def _begin(stack: Stack, postgres: Postgres, valkey: Valkey, rng: random.Random) -> None:
    ports = [free_port() for _ in range(OF_EACH)]
    url = f"http://127.0.0.1:{await stack.lead_way('api', ports, rng)}"
    stack.settings = msgspec.structs.replace(stack.settings, base_url=url)
    save_settings(stack.settings, stack.folder / "settings.json")
    (stack.folder / "logs").mkdir()
    for engine in (postgres, valkey):
        program = engine.program()
        log = stack.folder / "logs" / f"{engine.name}.log"

        def begin(program: Program = program, log: Path = log) -> "subprocess.Popen[bytes]":
            program.prepare()
            with log.open("ab") as output:
                return program.start(stdout=output, stderr=output)

        stack.units[engine.name] = Unit(engine.name, begin, log)
    (postgres.cluster / "custom.conf").write_text(CUSTOM_CONF)
    stack.keep()
    await stack.all_run()
    await asyncio.to_thread(migrate, stack.settings)
    await create_first_admin(stack.settings)
    (stack.folder / "agent.pyz").write_bytes(build_zipapp())
    for kind in SERVERS:
        for number in range(OF_EACH):
            name = f"{kind}-{number}"
            to_database = await stack.lead_way(f"database of {name}", [postgres.socket], rng)
            to_redis = await stack.lead_way(f"redis of {name}", [valkey.socket], rng)
            own = msgspec.structs.replace(
                stack.settings,
                port=ports[number],
                database_url=make_conninfo(postgres.url, host="127.0.0.1", port=to_database),
                redis_url=f"redis://:{valkey.folder.record.valkey_password}@127.0.0.1:{to_redis}/0",
            )
            file = stack.folder / f"settings-{name}.json"
            save_settings(own, file)
            stack.begin(name, [sys.executable, "-P", "-m", "testhide", kind], TESTHIDE_SETTINGS=str(file))
    await stack.all_run()


def _end(unit: Unit) -> None:
    if unit.process is None:
        return
    try:
        unit.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        unit.signal(signal.SIGKILL)
        unit.process.wait()
