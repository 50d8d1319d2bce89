"""Keeps a whole server under a steady mixed load, and looks for what grows: `./dev long soak --seconds 3600 --seed 1`.

A stack of real processes and agents gets hooks, builds with reports, reads and streams at a fixed rate, drawn from the
seed. Meanwhile memory and open files of each process, connections to the database, queues, the lag of the read models
and tables that must not grow are sampled. The first third of the run is a warm-up. It is a failure if the median of the
last third is higher than that of the middle third by more than LIMITS allow, if a request is not answered as it should,
if a process ends, or if work is left when the load has ended. Writes results/soak.json, even if it is interrupted, and
exits with 1 if anything failed.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import psycopg
from tests.support.git_repository import GitRepository

from bench.hooks import make_payload, sign
from bench.support.load import ticks
from bench.support.report import percentile, print_table, write_result
from bench.support.stack import Stack, running_stack
from bench.throughput import running_agents

OPERATIONS = {"push": 1, "start": 1, "stream": 1, "read": 7}
"""Operation -> how often it is drawn in comparison with the others."""
READS = (
    "/builds?job_id={job}&limit=20",
    "/builds/{build}",
    "/builds/{build}/pipeline_logs",
    "/report/{build}",
    "/tests?build_id={build}&limit=50",
    "/nodes",
    "/audit/events?project_id={project}&limit=50",
)
FEEDS = 5
"""Clients that follow the feed of events all the time."""
SAMPLES = 120
"""Largest number of samples; there is at most one a second."""
MIN_SAMPLES = 12
"""Least number of samples of which a trend is told."""
REQUEST, STREAM, ENDLESS = aiohttp.ClientTimeout(30), aiohttp.ClientTimeout(60), aiohttp.ClientTimeout(None)
END_S = 120.0
"""Seconds after the load within which all builds must have ended and nothing may be due."""
MAX_BROKEN = 100
TABLES = ("due_reactions", "parked_events", "queue_reasons", "agent_gauges", "used_once", "login_failures")
"""Tables whose rows stand for work under way or are few, so that they must not grow with the history."""
LIMITS: Mapping[str, tuple[float, float]] = {
    "MB": (0.05, 12),
    "files": (0.1, 15),
    "connections": (0.1, 8),
    "builds": (0.5, 10),
    "events": (0.5, 500),
    "rows": (0.5, 20),
}
"""Unit of a figure -> share of its value and absolute amount by which it may grow; the larger of both counts."""
FAILURE = "<failure message='boom'/>"
REPORT = "".join(f"<testcase classname='shop.Cart' name='n{n}'>{FAILURE * (n == 7)}</testcase>" for n in range(40))
COMMAND = "cp report.xml junittests.xml; seq 300; sleep 0.3"


@dataclass
class SoakRecord:
    """Outcome of a run so far."""

    samples: list[dict[tuple[str, str], float]] = field(default_factory=list)
    """(name, unit) of each figure -> value."""
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Operation -> seconds until each answer was there."""
    feed_messages: int = 0
    broken: list[str] = field(default_factory=list)

    def add_fault(self, text: str) -> None:
        print(f"BROKEN {text}", file=sys.stderr, flush=True)
        if len(self.broken) < MAX_BROKEN:
            self.broken.append(text)

    def find_trends(self) -> list[tuple[str, str, float, float, float]]:
        """Returns (name, unit, median of the middle third, growth, allowed growth) of each figure that every sample
        has; nothing for a run that is too short.
        """
        third, trends = len(self.samples) // 3, list[tuple[str, str, float, float, float]]()
        if len(self.samples) < MIN_SAMPLES:
            return []
        for name, unit in set.intersection(*map(set, self.samples)):
            values = [sample[name, unit] for sample in self.samples]
            middle = statistics.median(values[third : 2 * third])
            growth = statistics.median(values[2 * third :]) - middle
            share, amount = LIMITS[unit]
            trends.append((name, unit, middle, growth, max(share * middle, amount)))
        return sorted(trends)


