"""Makes tables again that a database has lost, and reads from the log what of their contents the log has."""

from psycopg import AsyncConnection

from store.clock import utcnow
from store.log.event_log import EventLog
from store.migrations.lost_tables import LostTable, describe, find_lost_tables, make_again
from store.tables import log_positions
from testhide.operator_errors import Fault
from testhide.processes import core
from testhide.settings import Settings
from workers.deliveries import endpoints, planner
from workers.flakiness import NAME as FLAKINESS

BATCH_SIZE = 500
"""Events that are read at once."""


async def repair(settings: Settings) -> list[LostTable]:
    """Make lost tables again while the server runs or not; return them. Raises Fault when a backup is needed."""
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
    return lost


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
