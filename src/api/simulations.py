"""Replays the history with what-if rules: which results and verdicts they would have changed."""

import asyncio

import msgspec
from litestar import Controller, post

from api.audit import must_access_project
from api.http.permissions import CAN_SIMULATE
from api.http.request_context import RequestContext
from api.http.types import Id
from api.http.validation import Time
from commands.what_if.rules import MAX_BYTES, WhatIfRules
from commands.what_if.simulation import (
    BUILD_EVENTS,
    RULE_EVENTS,
    Replayed,
    Simulation,
    TestDiffers,
    VerdictDiffers,
    differences,
)
from domain.core.errors import Invalid, TooLarge, TooManyRequests
from projections.time_travel.rule_history import RuleHistory

TIME_LIMIT_S = 20.0
"""Seconds that one request may simulate the history."""
MAX_SHOWN = 1_000

one_at_a_time = asyncio.Lock()
"""Lets one request simulate at a time: it searches patterns in all failures, and two would take both cores."""


class SimulationRequest(WhatIfRules, frozen=True, forbid_unknown_fields=True):
    """The rules of a rules file, and the part of the history to simulate."""

    project_id: Id | None = None
    """Required of users who are not admins."""
    since: Time | None = None
    """Simulates only builds that were queued at this time or later."""


class SimulationAnswer(msgspec.Struct):
    tests: list[TestDiffers]
    """The first 1,000 by position in the log; `tests_total` is their number."""
    tests_total: int
    """How many results would have been classified otherwise."""
    verdicts: list[VerdictDiffers]
    """Builds that would have ended otherwise; the first 1,000."""
    verdicts_total: int
    """How many builds would have ended otherwise."""
    replayed: Replayed
    """Counts of the builds and failures that were simulated."""
    complete: bool
    """False when the time ran out: ask for less by `since`, or use `testhide replay --rules` on the server."""


class SimulationController(Controller):
    path = "/audit/replay"
    tags = ["Audit"]

    @post(status_code=200, opt={"problems": (TooManyRequests,)}, guards=[CAN_SIMULATE])
    async def simulate_rules(self, ctx: RequestContext, data: SimulationRequest) -> SimulationAnswer:
        """Which failures would have been classified otherwise, and which builds would have ended otherwise."""
        project_id = data.project_id
        if project_id is not None:
            await must_access_project(ctx, project_id)
        elif not ctx.user.is_admin:
            raise Invalid.field("project_id", "is required: only admins replay all projects at once")
        if len(await ctx.request.body()) > MAX_BYTES:
            raise TooLarge(f"Rules have at most {MAX_BYTES:,} bytes.")
        await asyncio.to_thread(data.check)
        if one_at_a_time.locked():
            raise TooManyRequests("Another replay is running; try again in a while.", retry_after_s=5)
        async with one_at_a_time:
            return await simulate_history(ctx, data)


async def simulate_history(ctx: RequestContext, data: SimulationRequest) -> SimulationAnswer:
    clock = asyncio.get_running_loop().time
    deadline = clock() + TIME_LIMIT_S
    history = RuleHistory(
        ctx.services.pool,
        ctx.services.log,
        of_rules=RULE_EVENTS,
        of_builds=BUILD_EVENTS,
        project_id=data.project_id,
        since=data.since,
        go_on=lambda: clock() < deadline,
    )
    simulation = Simulation(data)
    answer = SimulationAnswer([], 0, [], 0, simulation.counts, complete=True)
    async for difference in differences(history, simulation):
        match difference:
            case TestDiffers():
                answer.tests_total += 1
                answer.tests += [difference] if len(answer.tests) < MAX_SHOWN else []
            case VerdictDiffers():
                answer.verdicts_total += 1
                answer.verdicts += [difference] if len(answer.verdicts) < MAX_SHOWN else []
    answer.complete = history.complete
    return answer
