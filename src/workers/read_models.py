"""Compares read models with the log, to find rows that somebody changed by hand. A difference sets an alarm, which ends
when the difference is gone.

These read models are compared: those that decide who may do what, those of the jobs' triggers and of known issues, and
the audit trail. Of builds and test cases, only the values that never change are compared. Each sweep folds the small
read models from the log in memory, and compares all their rows. It compares the large ones in parts: it reads the next
part of the log, and compares only the rows that come from this part. After the last part, the comparison begins again.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.core.events import Event, Recorded
from domain.known_issues import KnownIssueCreated, KnownIssueDeleted, KnownIssueFailureAdded, KnownIssueUpdated
from domain.nodes import NodeEvent
from domain.projects import (
    MemberAdmitted,
    MemberRemoved,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    WebhookSecretRotated,
)
from domain.registry import EVENTS
from domain.users import UserDeleted
from projections import (
    audit_trail,
    auth,
    builds,
    identity_providers,
    known_issues,
    nodes,
    pools,
    projects,
    results,
    triggers,
)
from projections.audit_trail import TrailRow, make_row
from projections.engine.dismissals import with_dismissals
from projections.engine.inspection import inspect
from projections.engine.model import Projection, Row, columns_of
from projections.engine.parking import blocked_streams
from projections.engine.read_your_writes import ProjectionWaiter
from projections.ids_in_use import describe_behind, find_sequences_behind
from projections.rebuild.diff import TableDiff, compare_tables
from projections.time_travel.historical_tables import HistoricalTables
from store.log.event_log import EventLog
from store.postgres.queries import fetch_rows
from store.tables.alarms import set_alarm
from workers.deliveries.comparison import find_changes
from workers.read_model_parts import find_changed_builds, find_changed_cases

log = structlog.get_logger()

INTERVAL_S = 300.0
"""Seconds between two sweeps while the last one found no difference."""
ALARMED_INTERVAL_S = 10.0
"""Seconds between two sweeps while there is a difference, so that the alarm ends soon after a rebuild."""
BATCH_SIZE = 500
"""Number of events that are read at once."""
TRAIL_EVENTS = 20_000
"""Largest number of positions of the log that one sweep covers when it compares the log with the audit trail, and with
the read models of builds and test cases.
"""


@dataclass(frozen=True)
class Compared:
    """The tables of a projection to compare, and the events that change these tables."""

    projection: Projection
    rows: tuple[type[Row], ...]
    events: tuple[type[Event], ...]
    not_compared: frozenset[str] = frozenset()
    """Columns that are not compared: those that follow from builds and jobs, and the progress of searches for known
    issues. They do not affect access, and there are far too many events of builds and jobs to read. All other columns
    are compared, including columns that later releases add.
    """


def _all_of(projection: Projection) -> Compared:
    return Compared(projection, projection.rows, projection.handles or (Event,))


PROJECTS = Compared(
    projects.PROJECTION,
    projects.PROJECTION.rows,
    (
        *(ProjectCreated, ProjectUpdated, WebhookSecretRotated, ProjectDeleted),
        *(MemberAdmitted, MemberRemoved, UserDeleted),
    ),
    frozenset(("jobs_count", "last_build_at")),
)
NODES = Compared(
    nodes.PROJECTION,
    nodes.PROJECTION.rows,
    (NodeEvent,),
    frozenset(("running_builds", "failed_builds", "lost_builds")),
)
KNOWN_ISSUES = Compared(
    known_issues.PROJECTION,
    known_issues.PROJECTION.rows,
    (KnownIssueCreated, KnownIssueUpdated, KnownIssueFailureAdded, KnownIssueDeleted, ProjectDeleted),
    frozenset(("searched",)),
)
COMPARED = (
    *(_all_of(auth.PROJECTION), _all_of(identity_providers.PROJECTION), PROJECTS, NODES),
    *(_all_of(pools.PROJECTION), _all_of(triggers.PROJECTION), KNOWN_ISSUES),
)
TRAIL = audit_trail.PROJECTION
FindChanged = Callable[[AsyncConnectionPool, EventLog, Sequence[Recorded]], Awaitable[dict[int, int]]]
IN_PARTS: tuple[tuple[Projection, str, FindChanged], ...] = (
    (builds.PROJECTION, "builds", find_changed_builds),
    (results.PROJECTION, "test cases", find_changed_cases),
)
"""Read models that are compared with the same part of the log as the audit trail: for each the projection, the name of
its rows for messages, and the function that finds rows which differ.
"""


@dataclass
class ReadModelCheck:
    conninfo: str
    pool: AsyncConnectionPool
    event_log: EventLog
    waiter: ProjectionWaiter
    _trail_position: int = 0
    """Position up to which the audit trail, and the read models in IN_PARTS, have been compared since the comparison
    last began.
    """

    async def sweep(self) -> bool:
        """Compares the read models in COMPARED, those in IN_PARTS, and the audit trail with the log. Sets an alarm for
        each read model that differs, and ends the alarm of each that does not. Skips read models that are broken or
        have parked events. Returns True if a read model differs.
        """
        async with self.pool.connection() as connection:
            projections = [*(item.projection for item in COMPARED), *(item[0] for item in IN_PARTS), TRAIL]
            live = await inspect(connection, projections)
            incomplete = {name for name, _ in await blocked_streams(connection, projections)}
        found = {
            item.projection.name: await self._check(item)
            for item in COMPARED
            if item.projection.name in live.sound - incomplete
        }
        if TRAIL.name in live.sound:
            comparable = await with_dismissals(
                self.event_log, [item[0] for item in IN_PARTS if item[0].name in live.sound - incomplete]
            )
            names = {projection.name for projection in comparable if not projection.dismissed}
            found |= await self._check_part(min(live.positions[name] for name in (TRAIL.name, *names)), names)
        for name, difference in found.items():
            message = difference and (
                f"the read model {name} differs from the log ({difference}), so somebody changed it:"
                f" run `testhide projections rebuild {name} --switch`"
            )
            if message:
                log.error("read model differs from the log", projection=name, difference=difference)
            await set_alarm(self.pool, f"read model {name}", message)
        return any(found.values())

    async def sweep_sequences(self) -> bool:
        """Compares the sequences of ids with the ids in use. Sets an alarm and returns True if a sequence would give an
        id again. Otherwise ends the alarm and returns False.
        """
        behind = await find_sequences_behind(self.pool)
        await set_alarm(self.pool, "sequences of ids", describe_behind(behind) if behind else None)
        return bool(behind)

    async def sweep_endpoints(self) -> bool:
        """Compares the endpoints and replays that the delivery planner has stored with the log. Sets an alarm and
        returns True if they differ. Otherwise ends the alarm and returns False.
        """
        message = await find_changes(self.pool, self.event_log)
        await set_alarm(self.pool, "endpoints", message)
        return message is not None

    async def _check(self, compared: Compared) -> str | None:
        difference = await self._compare(compared)
        if difference is None:
            return None
        # The contents of events that were erased a moment ago are blank, while the read model may still have them.
        await self.waiter.wait_reached(await self.event_log.read_head())
        return await self._compare(compared)

    async def _compare(self, compared: Compared) -> str | None:
        """Compares the live tables with rows that are folded from the log up to the tables' position. Returns how they
        differ; None if they are equal.
        """
        async with (
            await AsyncConnection.connect(self.conninfo, autocommit=True, connect_timeout=5) as connection,
            connection.transaction(force_rollback=True),
        ):
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            projection = compared.projection
            position = (await inspect(connection, [projection])).positions[projection.name]
            tables = await self._fold(compared, position)
            await tables.write(connection)
            found = [
                await compare_tables(connection, str(row.table), row, "pg_temp", columns - compared.not_compared)
                for row in compared.rows
                for columns in ({column.name for column in columns_of(row)},)
            ]
        return "; ".join(_describe(table) for table in found if not table.is_equal) or None

    async def _fold(self, compared: Compared, position: int) -> HistoricalTables:
        names = [name for name, event in EVENTS.items() if issubclass(event, compared.events)]
        projections = await with_dismissals(self.event_log, [compared.projection])
        tables, after = HistoricalTables(compared.rows, projections), 0
        while events := await self.event_log.read(after, BATCH_SIZE, names, position):
            for recorded in events:
                tables.apply(recorded)
            after = events[-1].position
        return tables

    async def _check_part(self, end: int, names: set[str]) -> dict[str, str | None]:
        """Compares the audit trail, and those read models in IN_PARTS that `names` has, with the next part of the log,
        up to position `end`. Returns read model -> how it differs, or None if it does not.

        If a read model differs, the next call compares the same part again.
        """
        first = self._trail_position if self._trail_position < end else 0
        last = min(first + TRAIL_EVENTS, end)
        changed: dict[str, dict[int, int]] = {name: {} for name in names}
        trail = await self._fetch_trail(first, last)
        left_out = await self._find_left_out(first, last)
        after = first
        while events := await self.event_log.read(after, BATCH_SIZE, up_to=last):
            trail.subtract(make_row(item) for item in events if item.position not in left_out)
            for projection, _, find_changed in IN_PARTS:
                if projection.name in names:
                    changed[projection.name] |= await find_changed(self.pool, self.event_log, events)
            after = events[-1].position
        found: dict[str, str | None] = {
            projection.name: _describe_changed(changed[projection.name], what)
            for projection, what, _ in IN_PARTS
            if projection.name in names
        }
        different = {row.position for row, count in trail.items() if count}
        found[TRAIL.name] = (
            f"{TrailRow.table}: {len(different):,} different, the first at position {min(different)}"
            if different
            else None
        )
        if not any(found.values()):
            self._trail_position = last
        return found

    async def _fetch_trail(self, first: int, last: int) -> Counter[TrailRow]:
        columns = ", ".join(column.name for column in columns_of(TrailRow))
        query = f"SELECT {columns} FROM {TrailRow.table} WHERE position > %s AND position <= %s"
        return Counter(TrailRow(*row) for row in await fetch_rows(self.pool, query, (first, last)))

    async def _find_left_out(self, first: int, last: int) -> set[int]:
        """Returns the positions of events that are parked for the audit trail, or dismissed from it."""
        parked = await fetch_rows(
            self.pool,
            "SELECT position FROM parked_events WHERE projection = 'trail' AND version = %s AND position > %s"
            " AND position <= %s",
            (audit_trail.VERSION, first, last),
        )
        (trail,) = await with_dismissals(self.event_log, [TRAIL])
        return {*trail.dismissed, *(position for (position,) in parked)}


def _describe_changed(changed: Mapping[int, int], what: str) -> str | None:
    if not changed:
        return None
    first = min(changed)
    return f"{len(changed):,} {what} are not as in the log, the first {first}, of position {changed[first]}"


def _describe(table: TableDiff) -> str:
    """Returns the table's name and how many of its rows differ. Shows no contents of rows."""
    counts = {"changed": table.changed, "added": table.only_live, "lost": table.only_staging}
    return f"{table.live}: " + ", ".join(f"{count:,} {how}" for how, count in counts.items() if count)
