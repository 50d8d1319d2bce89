"""A stack of real processes: engines, two of each of the server's processes, agents. Whatever ends is started again.

What ended without having been told to is remembered with its last words.
"""

import asyncio
import contextlib
import os
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

from agent.bundle import build_zipapp
from testhide.engines import Postgres, Valkey
from testhide.engines.folder import open_folder, read_record
from testhide.processes import create_first_admin, migrate
from testhide.program import Program
from testhide.settings import Settings, save_settings
from tests.conftest import ADMIN

SERVERS = ("serve", "project", "dispatch", "work")
OF_EACH = 2
LOOK_S = 0.05
AGAIN_S = 0.3
START_S = 60.0
STOP_S = 10.0
SHOWN = 300
NO_DATABASE = "testhide: The database cannot be reached."
"""Of what a process said last."""
DISK = "48m"
"""Of each agent's working folder, where it can be a disk of its own."""


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
    ports: Sequence[int]
    postgres: Postgres
    units: dict[str, Unit] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)
    """Processes that ended by themselves: name, how, last words."""
    disks: list[Path] = field(default_factory=list)
    """Working folders that are disks of their own."""
    _full: set[Path] = field(default_factory=set)
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

    def fill_disk(self, folder: Path) -> None:
        filler = folder / "filler"
        self._full.add(filler)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                continue

    def empty_disks(self) -> None:
        for filler in self._full:
            filler.unlink(missing_ok=True)
        self._full.clear()

    async def all_run(self) -> None:
        deadline = time.monotonic() + START_S
        while down := [unit for unit in self.units.values() if not self._runs(unit)]:
            said = {unit.name: last_words(unit.log) for unit in down}
            assert time.monotonic() < deadline, f"not everything starts again: {said}"
            await asyncio.sleep(LOOK_S)

    def begin(self, name: str, argv: Sequence[str], **env: str) -> None:
        log = self.folder / "logs" / f"{name}.log"

        def begin() -> "subprocess.Popen[bytes]":
            with log.open("ab") as output:
                return subprocess.Popen(
                    argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )

        self.units[name] = Unit(name, begin, log)

    def begin_agent(self, name: str, url: str, token: str) -> None:
        place = self.folder / "agents" / name
        place.mkdir(parents=True)
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=711", "tmpfs", str(place)]
            if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
                self.disks.append(place)
        token_file = self.folder / f"{name}.token"
        token_file.write_text(token)
        token_file.chmod(0o600)
        program = [sys.executable, "-I", str(self.folder / "agent.pyz"), "--server", url, "--trust-builds"]
        self.begin(name, [*program, "--token-file", str(token_file), "--workdir", str(place)])

    def keep(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Agents first, engines last."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        engines = ("postgres", "valkey")
        waves = [self.names("agent"), [name for kind in SERVERS for name in self.names(kind)], engines]
        for wave in waves:
            running = [self.units[name] for name in wave if name in self.units]
            for unit in running:
                unit.signal(signal.SIGCONT)
                if unit.process is not None:
                    send(unit.process.pid, signal.SIGINT if unit.name == "postgres" else signal.SIGTERM)
            for unit in running:
                await asyncio.to_thread(_end, unit)

    def builds_at_work(self) -> list[str]:
        """Processes that builds have started and that are still there."""
        mark = b"TESTHIDE_WORKSPACE=" + os.fsencode(self.folder)
        return [f"{pid}: {words[:SHOWN]}" for pid, words, environ in processes() if mark in environ]

    async def _keep(self) -> None:
        """For ever."""
        while True:
            for unit in self.units.values():
                await self._look_after(unit)
            await asyncio.sleep(LOOK_S)

    async def _look_after(self, unit: Unit) -> None:
        if unit.process is not None and (code := unit.process.poll()) is not None:
            words = last_words(unit.log)
            # Who finds no database when it starts says so and leaves the rest to its keeper.
            if not unit.expected and not words.endswith(NO_DATABASE):
                self.unasked.append(f"{unit.name} ended with {code}: {words}")
            unit.process, unit.expected, unit.due = None, False, time.monotonic() + AGAIN_S
        if unit.process is None and not unit.held and time.monotonic() >= unit.due:
            unit.process = await asyncio.to_thread(unit.begin)

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


@contextlib.asynccontextmanager
async def running_stack(ports: Sequence[int], url: str) -> AsyncIterator[Stack]:
    """Engines and server processes, one `serve` on each port; `url` is where clients find them. No agents yet."""
    folder = Path(tempfile.mkdtemp(prefix="testhide-faults-"))
    folder.chmod(0o711)  # the engines' account has to get through
    data = folder / "data"
    try:
        with open_folder(data) as opened:
            postgres, valkey = Postgres(opened), Valkey(opened)
            settings = Settings(
                database_url=postgres.url,
                redis_url=valkey.url,
                secret_key=b"s" * 32,
                data_dir=str(data),
                base_url=url,
                admin_email=ADMIN[0],
                admin_password=ADMIN[1],
                outgoing_allow="127.0.0.0/8",
            )
            stack = Stack(folder, settings, ports, postgres)
            try:
                await _begin(stack, postgres, valkey)
                yield stack
            finally:
                await stack.stop()
                for disk in stack.disks:
                    subprocess.run(["umount", "-l", str(disk)], check=False)
    finally:
        record = read_record(data)
        for place in {folder, *([Path(record.home), Path(record.sockets)] if record else [])}:
            shutil.rmtree(place, ignore_errors=True)


async def _begin(stack: Stack, postgres: Postgres, valkey: Valkey) -> None:
    (stack.folder / "logs").mkdir()
    for engine in (postgres, valkey):
        program = engine.program()
        log = stack.folder / "logs" / f"{engine.name}.log"

        def begin(program: Program = program, log: Path = log) -> "subprocess.Popen[bytes]":
            program.prepare()
            with log.open("ab") as output:
                return program.start(stdout=output, stderr=output)

        stack.units[engine.name] = Unit(engine.name, begin, log)
    stack.keep()
    await stack.all_run()
    await asyncio.to_thread(migrate, stack.settings)
    await create_first_admin(stack.settings)
    (stack.folder / "agent.pyz").write_bytes(build_zipapp())
    for kind in SERVERS:
        for number in range(OF_EACH):
            file = stack.folder / f"settings-{kind}-{number}.json"
            save_settings(msgspec.structs.replace(stack.settings, port=stack.ports[number]), file)
            stack.begin(f"{kind}-{number}", [sys.executable, "-P", "-m", "testhide", kind], TESTHIDE_SETTINGS=str(file))
    await stack.all_run()


def _end(unit: Unit) -> None:
    if unit.process is None:
        return
    try:
        unit.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        unit.signal(signal.SIGKILL)
        unit.process.wait()
