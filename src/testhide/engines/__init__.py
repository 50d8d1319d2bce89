"""Embedded PostgreSQL and Valkey: child processes on unix sockets (`with embedded_engines(folder) as engines`).

folder           the data folder: its lock, the home (the folder with the data of the engines), and the record about
                 the home
accounts         the account that the engines run as
postgres         PostgreSQL: cluster, settings, orphan processes, conversion of older clusters
valkey           Valkey: settings
binaries         finds the programs of the engines
client_programs  runs pg_dump and pg_restore
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testhide.engines.folder import CLUSTER, DataFolder, open_folder
from testhide.engines.postgres import Postgres
from testhide.engines.valkey import Valkey
from testhide.operator_errors import Fault
from testhide.supervise.child import reason_in
from testhide.supervise.program import Program, send
from testhide.supervise.watchdog import Watchdog

__all__ = ["Engines", "Postgres", "Valkey", "embedded_engines", "free_space_or_fault"]

START_TIMEOUT_S = 60.0
"""Seconds that an engine may take to become ready. After a kill, PostgreSQL must replay its write-ahead log first."""
FIRST_START_BYTES = 150 * 2**20
"""Bytes of free disk space that a first start needs, for a new cluster and its first write-ahead log."""
LATER_START_BYTES = 48 * 2**20
"""Bytes of free disk space that a later start needs, for three segments of the write-ahead log."""


@dataclass(frozen=True)
class Engines:
    database_url: str  # postgresql://…, for psycopg
    redis_url: str  # unix://…, for redis.asyncio.from_url
    pids: dict[str, int]


@contextlib.contextmanager
def embedded_engines(data: Path, *, restoring: bool = False) -> Iterator[Engines]:
    """Run PostgreSQL and Valkey on a data folder until the block ends. Yields their URLs and process ids as soon as
    both are ready. `restoring` allows a folder whose restore has not finished. Raises Fault if an engine does not start
    or the folder cannot be used.
    """
    with open_folder(data, restoring=restoring) as folder, contextlib.ExitStack() as stack:
        free_space_or_fault(folder)
        watchdog = Watchdog()
        stack.callback(watchdog.close)
        postgres, valkey = Postgres(folder), Valkey(folder)
        running: list[tuple[str, int]] = []
        pids = {}
        for engine, signal_name in ((postgres, "INT"), (valkey, "TERM")):
            pids[engine.name] = stack.enter_context(_running(engine, engine.program()))
            running.append((signal_name, pids[engine.name]))
            watchdog.watch(running)
        yield Engines(postgres.url, valkey.url, pids)


def free_space_or_fault(folder: DataFolder) -> None:
    needed = LATER_START_BYTES if (folder.home / CLUSTER).exists() else FIRST_START_BYTES
    free = shutil.disk_usage(folder.home).free
    if free < needed:
        raise Fault(f"{folder.home} has {free >> 20} MB free, and a start needs {needed >> 20} MB: make room first.")


@contextlib.contextmanager
def _running(engine: Postgres | Valkey, program: Program) -> Iterator[int]:
    log = engine.folder.home / f"{engine.name}.log"
    program.prepare()
    with open(log, "wb") as output:
        process = program.start(stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not engine.ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Fault(f"{engine.name} did not start: {reason_in(log.read_text(errors='replace').splitlines())}")
            time.sleep(0.01)
        yield process.pid
    finally:
        send(process.pid, program.stop_signal)
        try:
            process.wait(10)
        except Exception:  # also an interrupt while waiting
            send(process.pid, 9, group=True)
            process.wait()