@dataclass
class SoakLoad:
    """Requests of users and of a source code host."""

    stack: Stack
    http: aiohttp.ClientSession
    rng: random.Random
    record: SoakRecord
    project: int
    secret: str
    job: int
    commit: str
    build: int = 0
    """Id of a build that was started lately."""

    async def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
        """Sends a request, and returns the decoded answer. An answer that reports a problem is a fault."""
        async with self.http.request(method, f"{self.stack.url}{path}", data=body or None, headers=headers) as answer:
            text = await answer.text()
        if answer.status >= 400:
            self.record.add_fault(f"{method} {path} answers {answer.status}: {text[:300]}")
        return json.loads(text) if text.startswith(("{", "[")) else None

    async def push(self) -> None:
        payload = json.loads(make_payload(self.rng.getrandbits(32)))
        payload |= {"ref": "refs/heads/main", "after": self.commit, "repository": {"full_name": "acme/shop"}}
        body = json.dumps(payload).encode()
        signed = {"X-GitHub-Event": "push", "X-Hub-Signature-256": sign(body, self.secret)}
        await self.call("POST", f"/webhook/proj/{self.project}", body, **signed)

    async def start(self) -> None:
        answer = await self.call("POST", "/api/v3/builds/start", json.dumps({"job_id": self.job}).encode())
        self.build = answer.get("id", self.build)

    async def read(self) -> None:
        path = self.rng.choice(READS).format(build=self.build, job=self.job, project=self.project)
        await self.call("GET", f"/api/v3{path}")

    async def stream(self) -> None:
        """Reads the stream of a build to its end, or leaves it early."""
        leaves_early, lines = self.rng.random() < 0.3, 0
        async with self.http.get(f"{self.stack.url}/api/v3/builds/{self.build}/stream", timeout=STREAM) as answer:
            async for _ in answer.content:
                lines += 1
                if leaves_early and lines > 20:
                    return
        if lines < 300:
            self.record.add_fault(f"the stream of build {self.build} ended after {lines} lines")

    async def follow_feed(self) -> None:
        while True:
            async with self.http.get(f"{self.stack.url}/api/v3/events/stream", timeout=ENDLESS) as answer:
                async for line in answer.content:
                    self.record.feed_messages += line.startswith(b"data:")

    async def run_one(self, name: str) -> None:
        began = time.perf_counter()
        try:
            await getattr(self, name)()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.record.add_fault(f"{name}: {error!r}")
        self.record.latencies[name].append(time.perf_counter() - began)

    async def run(self, rate: float, seconds: float) -> None:
        await self.start()
        async with asyncio.TaskGroup() as tasks:
            feeds = [tasks.create_task(self.follow_feed()) for _ in range(FEEDS)]
            async with asyncio.TaskGroup() as requests:
                async for _ in ticks(rate, seconds):
                    (name,) = self.rng.choices(list(OPERATIONS), list(OPERATIONS.values()))
                    requests.create_task(self.run_one(name))
            for feed in feeds:
                feed.cancel()


