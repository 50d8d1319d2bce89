"""POST /builds/start, each answered when the read models show it: `python -m bench.write`.

One API worker, first one client, then sixteen, while the projector is killed three times. No agent, so the builds stay queued; then there are many, and
one more job with an agent shows that a long queue does not slow the dispatcher down.
"""

import argparse
import asyncio
import json
import sys
import time

import psycopg
import uvloop

from bench.http import Connection
from bench.report import Report, percentile
from bench.stack import Stack, running_stack

CLIENTS = 16
KILLS = 3


class Load:
    """What the clients saw."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.builds: list[int] = []
        self.failures: list[str] = []
        self.not_yet_shown = 0

    async def client(self, stack: Stack, job: int, until: float) -> None:
        connection = await Connection.open(stack.port, stack.token)
        start = connection.prepared("POST", "/api/v3/builds/start", json.dumps({"job_id": job}).encode())
        while (begin := time.perf_counter()) < until:
            status, head, body = await connection.send(start)
            self.seconds.append(time.perf_counter() - begin)
            if status != 201:
                self.failures.append(f"{status} {body.decode()}")
                continue
            self.builds.append(json.loads(body)["id"])
            self.not_yet_shown += b"testhide-projected: false" in head.lower()
        connection.close()


async def load(stack: Stack, job: int, clients: int, seconds: float, kills: int = 0) -> Load:
    seen = Load()
    begin = time.perf_counter()
    running = asyncio.gather(*(seen.client(stack, job, begin + seconds) for _ in range(clients)))
    for number in range(kills):
        await asyncio.sleep(begin + seconds * (number + 0.5) / kills - time.perf_counter())
        stack.kill("project")
    await running
    return seen


def stored(stack: Stack, seen: list[int]) -> tuple[int, int]:
    """How many of these builds are in the log, and how many in the read model: exactly once."""
    from projections.builds import BuildRow

    streams = [f"build-{build}" for build in seen]
    with psycopg.connect(stack.settings.database_url) as connection:
        events = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM stored_events WHERE topic = 'build.queued'"
            " AND originator_id = ANY (%s) GROUP BY originator_id HAVING count(*) = 1) AS once",
            (streams,),
        ).fetchone()
        rows = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {BuildRow.table} WHERE id = ANY (%s) GROUP BY id HAVING count(*) = 1)"
            " AS once".encode(),
            (seen,),
        ).fetchone()
    assert events is not None
    assert rows is not None
    return events[0], rows[0]


async def measure(stack: Stack, seconds: float, report: Report) -> None:
    job = stack.job("write", "true")
    await load(stack, job, CLIENTS, 1.0)  # warm
    alone = await load(stack, job, 1, seconds)
    report.add("1 client, p50", percentile(alone.seconds, 50) * 1000, "ms", at_most=5)
    report.add("1 client, p99", percentile(alone.seconds, 99) * 1000, "ms")
    calm = await load(stack, job, CLIENTS, seconds)
    report.add(f"{CLIENTS} clients, p50", percentile(calm.seconds, 50) * 1000, "ms")
    report.add(f"{CLIENTS} clients, p99", percentile(calm.seconds, 99) * 1000, "ms", at_most=50)
    report.add(f"{CLIENTS} clients", len(calm.builds) / seconds, "builds/s", at_least=1000)
    killed = await load(stack, job, CLIENTS, 3 * seconds, KILLS)
    report.add(f"projector killed {KILLS} times", len(killed.builds) / (3 * seconds), "builds/s")
    report.add("  answered before they were shown", killed.not_yet_shown, "builds")
    report.add("  longest", max(killed.seconds) * 1000, "ms")
    for text in (alone.failures + calm.failures + killed.failures)[:3]:
        print(f"failed: {text}")
    report.add("failed requests", len(alone.failures) + len(calm.failures) + len(killed.failures), at_most=0)
    builds = alone.builds + calm.builds + killed.builds
    await _caught_up(stack)
    in_log, shown = stored(stack, builds)
    report.add("acknowledged builds", len(builds), "builds")
    report.add("  not exactly once in the log", len(builds) - in_log, "builds", at_most=0)
    report.add("  not exactly once in the read model", len(builds) - shown, "builds", at_most=0)
    report.add("  acknowledged twice", len(builds) - len(set(builds)), "builds", at_most=0)


async def _caught_up(stack: Stack) -> None:
    connection = await Connection.open(stack.port, stack.token)
    for _ in range(100):
        status, _, _ = await connection.send(connection.prepared("GET", "/api/v3/readyz"))
        if status == 200:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the read models do not catch up")


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes with read-your-writes over HTTP.")
    parser.add_argument("--seconds", type=float, default=6, help="of each phase; three times that with kills")
    options = parser.parse_args()
    report = Report("write")
    with running_stack(agent=False) as stack:
        uvloop.run(measure(stack, options.seconds, report))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
