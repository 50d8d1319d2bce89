"""Says which tests have turned flaky, once an episode, as the read models count flaky runs."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commands.flakiness import SayFlaky
from commands.handler import CommandContext, Handler
from domain.core.errors import StreamDamaged
from domain.flakiness import STEADY_AFTER, TestTurnedFlaky
from domain.results import ResultsRecorded
from projections import flakiness, results
from projections.engine.engine import fetch_positions
from projections.flakiness import FlakyCase
from store.log.event_log import EventLog
from store.tables import flaky_baselines, log_positions
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

NAME = "flakiness"
EVERY_S = 2.0
BATCH_SIZE = 20
"""Reports."""
SAID_AT_ONCE = 100
CALLER = CommandContext("system:flakiness")


class Verdict(NamedTuple):
    is_news: bool
    """An episode begins."""
    is_noted: bool
    """What was known of the test is no longer true."""


@dataclass
class FlakinessWatch:
    """Any number of these may run: one at a time looks, and what was said already is not said again."""

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler

    async def run(self) -> None:
        """For ever."""
        while True:
            async with tolerate_outages("flaky tests"):
                while await self.look():
                    pass
            await asyncio.sleep(EVERY_S)

    async def look(self) -> bool:
        """At the next results that the read models show; whether there may be more."""
        async with self.pool.connection() as connection, connection.transaction():
            shown = (await fetch_positions(connection, (results.PROJECTION,))).get(results.PROJECTION.name, 0)
            position = await log_positions.lock_position(connection, NAME)
            if position is None:
                # What turned flaky before anyone watched is no news.
                await flaky_baselines.store(connection, await flakiness.fetch_flaky_counts(connection))
                await log_positions.move_position(connection, NAME, shown)
                return False
            batch = await self.event_log.read_batch(position, BATCH_SIZE, [ResultsRecorded.name], up_to=shown)
            for recorded in batch.events:
                # What is damaged is parked for the read models, too.
                if isinstance(recorded.event, ResultsRecorded):
                    await self._look_at(connection, recorded.event)
            if batch.position > position:
                await log_positions.move_position(connection, NAME, batch.position)
        return batch.is_full

    async def _look_at(self, connection: AsyncConnection, event: ResultsRecorded) -> None:
        cases = await flakiness.fetch_flaky_cases(connection, event.case_ids)
        seen = await flaky_baselines.fetch(connection, [case.test_case_id for case in cases])
        verdicts = [(case, verdict(case, seen.get(case.test_case_id))) for case in cases]
        await self._say(event, [case for case, found in verdicts if found.is_news])
        await flaky_baselines.store(
            connection, [(case.test_case_id, case.runs, case.flaky_runs) for case, found in verdicts if found.is_noted]
        )

    async def _say(self, event: ResultsRecorded, cases: Sequence[FlakyCase]) -> None:
        rows = {case_id: row for row, case_id in enumerate(event.case_ids)}  # of its last attempt
        tests = [
            TestTurnedFlaky(
                test_case_id=case.test_case_id,
                project_id=event.project_id,
                job_id=event.job_id,
                build_id=event.build_id,
                result_id=event.first_result_id + rows[case.test_case_id],
                runs=case.runs,
                flaky_runs=case.flaky_runs,
                node_id=case.node_id,
                suite=case.suite,
            )
            for case in cases
        ]
        for first in range(0, len(tests), SAID_AT_ONCE):
            try:
                await self.handler.execute(SayFlaky(tuple(tests[first : first + SAID_AT_ONCE])), CALLER)
            except StreamDamaged as error:
                log.error("not said to be flaky", build=event.build_id, detail=error.detail)


def verdict(case: FlakyCase, seen: tuple[int, int] | None) -> Verdict:
    """`seen`: its runs and flaky runs at the last flaky one."""
    if seen is None:
        return Verdict(is_news=True, is_noted=True)
    runs, flaky_runs = seen
    if case.flaky_runs <= flaky_runs:
        # Fewer: a run was corrected.
        return Verdict(is_news=False, is_noted=case.flaky_runs < flaky_runs)
    return Verdict(is_news=case.runs - runs > STEADY_AFTER, is_noted=True)
