"""A whole server at work while everything around it breaks: `python -m bench.long.faults --rounds 500 --seed 1`.

One stack of real processes, two of each, with real agents, works on for all rounds. In each round builds are started,
stopped, talked about and read while faults happen that are drawn from the seed and the round's number: processes are
killed with SIGKILL, stopped and held down, connections of clients, to PostgreSQL and to Redis are cut, delayed, left
and refused by proxies, answers are lost, Redis is wiped, disks of agents and of the database run full. Then everything
may run again, and what tests/faults/rules.py says has to hold. Every few rounds, and at the end, all read models are
built again and compared with what serves, row by row.

`--first N` begins at that round, `--round N` plays one again, `--seconds S` stops after that time. Writes
results/faults.json, also when it is told to end, keeps the logs of all processes in results/faults/ when something
broke, and exits with 1 then.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tests.faults import rules
from tests.faults.calling import Caller
from tests.faults.load import HOOKS, Order, Receiver, command, drawn_order
from tests.faults.reading import HeardOfAll, listen
from tests.faults.rules import Books
from tests.faults.stack import DATABASE, Stack, running_stack
from tests.faults.trouble import Fault, Trouble, drawn_faults

from domain.core.events import Recorded
from projections.registry import PROJECTIONS
from store.tables.build_logs import BuildLogs
from testhide.processes import core

AGENTS = 2
READERS = 2
"""Of everything that happens, for all rounds."""
FAULTS_S = 2.5
"""The time of a round in which faults begin."""
PATIENCE_S = 120.0
"""From the last fault until everything has ended: a build may be lost with its agent, and more than once."""
LOOK_S = 0.1
READ_AHEAD = 1 << 20
"""A message of a stream is one line."""
REBUILD_EVERY = 50
DELIVERED_S = 90.0
"""A delivery that was under way when its worker was killed is due again after a minute."""
READ_S = 30.0
"""Until who reads everything has read it, when it is quiet."""
MAX_BROKEN = 10


class Suite:
    def __init__(self, stack: Stack, caller: Caller, receiver: Receiver, seed: int) -> None:
        self._stack = stack
        self._caller = caller
        self._receiver = receiver
        self.trouble = Trouble(stack)
        self._reading: dict[asyncio.Task[None], HeardOfAll] = {}
        self._seed = seed
        self._job = 0
        self._books = Books(0)
        self._unasked = 0
        self.seen: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.recovered_s: list[float] = []
        """From the last fault to the last verdict and the end of the last stream."""

    async def begin(self) -> None:
        await self._caller.sign_in()
        made = self._made
        project = await made("/api/v3/projects", name="Faults")
        pool = await made("/api/v3/node-pools", name="machines", project_id=project)
        limits = {"max_parallel": 10, "node_pool_id": pool}
        self._job = await made("/api/v3/jobs", name="Proof", project_id=project, **limits)
        configuration = {"command": command(), "setup": [], "env": {}, "artifacts": ["proof.bin"]}
        await self._caller.call("PUT", f"/api/v3/jobs/{self._job}/configuration", configuration)
        url = f"http://127.0.0.1:{self._receiver.port}"
        for hook, events in HOOKS.items():
            of = {"project_id": project} if hook == "of-project" else {}
            await made("/api/v3/webhooks", url=f"{url}/{hook}", events=events, **of)
        for number in range(AGENTS):
            body = {"name": f"machine {number}", "pool_id": pool, "max_parallel": 2}
            node = (await self._caller.call("POST", "/api/v3/nodes", body)).body
            self._stack.begin_agent(f"agent-{number}", node["agent_token"])
        await self._stack.all_run()
        self._books = Books(project)
        for number in range(READERS):
            heard = HeardOfAll()
            reading = asyncio.create_task(listen(self._caller, heard, random.Random(f"{self._seed} {number}")))
            self._reading[reading] = heard

    def end(self) -> None:
        for reading in self._reading:
            reading.cancel()

    async def round(self, number: int) -> tuple[list[Fault], list[str]]:
        """Its faults, and what broke."""
        rng = random.Random(f"{self._seed} {number}")
        faults = drawn_faults(rng, self._stack, FAULTS_S)
        orders = [drawn_order(rng, f"r{number}b{place}.") for place in range(rng.randrange(2, 5))]
        self.faults.update(fault.kind for fault in faults)
        people = [
            asyncio.create_task(order.follow(self._caller, self._job, random.Random(rng.random()))) for order in orders
        ]
        await asyncio.gather(*(self.trouble.make(fault) for fault in faults))
        await self.trouble.undo()
        quiet = time.monotonic()
        broken: list[str] = []
        _, waiting = await asyncio.wait(people, timeout=PATIENCE_S)
        for task in people:
            if task in waiting:
                task.cancel()
            elif error := task.exception():
                broken.append("".join(traceback.format_exception(error)))
        if waiting:
            await asyncio.wait(waiting)
            broken.append(f"{len(waiting)} builds or their readers have not ended after {PATIENCE_S:.0f} s")
        self.recovered_s.append(time.monotonic() - quiet)
        disk_was_full = any(fault.kind == "full disk" and fault.target != DATABASE for fault in faults)
        try:
            broken += await self._check(orders, disk_was_full=disk_was_full)
        except (TimeoutError, aiohttp.ClientError) as error:
            broken.append("".join(traceback.format_exception(error)))
        return faults, broken

    async def _check(self, orders: list[Order], *, disk_was_full: bool) -> list[str]:
        async with core(self._stack.settings, pool_size=2) as parts:
            await self._at_rest()
            events, broken = await self._books.read_on(parts)
            broken += await self._read_along(events)
            broken += self._books.acknowledged(self._caller)
            logs = BuildLogs(parts.pool)
            for order in orders:
                broken += rules.once(order, events)
                end = rules.ended(order.plan.token, events)
                if end is None:
                    broken.append(f"{order.plan.token} has not ended")
                    continue
                broken += rules.verdict(order, end, disk_was_full=disk_was_full)
                broken += await rules.log_lines(logs, order, end, disk_was_full=disk_was_full)
                broken += await rules.readers(logs, order, end)
                broken += await rules.shown_build(self._caller, order, end, disk_was_full=disk_was_full)
                self._count(order, end)
        broken += self._books.deliveries(self._receiver, all_of_them=False)
        broken += [f"left by a build: {process}" for process in await self._left_by_builds()]
        unasked, self._unasked = self._stack.unasked[self._unasked :], len(self._stack.unasked)
        broken += [f"by itself: {told}" for told in unasked]
        return broken

    async def _read_along(self, events: Sequence[Recorded]) -> list[str]:
        broken: list[str] = []
        for reading, heard in self._reading.items():
            deadline = time.monotonic() + READ_S
            while int(heard.last or 0) < self._books.position and not reading.done() and time.monotonic() < deadline:
                await asyncio.sleep(LOOK_S)
            if reading.done() and (error := reading.exception()):
                broken.append("".join(traceback.format_exception(error)))
            broken += self._books.read_along(heard, events)
        return broken

    async def all_delivered(self) -> list[str]:
        deadline = time.monotonic() + DELIVERED_S
        while self._books.undelivered(self._receiver) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
        return list(self._books.deliveries(self._receiver, all_of_them=True))

    async def rebuilt(self) -> list[str]:
        """All read models, built again and compared by the operator's own commands."""
        names = [projection.name for projection in PROJECTIONS]
        broken = []
        for verb in (["rebuild", "--from-scratch"], ["diff"], ["drop"]):
            done = await self._projections(*verb, *names)
            if done is not None:
                broken.append(f"projections {' '.join(verb)}: {done}")
        self.seen["rebuilds compared"] += 1
        return broken

    async def _projections(self, *words: str) -> str | None:
        """What it said, when it did not end with 0."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "testhide", "projections", *words),
            env={**os.environ, "TESTHIDE_SETTINGS": str(self._stack.folder / "settings.json")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return None if process.returncode == 0 else said.decode(errors="replace")

    async def _at_rest(self) -> None:
        """The read models are at the end of the log."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self._caller.call("GET", "/api/v3/readyz")).status != 200:
                await asyncio.sleep(LOOK_S)

    async def _left_by_builds(self) -> list[str]:
        deadline = time.monotonic() + 10
        while (left := self._stack.builds_at_work()) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
        return left

    def figures(self) -> dict[str, Any]:
        recovered = self.recovered_s
        return {
            "faults": dict(self.faults.most_common()),
            "not allowed here": sorted(self.trouble.skipped),
            "seen": dict(sorted(self.seen.items())),
            "connections of readers of all events": sum(heard.connections for heard in self._reading.values()),
            "messages": sum(map(len, self._books.told.values())),
            "deliveries that arrived": self._receiver.deliveries,
            "recovered after s": {"p50": round(statistics.median(recovered), 1), "max": round(max(recovered), 1)}
            if recovered
            else {},
        }

    def _count(self, order: Order, end: rules.Ended) -> None:
        self.seen["builds"] += 1
        self.seen[f"builds {end.finished.reason or end.finished.status}"] += 1
        self.seen["builds elsewhere"] += order.plan.external
        self.seen["attempts"] += end.attempts
        self.seen["log lines"] += end.finished.log_lines
        self.seen["readers"] += len(order.heard)
        self.seen["connections of readers"] += sum(heard.connections for heard in order.heard)

    async def _made(self, path: str, **body: Any) -> int:
        answer = await self._caller.call("POST", path, body)
        assert answer.status in (200, 201), answer
        return int(answer.body["id"])


