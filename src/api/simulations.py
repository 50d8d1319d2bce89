"""Simulates what-if rules: which failures of the past they would have classified otherwise, and which verdicts would
differ.
"""

import asyncio

import msgspec
from litestar import Controller, post

from api.audit import must_access_project
from api.http.permissions import CAN_AUDIT
from api.http.request_context import RequestContext
from api.http.types import Id
from commands.audit import NoteReading
from commands.validation import Time
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
"""Seconds for which one request may simulate the history."""
MAX_SHOWN = 1_000

one_at_a_time = asyncio.Lock()
"""Lock that lets only one request simulate at a time. A simulation searches all failures for patterns, so several at
once would slow down all other requests.
"""


class SimulationRequest(WhatIfRules, frozen=True, forbid_unknown_fields=True):
    """What-if rules, and the part of the history to simulate."""

    project_id: Id | None = None
    """Id of the project to simulate; required for users who are not admins."""
    since: Time | None = None
    """Earliest time at which a simulated build was queued; null to simulate all builds."""


class SimulationAnswer(msgspec.Struct):
    tests: list[TestDiffers]
    """The first 1,000 failures, in the order of the log, that would have another classification. `tests_total` counts
    all of them.
    """
    tests_total: int
    """Number of failures that would have been classified otherwise."""
    verdicts: list[VerdictDiffers]
    """The first 1,000 builds that would have another verdict. `verdicts_total` counts all of them."""
    verdicts_total: int
    """Number of builds that would have ended with another verdict."""
    replayed: Replayed
    """Counts of the builds and failures that were simulated."""
    complete: bool
    """Whether the whole history was simulated in time. If not, choose a later `since`, or use `testhide replay --rules`
    on the server.
    """


class SimulationController(Controller):
    path = "/audit/replay"
    tags = ["Audit"]

    @post(status_code=200, opt={"problems": (TooManyRequests,)}, guards=[CAN_AUDIT])
    async def simulate_rules(self, ctx: RequestContext, data: SimulationRequest) -> SimulationAnswer:
        """Returns the failures that the what-if rules would have classified otherwise, and the builds that would have
        had another verdict.
        """
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
        given = {"project_id": project_id, "since": data.since}
        parameters = {name: str(value) for name, value in given.items() if value is not None}
        async with one_at_a_time:
            read_id = await ctx.services.ids.draw("audit_reads")
            await ctx.execute_unseen(NoteReading(read_id, "replay", parameters, None, project_id))
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
