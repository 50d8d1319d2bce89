"""The history that simulations read: events about rules and builds, found by the read model of the audit trail."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime

from psycopg_pool import AsyncConnectionPool

from domain.core.events import Event, Recorded, readable
from domain.triage import Classification, Source
from projections import audit_trail
from projections.audit_trail import TrailFilter
from projections.results_cases import TestCaseRow
from projections.triage import CLASSIFICATION, CLASSIFIED_BY, TRIAGE_JOINS
from store.log.event_log import EventLog
from store.postgres.queries import fetch_rows

POSITION_BATCH = 1_000
"""Number of positions that one query looks up."""


def never_stop() -> bool:
    return True


class RuleHistory:
    """Implements `commands.what_if.simulation.SimulatedHistory`. Contains all events about rules, and the events about
    builds from the time `since` on.

    Between batches, `parts` calls `go_on`. If this returns False, `parts` ends early, and `complete` stays False.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        log: EventLog,
        *,
        of_rules: Sequence[type[Event]],
        of_builds: Sequence[type[Event]],
        project_id: int | None = None,
        since: datetime | None = None,
        go_on: Callable[[], bool] = never_stop,
    ) -> None:
        self.complete = False
        self._go_on = go_on
        self._pool = pool
        self._log = log
        projects = None if project_id is None else [project_id]
        rules, builds = ([event.name for event in events] for events in (of_rules, of_builds))
        self._wanted = [TrailFilter(projects=projects, types=[*rules, *builds], since=since)]
        if since is not None:
            self._wanted.insert(0, TrailFilter(projects=projects, types=rules, until=since))

    async def parts(self) -> AsyncIterator[Sequence[Recorded]]:
        for wanted in self._wanted:
            position = 0
            while positions := await self._after(wanted, position):
                async for events, _, _ in self._log.read_pieces(positions):
                    if not self._go_on():
                        return
                    yield readable(events)
                position = positions[-1]
        self.complete = True

    async def node_ids(self, case_ids: Iterable[int]) -> dict[int, str]:
        query = f"SELECT id, node_id FROM {TestCaseRow.table} WHERE id = ANY (%(ids)s::bigint[])"
        return dict(await fetch_rows(self._pool, query, {"ids": list(case_ids)}))

    async def current_classifications(self, result_ids: Iterable[int]) -> dict[int, tuple[Classification, Source]]:
        query = (
            f"SELECT t.id, {CLASSIFICATION}, {CLASSIFIED_BY}"
            f" FROM unnest(%(ids)s::bigint[]) t(id){TRIAGE_JOINS} WHERE {CLASSIFIED_BY} IS NOT NULL"
        )
        return {
            result_id: (classification, source)
            for result_id, classification, source in await fetch_rows(self._pool, query, {"ids": list(result_ids)})
        }

    async def _after(self, wanted: TrailFilter, position: int) -> list[int]:
        rest = dataclasses.replace(wanted, after=position)
        return await audit_trail.find_positions(self._pool, rest, newest=False, limit=POSITION_BATCH)
