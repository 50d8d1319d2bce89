"""Measures the webhook deliveries of a whole stack, with the receiver on this machine: `./dev bench webhooks`.

10 projects have 5 webhooks each, and in every second project one receiver is slow. Builds start and end at a fixed
rate; both events go to 5 webhooks. Latency is the time from the event to the arrival of the request at the receiver.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any
from urllib.request import urlopen

import psutil
from aiohttp import web

from bench.support.load import read_cpu_s, ticks
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import CommandContext, Handler
from store.clock import utcnow
from testhide.processes import Core, core

PROJECTS, WEBHOOKS_PER_PROJECT = 10, 5
SLOW_S = 2.0
"""Seconds that a slow receiver takes to answer."""
WARM_UP_S = 3.0
ARRIVAL_TIMEOUT_S = 30.0
BUILD_S = 0.5
"""Seconds from the start of a build to its end."""
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CALLER = CommandContext("system:bench")


def receive(slow_s: float, port: Connection) -> None:
    """Runs a receiver. Sends its port number to `port`, accepts POST /fast and /slow, and answers a GET with the
    seconds from event to arrival of each delivery.
    """
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
def running_receiver(slow_s: float) -> Iterator[str]:
    """Yields the URL of a receiver that runs in a separate process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=receive, args=(slow_s, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join(10)


def create_jobs(stack: Stack, url: str) -> list[int]:
    """Creates projects with their webhooks. Returns the id of one job of each project."""
    jobs = []
    for number in range(PROJECTS):
        project = stack.create_project(f"webhooks {number}")
        jobs.append(stack.create_job("webhooks", "true", project_id=project))
        for index in range(WEBHOOKS_PER_PROJECT):
            kind = "slow" if index == 0 and number % 2 == 0 else "fast"
            body = {"url": f"{url}/{kind}", "events": ["build.started", "build.finished"], "secret": SECRET}
            stack.call("POST", "/api/v3/webhooks", {**body, "project_id": project})
    return jobs


async def run_builds(parts: Core, jobs: list[int], builds_per_s: float, seconds: float) -> int:
    """Starts builds at a fixed rate and finishes each BUILD_S later. Returns the number of builds."""
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
    assert time.perf_counter() - began < seconds + 3, "appending does not keep up with the rate"
    return started


async def wait_for_arrivals(url: str, expected: int) -> int:
    """Waits until `expected` deliveries have arrived, for ARRIVAL_TIMEOUT_S at most. Returns the number of deliveries
    that have arrived.
    """
    deadline = time.perf_counter() + ARRIVAL_TIMEOUT_S
    while (count := sum(map(len, fetch_arrivals(url).values()))) < expected and time.perf_counter() < deadline:
        await asyncio.sleep(0.1)
    return count


def measure(stack: Stack, url: str, per_s: float, seconds: float, report: Report) -> None:
    jobs = create_jobs(stack, url)
    work = [psutil.Process(stack.pids["work"])]
    postgres = psutil.Process(stack.pids["postgres"])
    per_build = 2 * WEBHOOKS_PER_PROJECT
    builds_per_s = per_s / per_build

    async def run() -> None:
        async with core(stack.settings, pool_size=4) as parts:
            warm = await run_builds(parts, jobs, builds_per_s, WARM_UP_S) * per_build
            await wait_for_arrivals(url, warm)
            before = read_cpu_s(work), read_cpu_s([postgres, *postgres.children()])
            began = time.perf_counter()
            builds = await run_builds(parts, jobs, builds_per_s, seconds)
            took = time.perf_counter() - began - BUILD_S
            in_time = sum(map(len, fetch_arrivals(url).values())) - warm
            expected = warm + builds * per_build
            count = await wait_for_arrivals(url, expected)
            after = read_cpu_s(work), read_cpu_s([postgres, *postgres.children()])
            delivered = count - warm
            report.add("deliveries expected", expected - warm, "deliveries")
            report.add("missing", expected - count, "deliveries", at_most=0)
            report.add("sustained", in_time / took, "deliveries/s", at_least=per_s * 0.97)
            report.add("CPU of the worker", (after[0] - before[0]) / delivered * 1000, "ms/delivery")
            report.add("CPU of PostgreSQL for everything", (after[1] - before[1]) / delivered * 1000, "ms/delivery")

    asyncio.run(run())
    arrived = fetch_arrivals(url)
    every = [*arrived["fast"], *arrived["slow"]]
    report.add("first attempt after the event, p50", percentile(every, 50) * 1000, "ms", at_most=100)
    for kind in ("fast", "slow"):
        for percent in (50, 99):
            report.add(f"{kind} receivers, p{percent}", percentile(arrived[kind], percent) * 1000, "ms")


def fetch_arrivals(url: str) -> dict[str, list[float]]:
    with urlopen(url, timeout=10) as answer:
        arrived: dict[str, Any] = json.loads(answer.read())
    return arrived


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure webhook deliveries a second and their latency.")
    parser.add_argument("--per-second", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    report = Report("webhooks")
    with running_receiver(SLOW_S) as url, running_stack(agent=False) as stack:
        measure(stack, url, options.per_second, options.seconds, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
