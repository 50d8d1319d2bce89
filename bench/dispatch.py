"""Measures the time from POST /builds/start to the first output at a client: `./dev bench dispatch`.

The stack has one agent, which is idle before each build. Server, agent and client run on this machine, so they share
one clock. The build's command prints the time in each line. This gives the time at which the command started, and each
line's delay from print to arrival.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections import defaultdict

import msgspec
import psycopg
import uvloop

from bench.support.http import Connection
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from store.log.codec import Envelope

PRINT_TIME = "date +%s%N"
PRINT_40_TIMES = "for i in $(seq 40); do date +%s%N; sleep 0.05; done"
PRINTED_TIME = re.compile(r"\] (\d{19})$")
STEPS = {"build.queued": "queued", "build.assigned": "assigned", "build.started": "started"}


async def follow(stack: Stack, job: int) -> tuple[int, float, float, list[tuple[float, float]]]:
    """Starts a build and reads its stream. Returns the build's id, the times of the request and of its answer, and
    (time printed, time arrived) for each line.
    """
    connection = await Connection.open(stack.port, stack.token)
    start = connection.prepare("POST", "/api/v3/builds/start", json.dumps({"job_id": job}).encode())
    asked = time.time()
    status, _, body = await connection.send(start)
    answered = time.time()
    assert status == 201, body
    build = json.loads(body)["id"]
    lines: list[tuple[float, float]] = []
    async for chunk in connection.stream(connection.prepare("GET", f"/api/v3/builds/{build}/stream")):
        arrived = time.time()
        texts = [json.loads(text).get("data", "") for text in re.findall(r"data: (\{.*\})", chunk.decode())]
        lines.extend((int(found[1]) / 1e9, arrived) for text in texts if (found := PRINTED_TIME.search(text)))
    connection.close()
    return build, asked, answered, lines


async def measure(stack: Stack, builds: int, report: Report) -> None:
    first, many = stack.create_job("first", PRINT_TIME), stack.create_job("many", PRINT_40_TIMES)
    steps: dict[str, list[float]] = defaultdict(list)
    begun: dict[int, float] = {}
    for number in range(builds + 2):
        await asyncio.sleep(0.5)  # until the agent is idle and its poll is open
        build, asked, answered, lines = await follow(stack, first)
        if number < 2:
            continue  # the first two warm up connections and caches
        begun[build] = asked
        printed, arrived = lines[0]
        steps["answered"].append(answered - asked)
        steps["command printed"].append(printed - asked)
        steps["first output at the client"].append(arrived - asked)
    for name, at, build in fetch_event_times(stack, list(begun)):
        steps[name].append(at - begun[build])
    for name in ("queued", "assigned", "answered", "started", "command printed"):
        report.add(f"POST to {name}, p50", percentile(steps[name], 50) * 1000, "ms")
    whole = steps["first output at the client"]
    report.add("POST to first output at the client, p50", percentile(whole, 50) * 1000, "ms", at_most=100)
    report.add("POST to first output at the client, max", max(whole) * 1000, "ms")
    delays = [arrived - printed for _ in range(3) for printed, arrived in (await follow(stack, many))[3]]
    report.add("print to arrival, p50", percentile(delays, 50) * 1000, "ms", at_most=150)
    report.add("print to arrival, p99", percentile(delays, 99) * 1000, "ms")


def fetch_event_times(stack: Stack, builds: list[int]) -> list[tuple[str, float, int]]:
    """Returns (step, time, build id) for each stored event of these builds."""
    envelopes = msgspec.msgpack.Decoder(Envelope)
    with psycopg.connect(stack.settings.database_url) as connection:
        rows = connection.execute(
            "SELECT topic, state, originator_id FROM stored_events WHERE originator_id = ANY (%s) AND topic = ANY (%s)",
            ([f"build-{build}" for build in builds], list(STEPS)),
        ).fetchall()
    return [
        (STEPS[topic], envelopes.decode(state).at.timestamp(), int(stream.partition("-")[2]))
        for topic, state, stream in rows
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the time from POST to the command's first output.")
    parser.add_argument("--builds", type=int, default=20)
    options = parser.parse_args()
    report = Report("dispatch")
    with running_stack(agent=True) as stack:
        uvloop.run(measure(stack, options.builds, report))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
