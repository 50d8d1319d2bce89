"""Finds the tests of a build that runs one shard of its build group. The message to the build's agent names these
tests.
"""

import asyncio
from typing import Any

from api.http.services import Services
from commands.configurations import shorten_branch
from commands.divisions import DivideTests
from commands.handler import CommandContext
from domain.builds import BuildQueued
from domain.divisions import DIVISION, divide_cases, find_unit
from domain.jobs import JOB
from domain.matrix import SHARD_NAME, SHARDS_VARIABLE
from projections import splitting


async def find_shard(services: Services, queued: BuildQueued) -> dict[str, Any] | None:
    """Returns the number of the build's shard, the number of shards, and the known tests: those of this shard, and
    those of all other shards. Returns None for a build that runs all tests, or that names the tests that it runs.

    The first call for a build of the group decides the division for all builds of the group.
    """
    number = queued.matrix.get(SHARD_NAME)
    if number is None or queued.group_id is None or queued.test_ids is not None:
        return None
    division = await services.log.load_state(DIVISION.at(queued.group_id))
    if not division.shards:
        shards = int(queued.configuration.env[SHARDS_VARIABLE])
        job = await services.log.load_state(JOB.at(queued.job_id))
        async with services.pool.connection() as connection:
            branch = queued.branch if job is None else shorten_branch(job.default_branch)
            cases = await splitting.fetch_cases(connection, queued.job_id, branch, shards)
        shard_of = await asyncio.to_thread(divide_cases, cases, shards)
        command = DivideTests(queued.group_id, queued.job_id, queued.project_id, shards, shard_of)
        await services.handler.execute(command, CommandContext("system:dispatch"))
        division = await services.log.load_state(DIVISION.at(queued.group_id))
    async with services.pool.connection() as connection:
        node_ids = await splitting.fetch_node_ids(connection, list(division.shard_of))
    tests: list[str] = []
    other_tests: list[str] = []
    for case_id, shard in division.shard_of.items():
        if case_id in node_ids:
            (tests if str(shard) == number else other_tests).append(find_unit(node_ids[case_id]))
    return {"number": int(number), "count": division.shards, "tests": tests, "other_tests": other_tests}