class Sampler:
    def __init__(self, stack: Stack, agents: Sequence["subprocess.Popen[bytes]"], record: SoakRecord) -> None:
        self._stack, self._record = stack, record
        self._pids = stack.pids | {f"agent-{number}": agent.pid for number, agent in enumerate(agents)}
        self._database = psycopg.connect(stack.settings.database_url, autocommit=True)

    async def run(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            self._record.samples.append(await asyncio.to_thread(self.take))

    def take(self) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for name, pid in self._pids.items():
            try:
                process = psutil.Process(pid)
                found[name, "MB"] = process.memory_info().rss / 1024**2
                found[name, "files"] = process.num_fds()
            except psutil.NoSuchProcess:
                self._record.add_fault(f"{name} has ended")
        found["database", "connections"] = self._count("FROM pg_stat_activity WHERE datname = current_database()")
        found["lag of the read models", "events"] = self._fetch(
            "SELECT (SELECT max(notification_id) FROM stored_events) - min(position) FROM projection_positions"
        )
        found["deliveries", "rows"] = self._count("FROM webhook_deliveries WHERE state = 'pending'")
        for table in TABLES:
            found[table, "rows"] = self._count(f"FROM {table}")
        found["unfinished", "builds"] = self.count_unfinished()
        return found

    def count_unfinished(self) -> float:
        found = [self._stack.call("GET", f"/api/v3/builds?status={one}&limit=1") for one in ("queued", "running")]
        return float(sum(page["total"] for page in found))

    async def wait_until_idle(self) -> None:
        """Waits until all builds have ended and no reaction is due. Notes what is left after END_S as a fault."""
        until = time.monotonic() + END_S
        while (left := self.count_unfinished() + self._count("FROM due_reactions")) and time.monotonic() < until:
            await asyncio.sleep(0.5)  # between two looks
        if left:
            self._record.add_fault(f"{left:.0f} builds and reactions are left {END_S:.0f} s after the load")

    def _fetch(self, query: str) -> float:
        return float(self._database.execute(query.encode()).fetchall()[0][0])

    def _count(self, rest: str) -> float:
        return self._fetch(f"SELECT count(*) {rest}")


async def soak(stack: Stack, seconds: float, rate: float, seed: int, record: SoakRecord) -> None:
    repository = GitRepository(stack.data / "acme" / "shop.git", ())
    commit = repository.write("report.xml", f"<testsuite name='s'>{REPORT}</testsuite>")
    project = stack.create_project("soak")
    secret = stack.call("POST", f"/api/v3/projects/{project}/rotate-webhook-secret", {})["webhook_secret"]
    pool = stack.create_pool(project)
    settings = {"node_pool_id": pool, "max_parallel": 100, "repository": f"file://{repository.path}"}
    job = stack.create_job("soak", COMMAND, project_id=project, **settings)
    stack.call("PUT", f"/api/v3/jobs/{job}/triggers", {"branches": ["main"], "paths": ["src/**"]})
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    with running_agents(stack, pool, "--allow-local-repositories") as agents:
        async with aiohttp.ClientSession(headers=headers, timeout=REQUEST, connector=connector) as http:
            load = SoakLoad(stack, http, random.Random(seed), record, project, secret, job, commit)
            sampler = Sampler(stack, agents, record)
            async with asyncio.TaskGroup() as tasks:
                sampling = tasks.create_task(sampler.run(max(1.0, seconds / SAMPLES)))
                await load.run(rate, seconds)
                sampling.cancel()
            await sampler.wait_until_idle()


def report(record: SoakRecord, options: argparse.Namespace, *, ended_early: bool) -> dict[str, Any]:
    """Prints the figures, and returns what results/soak.json contains."""
    trends = record.find_trends()
    for name, unit, middle, growth, allowed in trends:
        if growth > allowed:
            record.add_fault(f"{name} grows: {middle:.1f} {unit}, and later {growth:.1f} more")
    rows = [
        (name, f"{middle:,.1f}", unit, f"{growth:+,.1f}", f"<= {by:,.1f}") for name, unit, middle, growth, by in trends
    ]
    print_table(("", "middle third", "", "growth", "bound"), rows)
    requests = {
        name: {"count": len(found), **{f"p{part} ms": round(percentile(found, part) * 1000, 1) for part in (50, 99)}}
        for name, found in record.latencies.items()
    }
    return {
        "seed": options.seed,
        "seconds": options.seconds,
        "rate": options.rate,
        "ended early": ended_early,
        "requests": requests,
        "messages of feeds": record.feed_messages,
        "trends": {f"{name}, {unit}": [round(part, 1) for part in rest] for name, unit, *rest in trends},
        "broken": record.broken,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep a server under a steady load, and look for what grows.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=5, help="requests a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    record, ended_early = SoakRecord(), True
    try:
        with running_stack(agent=False) as stack:
            asyncio.run(soak(stack, options.seconds, options.rate, options.seed, record))
        ended_early = False
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        result = report(record, options, ended_early=ended_early)
        write_result(options.results, "soak", result)
        print(json.dumps(result))
    return 1 if record.broken or ended_early or not result["trends"] else 0


if __name__ == "__main__":
    sys.exit(main())
