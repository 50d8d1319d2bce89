"""Webhook deliveries of a whole stack on this machine, receiver included: `python -m bench.webhooks`.

10 projects with 5 webhooks each; in every second project one receiver is slow. Builds start and end evenly; each of
the two is told to 5 webhooks. Latency is from the event's time to the first byte at the receiver.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any
from urllib.request import urlopen

import psutil
from aiohttp import web

from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import CommandContext, Handler
from store.clock import utcnow
from testhide.processes import Core, core

PROJECTS, OF_EACH = 10, 5
SLOW_S = 2.0
WARM_S = 3.0
PATIENCE_S = 30.0
BUILD_S = 0.5
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CALLER = CommandContext("system:bench")


def receive(slow_s: float, port: Connection) -> None:
    """Says its port; answers POST /fast and /slow, and GET with what came: seconds from event to arrival."""
    arrived: dict[str, list[float]] = {"fast": [], "slow": []}
    seen: set[str] = set()

    async def handle(request: web.BaseRequest) -> web.Response:
        now = time.time()
        if request.method == "GET":
            return web.json_response(arrived)
        kind = request.path.strip("/")
        body = json.loads(await request.read())
        if request.headers["webhook-id"] not in seen:
            seen.add(request.headers["webhook-id"])
            arrived[kind].append(now - datetime.fromisoformat(body["created_at"]).timestamp())
        if kind == "slow":
            await asyncio.sleep(slow_s)
        return web.Response()

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


@contextlib.contextmanager
def receiver(slow_s: float) -> Iterator[str]:
    """Its address."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=receive, args=(slow_s, its), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join(10)


def set_up(stack: Stack, at: str) -> list[int]:
    """A job in each project."""
    jobs = []
    for number in range(PROJECTS):
        jobs.append(stack.job(f"webhooks {number}", "true"))
        project = stack.call("GET", f"/api/v3/jobs/{jobs[-1]}")["project_id"]
        for place in range(OF_EACH):
            kind = "slow" if place == 0 and number % 2 == 0 else "fast"
            body = {"url": f"{at}/{kind}", "events": ["build.started", "build.finished"], "secret": SECRET}
            stack.call("POST", "/api/v3/webhooks", {**body, "project_id": project})
    return jobs


async def build_away(parts: Core, jobs: list[int], builds_per_s: float, seconds: float) -> int:
    """Builds that start evenly and end a little later; how many."""
    handler = Handler(parts.log, utcnow)

    async def build(job_id: int) -> None:
        build_id = await parts.ids.draw("builds")
        await handler.execute(StartBuild(build_id, job_id, branch="main", external=True), CALLER)
        await asyncio.sleep(BUILD_S)
        await handler.execute(FinishExternalBuild(build_id, "passed"), CALLER)

    began, started = time.perf_counter(), 0
    async with asyncio.TaskGroup() as tasks:
        async for _ in ticks(builds_per_s, seconds):
            tasks.create_task(build(jobs[started % len(jobs)]))
            started += 1
    assert time.perf_counter() - began < seconds + 3, "the log does not keep up"
    return started


async def arrive(at: str, expected: int) -> int:
    """Until so many have come, or none do any more; how many came."""
    deadline = time.perf_counter() + PATIENCE_S
    while (count := sum(map(len, told(at).values()))) < expected and time.perf_counter() < deadline:
        await asyncio.sleep(0.1)
    return count


async def ticks(per_s: float, seconds: float) -> AsyncIterator[None]:
    began = time.perf_counter()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
        yield


def cpu_s(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(stack: Stack, at: str, per_s: float, seconds: float, report: Report) -> None:
    jobs = set_up(stack, at)
    work = [psutil.Process(stack.pids["work"])]
    postgres = psutil.Process(stack.pids["postgres"])

    async def run() -> None:
        async with core(stack.settings, pool_size=4) as parts:
            # So that everything is warm.
            warm = await build_away(parts, jobs, per_s / 2 / OF_EACH, WARM_S) * 2 * OF_EACH
            await arrive(at, warm)
            before = cpu_s(work), cpu_s([postgres, *postgres.children()])
            began = time.perf_counter()
            builds = await build_away(parts, jobs, per_s / 2 / OF_EACH, seconds)
            took = time.perf_counter() - began - BUILD_S
            in_time = sum(map(len, told(at).values())) - warm
            expected = warm + builds * 2 * OF_EACH
            count = await arrive(at, expected)
            after = cpu_s(work), cpu_s([postgres, *postgres.children()])
            delivered = count - warm
            report.add("deliveries expected", expected - warm, "deliveries")
            report.add("missing", expected - count, "deliveries", at_most=0)
            report.add("sustained", in_time / took, "deliveries/s", at_least=per_s * 0.97)
            report.add("CPU of the worker", (after[0] - before[0]) / delivered * 1000, "ms/delivery")
            report.add(
                "CPU of PostgreSQL, everything included", (after[1] - before[1]) / delivered * 1000, "ms/delivery"
            )

    asyncio.run(run())
    arrived = told(at)
    every = [*arrived["fast"], *arrived["slow"]]
    report.add("first attempt after the event, p50", percentile(every, 50) * 1000, "ms", at_most=100)
    for kind in ("fast", "slow"):
        for percent in (50, 99):
            report.add(f"{kind} receivers, p{percent}", percentile(arrived[kind], percent) * 1000, "ms")


def told(at: str) -> dict[str, list[float]]:
    with urlopen(at, timeout=10) as answer:
        arrived: dict[str, Any] = json.loads(answer.read())
    return arrived


def main() -> int:
    parser = argparse.ArgumentParser(description="Webhook deliveries a second, and how soon they arrive.")
    parser.add_argument("--per-second", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    report = Report("webhooks")
    with receiver(SLOW_S) as at, running_stack(agent=False) as stack:
        measure(stack, at, options.per_second, options.seconds, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
