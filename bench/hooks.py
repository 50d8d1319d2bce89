"""Measures inbound hooks of a whole stack, from the message to the builds: `./dev bench hooks`.

A project has 200 jobs. The branch globs of each job match branches that no other job builds; all jobs have the same
path globs. A burst of messages arrives. Each message is about a push to the branch of one job, in turn, and so starts
one build. Every tenth message is sent twice.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import sys
import time

import aiohttp
import psutil

from bench.support.load import read_cpu_s
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from domain.builds import BuildQueued
from domain.changes import ChangeReceived
from testhide.processes import core

JOBS = 200
CONNECTIONS = 32
"""Number of messages that are sent at the same time."""
REPEAT_EVERY = 10
TIMEOUT_S = 300.0
"""Seconds within which all builds must be queued."""
MAX_ANSWER_MS = 200


def create_jobs(stack: Stack) -> tuple[int, str]:
    """Creates the project and its jobs. Returns the project's id and its webhook secret."""
    project = stack.create_project("hooks")
    secret = stack.call("POST", f"/api/v3/projects/{project}/rotate-webhook-secret", {})["webhook_secret"]
    for number in range(JOBS):
        job = stack.create_job(f"hooks {number}", "true", project_id=project, repository="https://github.com/acme/web")
        triggers = {"branches": [f"team-{number}/*", f"release/{number}.*"], "paths": ["src/**", "!src/vendor/**"]}
        stack.call("PUT", f"/api/v3/jobs/{job}/triggers", triggers)
    return project, secret


def make_payload(number: int) -> bytes:
    commit = {"message": f"Change {number}", "added": [f"src/{number}.py"], "removed": [], "modified": ["README.md"]}
    payload = {
        "ref": f"refs/heads/team-{number % JOBS}/work",
        "before": "b" * 40,
        "forced": False,
        "after": hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest(),
        "repository": {"full_name": "acme/web"},
        "commits": [commit] * 20,
        "head_commit": commit,
    }
    return json.dumps(payload).encode()


def sign(body: bytes, secret: str) -> str:
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


async def send_burst(stack: Stack, project: int, secret: str, count: int) -> list[float]:
    """Sends `count` messages. Returns the seconds until the answer to each of them."""
    numbers = iter([number for number in range(count) for _ in range(1 + (number % REPEAT_EVERY == 0))])
    latencies: list[float] = []

    async def send(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            body = make_payload(number)
            headers = {
                "X-GitHub-Event": "push",
                "X-GitHub-Delivery": f"delivery-{number}",
                "X-Hub-Signature-256": sign(body, secret),
                "Content-Type": "application/json",
            }
            began = time.perf_counter()
            async with session.post(f"{stack.url}/webhook/proj/{project}", data=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 200, await answer.text()
            latencies.append(time.perf_counter() - began)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(send(session))
    return latencies


def measure(stack: Stack, count: int, report: Report) -> None:
    project, secret = create_jobs(stack)

    async def run() -> None:
        async with core(stack.settings, pool_size=2) as parts:
            serving = [psutil.Process(stack.pids["serve"])]
            head, began, cpu = await parts.log.read_head(), time.perf_counter(), read_cpu_s(serving)
            latencies = await send_burst(stack, project, secret, count)
            took, cpu = time.perf_counter() - began, read_cpu_s(serving) - cpu
            queued: list[BuildQueued] = []
            while len(queued) < count and time.perf_counter() - began < TIMEOUT_S:
                await asyncio.sleep(0.2)
                found = await parts.log.read(head, 10 * count, [BuildQueued.name])
                queued = [item.event for item in found if isinstance(item.event, BuildQueued)]
            evaluated = time.perf_counter() - began
            received = await parts.log.read(head, 10 * count, [ChangeReceived.name])
            changes = {build.trigger.change_id for build in queued if build.trigger is not None}
            right = sum(build.commit_sha is not None for build in queued)
            report.add("messages, with repeated ones", len(latencies), "messages")
            report.add("messages answered", len(latencies) / took, "messages/s")
            report.add("CPU time of `testhide serve` for one", cpu / len(latencies) * 1000, "ms")
            for percent in (50, 99):
                bound = MAX_ANSWER_MS if percent == 99 else None
                report.add(f"answer, p{percent}", percentile(latencies, percent) * 1000, "ms", at_most=bound)
            report.add("changes recorded", len(received), "changes", at_least=count, at_most=count)
            report.add("changes without a build", count - len(changes), "changes", at_most=0)
            report.add("builds beyond one for each change", len(queued) - len(changes), "builds", at_most=0)
            report.add("builds with their commit", right, "builds", at_least=count)
            report.add("all evaluated, after the first message", evaluated, "s")
            report.add("changes evaluated, each for 200 jobs", count / evaluated, "changes/s")

    asyncio.run(run())


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure inbound hooks, from the message to the builds.")
    parser.add_argument("--messages", type=int, default=1_000)
    options = parser.parse_args()
    report = Report("hooks")
    with running_stack(agent=False) as stack:
        measure(stack, options.messages, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