@dataclass
class Record:
    """What is known of a run, at any moment of it."""

    seed: int
    keep: Path
    """Where logs go when something broke."""
    suite: Suite | None = None
    rounds: int = 0
    broken: list[dict[str, Any]] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def tell(self, stack: Stack, what: str, found: list[str], faults: Sequence[Fault] = ()) -> None:
        drawn = ", ".join(map(str, faults))
        print(f"{what}: {drawn}{'' if found else ': all holds'}", file=sys.stderr, flush=True)
        if found:
            print("\n".join(f"    BROKEN {one}" for one in found), file=sys.stderr, flush=True)
            self.broken.append({"at": what, "faults": list(map(str, faults)), "broken": found})
            shutil.copytree(stack.folder / "logs", self.keep / what.replace(" ", "-"), dirs_exist_ok=True)

    def as_json(self, *, ended_early: bool) -> dict[str, Any]:
        known = {
            "seed": self.seed,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "ended early": ended_early,
        }
        return known | ({} if self.suite is None else self.suite.figures()) | {"broken": self.broken}


async def run(rounds: range, seconds: float | None, record: Record) -> None:
    task = asyncio.current_task()
    assert task is not None, "it runs in one"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rng = random.Random(record.seed)
    async with (
        Receiver(rng) as receiver,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=READ_AHEAD) as http,
        running_stack(rng) as stack,
    ):
        suite = record.suite = Suite(stack, Caller(http, stack.url), receiver, record.seed)
        await suite.begin()
        try:
            await _play(rounds, seconds, record, suite, stack)
        finally:
            suite.end()


