"""Division of a job's tests or files into shards, which builds run side by side."""

import asyncio
from typing import Annotated, Literal

import msgspec
from litestar import Controller, post
from msgspec import Meta

from api.http.body_limits import LARGE_BYTES
from api.http.permissions import CAN_READ
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.jobs import find_visible_job
from commands.configurations import shorten_branch
from domain.core.errors import Invalid
from domain.splitting import estimate_durations, split
from projections import splitting

MAX_NAMES = 100_000
MAX_SHARDS = 1_000

SplitName = Annotated[str, Meta(min_length=1, max_length=4_096)]
Names = Annotated[list[SplitName], Meta(min_length=1, max_length=MAX_NAMES)]


class SplitRequest(msgspec.Struct):
    """The number of shards, and either `tests` or `files`."""

    shards: Annotated[int, Meta(ge=1, le=MAX_SHARDS)]
    """Number of shards."""
    tests: Names | None = None
    """Node ids of the tests to divide."""
    files: Names | None = None
    """Files to divide, each written as the node ids of its tests begin, such as `tests/test_cart.py`."""


class Shard(msgspec.Struct):
    names: list[str]
    """Tests or files of the shard, in the order of the request. May be empty, for example if the request has more
    shards than names.
    """
    expected_s: float | None
    """Seconds that the tests or files of the shard probably take, one after the other; null if no duration is known."""


class SplitAnswer(msgspec.Struct):
    shards: list[Shard]
    """The shards, as many as the request asked for."""
    unknown: list[str]
    """Tests or files without a known duration. Each counts as if it took the median of the known durations."""


class SplittingController(Controller):
    path = "/jobs/{job_id:int}/split"
    tags = ["Jobs"]

    @post(status_code=200, guards=[CAN_READ], request_max_body_size=LARGE_BYTES)
    async def split_tests(self, ctx: RequestContext, job_id: int, data: SplitRequest) -> SplitAnswer:
        """Divides tests or files into shards that take about the same time, by the durations in the job's newest
        builds. Every name is in one shard; names that occur twice count once. If durations or the list of names change
        a little, few names move to another shard.
        """
        kind: Literal["tests", "files"] = "files" if data.tests is None else "tests"
        names = data.files if data.tests is None else data.tests
        if names is None:
            raise Invalid.field("tests", "is required, or files")
        if data.tests is not None and data.files is not None:
            raise Invalid.field("files", "is not possible together with tests")
        await find_visible_job(ctx, job_id)  # before the turn, so that nobody waits for one in vain
        async with take_turn(ctx.request, ctx.services.analysis_turns):
            async with ctx.reading() as connection:
                job = await find_visible_job(ctx, job_id)
                known_ms = await splitting.fetch_durations(
                    connection, job_id, shorten_branch(job.default_branch), kind, names
                )
            return await asyncio.to_thread(divide, names, known_ms, data.shards)


def divide(names: list[str], known_ms: dict[str, float], shards: int) -> SplitAnswer:
    durations_ms = estimate_durations(names, known_ms)
    return SplitAnswer(
        shards=[
            Shard(found, round(sum(durations_ms[name] for name in found) / 1000, 3) if known_ms else None)
            for found in split(durations_ms, shards)
        ],
        unknown=[name for name in durations_ms if name not in known_ms],
    )
