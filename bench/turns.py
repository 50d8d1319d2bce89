"""Measures whether one project delays the builds of others, with a whole stack: `./dev bench turns`.

The hooks of one project report 1,600 pushes in 8 messages. Each push starts a build. Meanwhile other
projects push one after the other. Measured is the time from the message about such a push until its build is queued.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import sys
import time
from urllib.request import Request, urlopen

from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from domain.builds import BuildQueued
from store.log.event_log import EventLog
from testhide.processes import core

MESSAGES, CHANGES = 8, 200
OTHERS = 10
"""Number of other projects. Each pushes once."""
TIMEOUT_S = 600.0
REPOSITORY = "https://bitbucket.org/acme/web"


class Pusher:
    """A project with a job that every push starts."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self.project = stack.create_project(name)
        rotated = stack.call("POST", f"/api/v3/projects/{self.project}/rotate-webhook-secret", {})
        self._secret = rotated["webhook_secret"].encode()
        job = stack.create_job(name, "true", project_id=self.project, repository=REPOSITORY)
        stack.call("PUT", f"/api/v3/jobs/{job}/triggers", {"branches": ["**"]})

    def push(self, name: str, branches: int) -> None:
        """Sends one message about pushes of so many branches, as Bitbucket does."""
        commit = {"hash": hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest(), "message": name}
        pushed = [
            {"new": {"type": "branch", "name": f"{name}-{number}", "target": commit}, "old": None}
            for number in range(branches)
        ]
        body = json.dumps({"push": {"changes": pushed}, "repository": {"full_name": "acme/web"}}).encode()
        headers = {
            "X-Event-Key": "repo:push",
            "X-Request-UUID": f"{self.project}-{name}",
            "X-Hub-Signature": f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}",
            "Content-Type": "application/json",
        }
        with urlopen(Request(f"{self._stack.url}/webhook/proj/{self.project}", body, headers), timeout=30) as answer:
            answer.read()


async def wait_for_builds(log: EventLog, after: int, project: int, count: int) -> int:
    """Waits until so many builds of a project were queued after a position. Returns their number, which is smaller if
    it takes more than TIMEOUT_S.
    """
    deadline, found = time.perf_counter() + TIMEOUT_S, 0
    while found < count and time.perf_counter() < deadline:
        batch = await log.read_batch(after, 10_000, [BuildQueued.name])
        found += sum(isinstance(one.event, BuildQueued) and one.event.project_id == project for one in batch.events)
        after = batch.position
        await asyncio.sleep(0.02)  # between two looks
    return found


def measure(stack: Stack, report: Report) -> None:
    flooding = Pusher(stack, "flooding")
    others = [Pusher(stack, f"other {number}") for number in range(OTHERS)]

    async def run() -> None:
        async with core(stack.settings, pool_size=2) as parts:
            head, began = await parts.log.read_head(), time.perf_counter()
            for number in range(MESSAGES):
                await asyncio.to_thread(flooding.push, f"flood{number}", CHANGES)
            latencies: list[float] = []
            for other in others:
                pushed, after = time.perf_counter(), await parts.log.read_head()
                await asyncio.to_thread(other.push, "quick", 1)
                await wait_for_builds(parts.log, after, other.project, 1)
                latencies.append(time.perf_counter() - pushed)
            builds = MESSAGES * CHANGES
            queued = await wait_for_builds(parts.log, head, flooding.project, builds)
            took = time.perf_counter() - began
        report.add("builds of the pushes of one project", queued, "builds", at_least=builds, at_most=builds)
        report.add("all queued, after the first message", took, "s")
        for percent in (50, 100):
            bound = 5 if percent == 100 else None
            report.add(
                f"push of another project until its build, p{percent}",
                percentile(latencies, percent),
                "s",
                at_most=bound,
            )

    asyncio.run(run())


def main() -> int:
    argparse.ArgumentParser(description="Measure whether one project delays the builds of others.").parse_args()
    report = Report("turns")
    with running_stack(agent=False) as stack:
        measure(stack, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