async def _play(rounds: range, seconds: float | None, record: Record, suite: Suite, stack: Stack) -> None:
    for number in rounds:
        since = record.seconds
        faults, found = await suite.round(number)
        record.rounds += 1
        record.tell(stack, f"round {number}", found, faults)
        print(f"    {record.seconds - since:.1f} s", file=sys.stderr)
        if record.rounds % REBUILD_EVERY == 0:
            record.tell(stack, f"rebuild after round {number}", await suite.rebuilt())
        if len(record.broken) >= MAX_BROKEN or (seconds is not None and record.seconds > seconds):
            break
    record.tell(stack, "deliveries at the end", await suite.all_delivered())
    record.tell(stack, "rebuild at the end", await suite.rebuilt())


def main() -> int:
    parser = argparse.ArgumentParser(description="Break everything around a server, again and again.")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--first", type=int, default=1, help="begin with this one")
    parser.add_argument("--round", type=int, help="play only this one")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    first, last = (options.first, options.rounds) if options.round is None else (options.round, options.round)
    record = Record(options.seed, options.results / "faults")
    ended_early = True
    try:
        asyncio.run(run(range(first, last + 1), options.seconds, record))
        ended_early = False
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("told to end", file=sys.stderr)
    finally:
        result = record.as_json(ended_early=ended_early)
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "faults.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result))
    return 1 if record.broken or ended_early else 0


if __name__ == "__main__":
    sys.exit(main())
