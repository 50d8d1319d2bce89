"""Measures POST /builds/start, which is answered when the read models show the build: `./dev bench write`.

Loads one API worker with one client, then with sixteen clients, then with sixteen while the projector is killed three
times. No agent takes these builds. At the end 20,000 builds are queued. A node of another project shows whether they
slow the dispatcher down: the time from POST to the answer of its agent's open poll is measured before and after they
are queued.
"""

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import psycopg
import uvloop

from bench.support.http import Connection
from bench.support.report import Report, median, percentile
from bench.support.stack import Stack, running_stack
from projections.builds import BuildRow

CLIENTS = 16
KILLS = 3
QUEUED = 20_000
DISPATCHED = 30
"""Number of builds from which each median of the dispatch time is computed."""


class Load:
    """Counts the answers that the clients of one phase got."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.builds: list[int] = []
        self.failures: list[str] = []
        self.not_yet_shown = 0
        """Number of builds whose answer came before the read models showed them."""

    async def run_client(self, stack: Stack, job: int, until: float) -> None:
        connection = await Connection.open(stack.port, stack.token)
        start = connection.prepare("POST", "/api/v3/builds/start", json.dumps({"job_id": job}).encode())
        while (begin := time.perf_counter()) < until:
            status, head, body = await connection.send(start)
            self.seconds.append(time.perf_counter() - begin)
            if status != 201:
                self.failures.append(f"{status} {body.decode()}")
                continue
            self.builds.append(json.loads(body)["id"])
            self.not_yet_shown += b"testhide-projected: false" in head.lower()
        connection.close()


async def apply_load(stack: Stack, job: int, clients: int, seconds: float, kills: int = 0) -> Load:
    seen = Load()
    begin = time.perf_counter()
    running = asyncio.gather(*(seen.run_client(stack, job, begin + seconds) for _ in range(clients)))
    for number in range(kills):
        await asyncio.sleep(begin + seconds * (number + 0.5) / kills - time.perf_counter())
        stack.kill("project")
    await running
    return seen


def count_stored(stack: Stack, builds: list[int]) -> tuple[int, int]:
    """Returns two numbers: how many of the builds are in the log exactly once, and how many are in the read model
    exactly once.
    """
    streams = [f"build-{build}" for build in builds]
    with psycopg.connect(stack.settings.database_url) as connection:
        events = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM stored_events WHERE topic = 'build.queued'"
            " AND originator_id = ANY (%s) GROUP BY originator_id HAVING count(*) = 1) AS once",
            (streams,),
        ).fetchone()
        rows = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {BuildRow.table} WHERE id = ANY (%s) GROUP BY id HAVING count(*) = 1)"
            " AS once".encode(),
            (builds,),
        ).fetchone()
    assert events is not None
    assert rows is not None
    return events[0], rows[0]


async def measure(stack: Stack, seconds: float, report: Report) -> None:
    job = stack.create_job("write", "true")
    node = Node(stack)
    short = median(await node.measure_dispatch())
    await apply_load(stack, job, CLIENTS, 1.0)  # warms up connections and caches
    alone = await apply_load(stack, job, 1, seconds)
    report.add("1 client, p50", percentile(alone.seconds, 50) * 1000, "ms", at_most=5)
    report.add("1 client, p99", percentile(alone.seconds, 99) * 1000, "ms")
    calm = await apply_load(stack, job, CLIENTS, seconds)
    report.add(f"{CLIENTS} clients, p50", percentile(calm.seconds, 50) * 1000, "ms")
    report.add(f"{CLIENTS} clients, p99", percentile(calm.seconds, 99) * 1000, "ms", at_most=50)
    report.add(f"{CLIENTS} clients", len(calm.builds) / seconds, "builds/s", at_least=1000)
    killed = await apply_load(stack, job, CLIENTS, 3 * seconds, KILLS)
    report.add(f"projector killed {KILLS} times", len(killed.builds) / (3 * seconds), "builds/s")
    report.add("  answered before they were shown", killed.not_yet_shown, "builds")
    report.add("  slowest answer", max(killed.seconds) * 1000, "ms")
    for text in (alone.failures + calm.failures + killed.failures)[:3]:
        print(f"failed: {text}")
    report.add("failed requests", len(alone.failures) + len(calm.failures) + len(killed.failures), at_most=0)
    builds = alone.builds + calm.builds + killed.builds
    await _wait_until_projected(stack)
    in_log, shown = count_stored(stack, builds)
    report.add("acknowledged builds", len(builds), "builds")
    report.add("  not exactly once in the log", len(builds) - in_log, "builds", at_most=0)
    report.add("  not exactly once in the read model", len(builds) - shown, "builds", at_most=0)
    report.add("  acknowledged twice", len(builds) - len(set(builds)), "builds", at_most=0)
    await fill_queue(stack, job)
    long = median(await node.measure_dispatch())
    report.add("POST to a waiting agent, p50", short * 1000, "ms")
    report.add(f"  with {QUEUED:,} queued builds", long * 1000, "ms")
    report.add("  ratio", long / short, "times", at_most=2)


class Node:
    """A node of a separate project, with an agent that accepts builds without running them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        project = stack.create_project("dispatched")
        self._job = stack.create_job("dispatched", "true", project_id=project)
        node = {"name": "bench", "pool_id": stack.create_pool(project), "max_parallel": 1}
        self._token = stack.call("POST", "/api/v3/nodes", node)["agent_token"]

    async def measure_dispatch(self) -> list[float]:
        """Starts builds one after the other. Returns the seconds from POST to the answer of the agent's poll for each
        of them.
        """
        agent = await Connection.open(self._stack.port, self._token)
        client = await Connection.open(self._stack.port, self._stack.token)
        hello = {"session": "bench-session", "version": "0", "platform": "linux", "hostname": "bench"}
        await _call(agent, "POST", "/connect", {**hello, "cpu_cores": 1, "ram_gb": 1.0, "running": []})
        start = client.prepare("POST", "/api/v3/builds/start", json.dumps({"job_id": self._job}).encode())
        seconds = []
        for _ in range(DISPATCHED):
            poll = asyncio.create_task(_call(agent, "GET", "/next?session=bench-session&free=1"))
            await asyncio.sleep(0.1)
            begin = time.perf_counter()
            await client.send(start)
            build = (await poll)["build"]
            seconds.append(time.perf_counter() - begin)
            for step, body in (("started", {}), ("finished", {"exit_code": 0})):
                await _call(agent, "POST", f"/builds/{build['id']}/{step}?attempt={build['attempt']}", body)
        agent.close()
        client.close()
        return seconds


async def _call(agent: Connection, method: str, path: str, body: object = None) -> Any:
    content = b"" if body is None else json.dumps(body).encode()
    status, _, answer = await agent.send(agent.prepare(method, f"/api/v3/agent{path}", content))
    assert status == 200, answer
    return json.loads(answer)


async def fill_queue(stack: Stack, job: int) -> None:
    """Starts builds until QUEUED builds are queued."""
    while (queued := stack.call("GET", "/api/v3/builds?status=queued&limit=1")["total"]) < QUEUED:
        await apply_load(stack, job, CLIENTS, max(1.0, (QUEUED - queued) / 1500))


async def _wait_until_projected(stack: Stack) -> None:
    connection = await Connection.open(stack.port, stack.token)
    for _ in range(100):
        status, _, _ = await connection.send(connection.prepare("GET", "/api/v3/readyz"))
        if status == 200:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the read models are still behind the log after 10 s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure writes over HTTP with read-your-writes.")
    parser.add_argument("--seconds", type=float, default=6, help="of each phase; three times that with kills")
    options = parser.parse_args()
    report = Report("write")
    with running_stack(agent=False) as stack:
        uvloop.run(measure(stack, options.seconds, report))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
