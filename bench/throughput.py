"""Measures how many trivial builds are assigned and finished per second, and in which order: `./dev bench throughput`.

200 builds of all priorities are queued before the agents connect: 4 agents with 2 slots each, on the server's machine.
"""

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import psycopg

from bench.support.report import Report
from bench.support.stack import Stack, running_stack
from store.log.codec import Envelope

AGENTS, SLOTS = 4, 2
FINISH_TIMEOUT_S = 120.0


@contextlib.contextmanager
def running_agents(stack: Stack, pool: int, *options: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Runs AGENTS agents, with additional command-line options."""
    running = []
    try:
        for number in range(AGENTS):
            node = {"name": f"node-{number}", "pool_id": pool, "max_parallel": SLOTS}
            token = stack.data / f"token-{number}"
            token.touch(mode=0o600)
            token.write_text(stack.call("POST", "/api/v3/nodes", node)["agent_token"])
            command = [sys.executable, "-P", "-m", "agent", "--server", stack.url, "--token-file", str(token)]
            command += ["--workdir", str(stack.data / f"agent-{number}"), "--trust-builds", *options]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(10)


def measure(stack: Stack, builds: int, report: Report) -> None:
    project = stack.create_project("throughput")
    pool = stack.create_pool(project)
    job = stack.create_job("trivial", "true", project_id=project, node_pool_id=pool, max_parallel=1_000)
    priorities = {}
    for number in range(builds):
        priority = number * 7 % 10 + 1
        build = stack.call("POST", "/api/v3/builds/start", {"job_id": job, "priority": priority})["id"]
        priorities[build] = priority
    with running_agents(stack, pool):
        deadline = time.monotonic() + FINISH_TIMEOUT_S
        while stack.call("GET", f"/api/v3/builds?job_id={job}&status=passed&limit=1")["total"] < builds:
            assert time.monotonic() < deadline, f"the builds have not finished after {FINISH_TIMEOUT_S:.0f} s"
            time.sleep(0.2)
    assigned, began, ended = fetch_assignments(stack)
    turns = {
        build: turn for turn, build in enumerate(sorted(priorities, key=lambda build: (-priorities[build], build)))
    }
    # The builds of one round, at most one for each slot, are assigned at the same time, so in any order.
    late = sum(number - turns[build] >= AGENTS * SLOTS for number, build in enumerate(assigned))
    report.add("builds", builds, "builds")
    report.add("from the first assignment to the last end", builds / (ended - began), "builds/s", at_least=30)
    report.add("assigned after a build of a later round", late, "builds", at_most=0)


def fetch_assignments(stack: Stack) -> tuple[list[int], float, float]:
    """Returns the ids of the builds in order of assignment, the time of the first assignment, and the time at which the
    last build ended.
    """
    envelopes = msgspec.msgpack.Decoder(Envelope)
    with psycopg.connect(stack.settings.database_url) as connection:
        rows = connection.execute(
            "SELECT topic, originator_id, state FROM stored_events"
            " WHERE topic IN ('build.assigned', 'build.finished') ORDER BY notification_id"
        ).fetchall()
    times = {
        name: [envelopes.decode(state).at.timestamp() for topic, _, state in rows if topic == name]
        for name in ("build.assigned", "build.finished")
    }
    order = [int(stream.partition("-")[2]) for topic, stream, _ in rows if topic == "build.assigned"]
    return order, times["build.assigned"][0], times["build.finished"][-1]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure trivial builds a second, and their order.")
    parser.add_argument("--builds", type=int, default=200)
    options = parser.parse_args()
    report = Report("throughput")
    with running_stack(agent=False) as stack:
        measure(stack, options.builds, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
