"""Decides when tests turn flaky, and records it. The read models count the runs of each test.

A test turns flaky at its first flaky run. It turns flaky again at a later flaky run if at least STEADY_AFTER runs since
the previous flaky run were not flaky. `workers.emerging` decides when flakiness emerges and is settled.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commands.flakiness import RecordChangedFlakiness, RecordFlakyTests
from commands.handler import Command, CommandContext, Handler
from domain.core.errors import StreamDamaged
from domain.flakiness import STEADY_AFTER, TestTurnedFlaky
from domain.results import ResultsRecorded
from projections import emerging, flakiness, results
from projections.engine.inspection import inspect
from projections.flakiness import FlakyCase
from store.log.event_log import EventLog
from store.tables import flaky_baselines, log_positions
from workers.emerging import find_changes
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

NAME = "flakiness"
"""Name of the stored position of the FlakinessWatch."""
POLL_INTERVAL_S = 2.0
"""Seconds between two searches for new results. The delay matters little: under load it takes longer until the read
models have the results.
"""
BATCH_SIZE = 20
"""Number of blocks of results that one transaction handles. A block has up to a thousand results."""
COMMAND_SIZE = 100
"""Largest number of tests in one command. The command reads a stream for each of them."""
CALLER = CommandContext("system:flakiness")


class FlakyVerdict(NamedTuple):
    turned_flaky: bool
    is_new_baseline: bool
    """Whether the test's present numbers of runs and flaky runs are stored, to be compared with those at its next flaky
    run.
    """


@dataclass
class FlakinessWatch:
    """Worker that records which tests turned flaky. Any number may run: they take turns, and nothing is recorded
    twice.
    """

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler

    async def run(self) -> None:
        """Records flaky tests until cancelled."""
        while True:
            async with tolerate_outages("flaky tests"):
                while await self.record_next_batch():
                    pass
            await asyncio.sleep(POLL_INTERVAL_S)

    async def record_next_batch(self) -> bool:
        """Records which tests turned flaky in the next batch of results. Returns True if another batch may follow."""
        await log_positions.hold_beyond(self.pool, [NAME])
        async with self.pool.connection() as connection, connection.transaction():
            live = await inspect(connection, (results.PROJECTION, emerging.PROJECTION))
            if live.broken:
                return False  # the stored position may be beyond the log
            shown = live.positions.get(results.PROJECTION.name, 0)
            position = await log_positions.lock_position(connection, NAME)
            if position is None:
                # Tests that turned flaky before the first watch ran are not recorded.
                await flaky_baselines.store(connection, await flakiness.fetch_flaky_counts(connection))
                await log_positions.move_position(connection, NAME, shown)
                return False
            batch = await self.event_log.read_batch(position, BATCH_SIZE, [ResultsRecorded.name], up_to=shown)
            for recorded in batch.events:
                # A damaged event has no results in the read models either.
                if isinstance(recorded.event, ResultsRecorded):
                    await self._look_at(connection, recorded.event)
            if batch.position > position:
                await log_positions.move_position(connection, NAME, batch.position)
        return batch.is_full

    async def _look_at(self, connection: AsyncConnection, event: ResultsRecorded) -> None:
        cases = await flakiness.fetch_flaky_cases(connection, event.case_ids)
        baselines = await flaky_baselines.fetch(connection, [case.test_case_id for case in cases])
        verdicts = [(case, judge(case, baselines.get(case.test_case_id))) for case in cases]
        await self._record(event, [case for case, verdict in verdicts if verdict.turned_flaky])
        await flaky_baselines.store(
            connection,
            [(case.test_case_id, case.runs, case.flaky_runs) for case, verdict in verdicts if verdict.is_new_baseline],
        )

        changes = await find_changes(connection, event)
        for first in range(0, len(changes), COMMAND_SIZE):
            await self._execute(RecordChangedFlakiness(tuple(changes[first : first + COMMAND_SIZE])), event)

    async def _record(self, event: ResultsRecorded, cases: Sequence[FlakyCase]) -> None:
        rows = {case_id: row for row, case_id in enumerate(event.case_ids)}  # the last attempt of each test
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
        for first in range(0, len(tests), COMMAND_SIZE):
            await self._execute(RecordFlakyTests(tuple(tests[first : first + COMMAND_SIZE])), event)

    async def _execute(self, command: Command, event: ResultsRecorded) -> None:
        try:
            await self.handler.execute(command, CALLER)
        except StreamDamaged as error:
            log.error("flaky tests not recorded", build=event.build_id, detail=error.detail)


def judge(case: FlakyCase, baseline: tuple[int, int] | None) -> FlakyVerdict:
    """Decides whether a test has turned flaky. `baseline` is (runs, flaky runs) as counted at the test's last flaky
    run; None if there was no such run.
    """
    if baseline is None:
        return FlakyVerdict(turned_flaky=True, is_new_baseline=True)
    runs, flaky_runs = baseline
    if case.flaky_runs <= flaky_runs:
        # There are fewer flaky runs than before if a run was corrected.
        return FlakyVerdict(turned_flaky=False, is_new_baseline=case.flaky_runs < flaky_runs)
    return FlakyVerdict(turned_flaky=case.runs - runs > STEADY_AFTER, is_new_baseline=True)
