"""Makes tables again that a database has lost, and reads from the log what of their contents the log has. Sets back the
positions of workers that are beyond the end of the log.
"""

from typing import NamedTuple

from psycopg import AsyncConnection

from domain.endpoints import EndpointRegistered
from store.clock import utcnow
from store.log.event_log import EventLog
from store.migrations.lost_tables import LostTable, describe, find_lost_tables, make_again
from store.postgres.queries import fetch_row
from store.tables import delivery_endpoints, delivery_planning, log_positions
from testhide.operator_errors import Fault
from testhide.processes import core
from testhide.settings import Settings
from workers.deliveries import endpoints, planner
from workers.deliveries.sender import RETENTION
from workers.flakiness import NAME as FLAKINESS

BATCH_SIZE = 500
"""Events that are read at once."""


class Repaired(NamedTuple):
    lost: list[LostTable]
    """Tables that were lost and are there again."""
    set_back: dict[str, int]
    """Worker -> its new position, of those whose position was beyond the end of the log."""


async def repair(settings: Settings) -> Repaired:
    """Make lost tables again and set back positions, while the server runs or not. Raises Fault when a backup is
    needed.
    """
    async with (
        core(settings, pool_size=2, before_migration=True) as parts,
        parts.pool.connection() as connection,
        connection.transaction(),
    ):
        lost = await find_lost_tables(connection)
        if any(table.lost is None for table in lost):
            raise Fault(f"{describe(lost)}. Nothing was changed.")
        if lost:
            await make_again(connection)
            await _fill(connection, parts.log, {table.name for table in lost})
        set_back = await _set_back(connection, parts.log)
    return Repaired(lost, set_back)


async def _set_back(connection: AsyncConnection, event_log: EventLog) -> dict[str, int]:
    """Sets back the positions that are beyond the end of the log. Returns worker -> its new position.

    The delivery planner goes back to the newest event of which it is known that its deliveries are planned. The others
    begin with the first event: nothing records how far they were, and handling an event again does no harm.
    """
    if await fetch_row(connection, "SELECT to_regclass('reaction_positions')") == (None,):
        return {}  # a new database, before its migration
    found: dict[str, int] = {}
    for name in await log_positions.find_beyond(connection):
        found[name] = await _find_planned(connection, event_log) if name == planner.NAME else 0
        await log_positions.move_position(connection, name, found[name])
    return found


async def _find_planned(connection: AsyncConnection, event_log: EventLog) -> int:
    head = await event_log.read_head()
    planned = await delivery_planning.fetch_last_planned(connection, head, utcnow() - RETENTION)
    # An endpoint that the table has was registered before the planner stood still.
    known = {target.id for target in await delivery_endpoints.fetch_targets(connection)}
    names = sorted(event.name for event in endpoints.FOLDED_EVENTS if issubclass(event, EndpointRegistered))
    position, is_full = planned, True
    while is_full:
        events, position, is_full = await event_log.read_batch(position, BATCH_SIZE, names, up_to=head)
        for recorded in events:
            if isinstance(recorded.event, EndpointRegistered) and recorded.event.endpoint_id in known:
                planned = recorded.position
    return planned


async def _fill(connection: AsyncConnection, event_log: EventLog, names: set[str]) -> None:
    """Fills new tables in the transaction that makes them, so that no worker goes on with empty ones."""
    if "reaction_positions" in names:
        # Without a position the planner would begin with the first event, and send all messages again.
        await log_positions.move_position(connection, planner.NAME, await event_log.read_head())
    elif "flaky_tests" in names:
        # Without a position the watch takes new baselines.
        await connection.execute("DELETE FROM reaction_positions WHERE reaction = %s", (FLAKINESS,))
    if names & {"reaction_positions", "webhook_endpoints"}:
        await _fold_endpoints(connection, event_log)


async def _fold_endpoints(connection: AsyncConnection, event_log: EventLog) -> None:
    """Folds webhooks and channels from the log, up to where the planner is."""
    up_to = await log_positions.lock_position(connection, planner.NAME) or 0
    folded = sorted(event.name for event in endpoints.FOLDED_EVENTS if issubclass(event, endpoints.DESCRIBING))
    position, is_full = 0, bool(up_to)
    while is_full:
        events, position, is_full = await event_log.read_batch(position, BATCH_SIZE, folded, up_to=up_to)
        for recorded in events:
            await endpoints.apply(connection, recorded.event, utcnow())
