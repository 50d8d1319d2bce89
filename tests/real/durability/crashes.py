"""Writers that never stop, and a PostgreSQL that is killed in mid-write again and again."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from eventsourcing.persistence import StoredEvent

from store.log.append import AppendFailed, GroupCommit, Request
from testhide.engines import Postgres
from testhide.engines.folder import open_folder
from testhide.preparation import migrate
from testhide.settings import Settings

WRITERS = 16
START_S = 30.0


@dataclass
class Written:
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    refused: set[tuple[str, int]] = field(default_factory=set)
    """Of which the writer was told that they are not in the log."""
    kills: int = 0
    stored: set[tuple[str, int]] = field(default_factory=set)

    @property
    def lost(self) -> set[tuple[str, int]]:
        return self.acknowledged - self.stored

    @property
    def unasked(self) -> set[tuple[str, int]]:
        """In the log although their writers were told otherwise, or never sent."""
        return self.stored - self.acknowledged


def crash(data: Path, rounds: int, seed: int) -> Written:
    """Kills PostgreSQL, all of it, `rounds` times while 16 writers append. Blocks; `data` is a new folder."""
    rng = random.Random(seed)
    written = Written()
    with open_folder(data) as folder:
        postgres = Postgres(folder)
        server = _start(postgres)
        try:
            migrate(Settings(database_url=postgres.url, redis_url="", secret_key=b"s" * 32, data_dir=""))

            async def play() -> None:
                nonlocal server
                commit = GroupCommit(postgres.url)
                stop = asyncio.Event()
                writers = [asyncio.create_task(_write(commit, f"writer-{n}", written, stop)) for n in range(WRITERS)]
                for _ in range(rounds):
                    goal = len(written.acknowledged) + rng.randrange(20, 400)
                    while len(written.acknowledged) < goal:
                        await asyncio.sleep(rng.random() / 500)
                    server = await asyncio.to_thread(_kill_and_start, postgres, server)
                    written.kills += 1
                stop.set()
                await asyncio.gather(*writers)
                await commit.close()

            asyncio.run(play())
            with psycopg.connect(postgres.url) as connection:
                rows = connection.execute("SELECT originator_id, originator_version FROM stored_events").fetchall()
            assert len(rows) == len(set(rows)), "an event is there twice"
            written.stored = set(rows)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    return written


async def _write(commit: GroupCommit, stream: str, written: Written, stop: asyncio.Event) -> None:
    version = 1
    while not stop.is_set():
        event = StoredEvent(stream, version, "thing.happened", f"{stream} {version}".encode() * 20)
        try:
            await commit.append(Request([event]))
        except AppendFailed:
            written.refused.add((stream, version))
            continue
        written.acknowledged.add((stream, version))
        version += 1


def _start(postgres: Postgres) -> "subprocess.Popen[bytes]":
    program = postgres.program()
    program.prepare()
    process = program.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_S
    while not postgres.ready(process.pid):
        assert process.poll() is None, "PostgreSQL did not start"
        assert time.monotonic() < deadline, "PostgreSQL did not start in time"
        time.sleep(0.01)
    return process


def _kill_and_start(postgres: Postgres, server: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
    for pid in (server.pid, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.wait(30)
    return _start(postgres)
