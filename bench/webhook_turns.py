"""Measures whether the webhooks of one project delay those of another, with a whole stack: `./dev bench webhook_turns`.

One project has 100 webhooks whose receiver takes 5 s to answer, and 200 of its builds end at once. Meanwhile builds of
another project end, one after the other. Latency is the time from such an end to its arrival at a quick receiver.
"""

import argparse
import asyncio
import sys
import time

from bench.support.load import ticks
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from bench.webhooks import CALLER, fetch_arrivals, running_receiver
from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import Handler
from store.clock import utcnow
from testhide.processes import Core, core

WEBHOOKS, EVENTS = 100, 200
SLOW_S = 5.0
"""Seconds that the slow receiver takes to answer."""
QUICK_EVENTS, QUICK_PER_S = 40, 2.0
ARRIVAL_TIMEOUT_S = 180


def create_job(stack: Stack, url: str, webhooks: int) -> int:
    """Creates a project with webhooks at one URL. Returns the id of a job of the project."""
    project = stack.create_project(f"{webhooks} webhooks")
    for _ in range(webhooks):
        body = {"url": url, "events": ["build.finished"], "project_id": project}
        stack.call("POST", "/api/v3/webhooks", body)
    return stack.create_job("webhooks", "true", project_id=project)


async def end_build(parts: Core, job_id: int) -> None:
    handler, build_id = Handler(parts.log, utcnow), await parts.ids.draw("builds")
    await handler.execute(StartBuild(build_id, job_id, branch="main", external=True), CALLER)
    await handler.execute(FinishExternalBuild(build_id, "passed"), CALLER)


def measure(stack: Stack, url: str, report: Report) -> None:
    slow, quick = create_job(stack, f"{url}/slow", WEBHOOKS), create_job(stack, f"{url}/fast", 1)

    async def run() -> None:
        async with core(stack.settings, pool_size=8) as parts:
            await asyncio.gather(*(end_build(parts, slow) for _ in range(EVENTS)))
            async for _ in ticks(QUICK_PER_S, QUICK_EVENTS / QUICK_PER_S):
                await end_build(parts, quick)
            deadline = time.perf_counter() + ARRIVAL_TIMEOUT_S
            arrived = fetch_arrivals(url)
            while len(arrived["fast"]) < QUICK_EVENTS and time.perf_counter() < deadline:
                await asyncio.sleep(1)  # between two looks
                arrived = fetch_arrivals(url)
        report.add("deliveries of the other project", len(arrived["fast"]), "deliveries", at_least=QUICK_EVENTS)
        report.add("deliveries to slow receivers meanwhile", len(arrived["slow"]), "deliveries")
        for percent, bound in ((50, 1), (100, 5)):
            report.add(
                f"end of a build of the other project until its arrival, p{percent}",
                percentile(arrived["fast"], percent),
                "s",
                at_most=bound,
            )

    asyncio.run(run())


def main() -> int:
    argparse.ArgumentParser(description="Measure whether the webhooks of one project delay others.").parse_args()
    report = Report("webhook_turns")
    with running_receiver(SLOW_S) as url, running_stack(agent=False) as stack:
        measure(stack, url, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
