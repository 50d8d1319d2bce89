"""Measures how long other reads take while 50 people chat with the assistant, beside those without chats."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Sequence

import psycopg

from bench.rebuild import wait_until_quiet
from bench.support.http import Connection
from bench.support.report import Report, percentile
from bench.support.stack import Stack
from projections.builds import BuildRow

CHATS = 50
"""Number of questions that are open at once: who has got an answer asks the next question."""
READERS, READS_A_SECOND = 4, 40
"""Clients that read, and how often they do together. The rate is the same with and without chats."""
PHASES, PHASE_S = 6, 10.0
"""Number of phases of each kind, which alternate, and how many seconds each takes."""
MESSAGES = ("Why did this build fail?", "Which tests failed?", "Is it flaky?", "What changed?", "Summarize this build")
MAX_RATIO = 1.5
"""Largest ratio of the 99th percentile of reads during chats to the one without."""


def run(stack: Stack, report: Report) -> None:
    wait_until_quiet(stack)
    with psycopg.connect(stack.settings.database_url) as connection:
        query = f"SELECT id, project_id FROM {BuildRow.table} WHERE status = 'failed' ORDER BY id DESC LIMIT 2000"
        failed = connection.execute(query.encode()).fetchall()
    asyncio.run(_Measurement(stack, failed).run(report))


class _Measurement:
    def __init__(self, stack: Stack, failed: Sequence[tuple[int, int]]) -> None:
        self._stack = stack
        self._failed = failed
        self._rng = random.Random(1)
        self._answered: list[float] = []
        """Seconds of each chat."""
        self._late = 0
        """Number of chats without an answer in the time that a request waits."""

    async def run(self, report: Report) -> None:
        reads: dict[bool, list[float]] = {False: [], True: []}
        await self._read(2.0)  # so that both kinds find warm caches
        for number in range(2 * PHASES):
            with_chats = number % 2 == 1
            stop = asyncio.Event()
            chats = [asyncio.create_task(self._chat(stop)) for _ in range(CHATS if with_chats else 0)]
            reads[with_chats] += await self._read(PHASE_S)
            stop.set()
            await asyncio.gather(*chats)
        for percent in (50, 99):
            without, during = (percentile(reads[kind], percent) * 1000 for kind in (False, True))
            report.add(f"other reads without chats: p{percent}", without, "ms")
            report.add(f"other reads during {CHATS} chats: p{percent}", during, "ms")
            bound = MAX_RATIO if percent == 99 else None
            report.add(f"other reads: ratio of p{percent}", during / without, "", at_most=bound)
        report.add("chats answered", len(self._answered), "chats")
        report.add("chats without an answer in time", self._late, "chats", at_most=0)
        report.add("chats: p50", percentile(self._answered, 50), "s")
        report.add("chats: p99", percentile(self._answered, 99), "s")

    async def _read(self, seconds: float) -> list[float]:
        """Reads for some seconds, and returns how many seconds each read took from the moment at which it was due."""
        took = await asyncio.gather(*(self._reader(number, seconds) for number in range(READERS)))
        return list(itertools.chain.from_iterable(took))

    async def _reader(self, number: int, seconds: float) -> list[float]:
        connection = await Connection.open(self._stack.port, self._stack.token)
        found: list[float] = []
        begun = time.monotonic()
        for count in range(round(seconds * READS_A_SECOND / READERS)):
            due = begun + (count * READERS + number) / READS_A_SECOND
            await asyncio.sleep(due - time.monotonic())
            status, _, body = await connection.send(connection.prepare("GET", f"/api/v3{self._choose_path(count)}"))
            assert status == 200, body
            found.append(time.monotonic() - due)
        connection.close()
        return found

    def _choose_path(self, count: int) -> str:
        build, project = self._rng.choice(self._failed)
        return (
            "/builds?limit=25",
            f"/builds/{build}",
            f"/tests?build_id={build}&limit=50",
            f"/test-cases?project_id={project}&limit=50",
        )[count % 4]

    async def _chat(self, stop: asyncio.Event) -> None:
        connection = await Connection.open(self._stack.port, self._stack.token)
        while not stop.is_set():
            build, _ = self._rng.choice(self._failed)
            question = {"message": self._rng.choice(MESSAGES), "build_id": build}
            begun = time.monotonic()
            request = connection.prepare("POST", "/api/v3/ai/chat", json.dumps(question).encode())
            status, _, body = await connection.send(request)
            assert status in (200, 504), body
            self._late += status == 504
            self._answered.append(time.monotonic() - begun)
        connection.close()
