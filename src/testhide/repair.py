"""Repairs a database after a loss:

- makes lost tables again, and fills them as far as the log has their contents
- sets back positions of workers, and the progress of the sealer, that are beyond the end of the log
- moves sequences past the numbers that are in use
"""

from typing import NamedTuple

from psycopg import AsyncConnection

from domain.endpoints import EndpointRegistered
from projections.ids_in_use import find_sequences_behind
from store.audit.checkpoints import AuditTree
from store.audit.recheck_progress import reset_impossible
from store.clock import utcnow
from store.log.event_log import EventLog
from store.log.ids import POSITION_SEQUENCE, raise_ids, use_positions
from store.log.row_macs import has_right_mac
from store.migrations.lost_tables import LostTable, describe, find_lost_tables, make_again
from store.postgres.queries import execute, fetch_row, fetch_rows
from store.tables import delivery_endpoints, delivery_planning, log_positions
from testhide.operator_errors import Fault
from testhide.processes import Core, core
from testhide.settings import Settings
from workers.deliveries import endpoints, planner
from workers.deliveries.sender import RETENTION
from workers.flakiness import NAME as FLAKINESS
from workers.reactions.registry import REACTIONS
from workers.semantic_index import NAME as SEMANTIC_INDEX

BATCH_SIZE = 500
"""Number of events that are read at once."""
FOLDED = ("kind", "project_id", *delivery_endpoints.FOLDED_COLUMNS)
"""Columns of an endpoint that come from the log."""
SKIPPING = {reaction.name: reaction.event.name for reaction in REACTIONS if not reaction.repeats_old}
"""Reactions that must not repeat old events: name -> type of the events that the reaction handles. If the position of
such a reaction was beyond the end of the log, the reaction goes on at the end, and so may skip events.
"""


class Repaired(NamedTuple):
    lost: list[LostTable]
    """Tables that were lost and are there again."""
    set_back: dict[str, int]
    """Worker -> its new position, for each worker whose position was beyond the end of the log."""
    endpoints: list[int]
    """Ids of webhooks and channels whose rows in `webhook_endpoints` did not agree with the log, and were corrected."""
    is_sealing_reset: bool
    """Whether the sealer's progress in checking the sealed log (`audit_sealing`) was reset, because it named more
    positions than were ever used.
    """
    moved: dict[str, int]
    """Sequence -> highest position or id in use, for each sequence that was behind that number and is now past it."""


async def repair(settings: Settings) -> Repaired:
    """Make lost tables again, set back positions of workers, and move sequences past the numbers in use. The server may
    run or not. Raises Fault if only a backup can help.
    """
    async with core(settings, pool_size=2, before_migration=True) as parts:
        moved = await _move_sequences(parts)
        return Repaired(*await _repair_tables(parts), moved)


async def _move_sequences(parts: Core) -> dict[str, int]:
    """Moves sequences of ids and positions past the numbers in use. Returns sequence -> highest number in use, for each
    sequence that was moved.
    """
    if await fetch_row(parts.pool, "SELECT to_regclass('audit_checkpoints')") == (None,):
        return {}  # a new database, before its migration
    behind = await find_sequences_behind(parts.pool)
    await raise_ids(parts.pool, behind)
    moved = dict(behind)
    if await use_positions(parts.pool, newest := await _find_newest(parts)):
        moved[POSITION_SEQUENCE] = newest
    return moved


async def _find_newest(parts: Core) -> int:
    """Returns the newest position that this server has surely used: the last position that a checkpoint covers or, if
    the log's last row is newer and has a right MAC, the position of this row.
    """
    tree = AuditTree(parts.pool)
    ((last,),) = await fetch_rows(parts.pool, "SELECT coalesce(max(notification_id), 0) FROM stored_events")
    row, newest = await tree.row(last), await tree.checkpoint()
    sealed = newest.size if newest else 0
    is_right = row is not None and has_right_mac(parts.secrets.rows_keys(last), row)
    return max(last, sealed) if is_right else sealed


async def _repair_tables(parts: Core) -> tuple[list[LostTable], dict[str, int], list[int], bool]:
    async with parts.pool.connection() as connection, connection.transaction():
        lost = await find_lost_tables(connection)
        if any(table.lost is None for table in lost):
            raise Fault(f"{describe(lost)}. Nothing was changed.")
        if lost:
            await make_again(connection)
            await _fill(connection, parts.log, {table.name for table in lost})
        set_back = await _set_back(connection, parts.log)
        corrected = await _correct_endpoints(connection, parts.log)
        is_new = await fetch_row(connection, "SELECT to_regclass('audit_sealing')") == (None,)  # before its migration
        is_sealing_reset = not is_new and await reset_impossible(connection)
    return lost, set_back, corrected, is_sealing_reset


async def _set_back(connection: AsyncConnection, event_log: EventLog) -> dict[str, int]:
    """Sets back positions that are beyond the end of the log. Returns worker -> its new position.

    The delivery planner goes back to the newest event whose deliveries are known to be planned. Nothing records how far
    other workers were. They begin again with the first event; but a worker that would do harm by repeating its work
    goes on at the end of the log.
    """
    if await fetch_row(connection, "SELECT to_regclass('reaction_positions')") == (None,):
        return {}  # a new database, before its migration
    found: dict[str, int] = {}
    for name in await log_positions.find_beyond(connection):
        if name == planner.NAME:
            found[name] = await _find_planned(connection, event_log)
        else:
            found[name] = await event_log.read_head() if name in SKIPPING else 0
        await log_positions.move_position(connection, name, found[name])
    return found


async def _find_planned(connection: AsyncConnection, event_log: EventLog) -> int:
    head = await event_log.read_head()
    planned = await delivery_planning.fetch_last_planned(connection, head, utcnow() - RETENTION)
    # An endpoint that the table has was registered before the planner stood still.
    known = await delivery_endpoints.fetch_ids(connection)
    names = sorted(event.name for event in endpoints.FOLDED_EVENTS if issubclass(event, EndpointRegistered))
    position, is_full = planned, True
    while is_full:
        events, position, is_full = await event_log.read_batch(position, BATCH_SIZE, names, up_to=head)
        for recorded in events:
            if isinstance(recorded.event, EndpointRegistered) and recorded.event.endpoint_id in known:
                planned = recorded.position
    return planned


async def _fill(connection: AsyncConnection, event_log: EventLog, names: set[str]) -> None:
    """Fills tables that were made again, as far as the log has their contents. Runs in the transaction that makes the
    tables, so that no worker sees them empty.
    """
    if "reaction_positions" in names:
        # Without a position the planner would begin with the first event, and send all messages again.
        await log_positions.move_position(connection, planner.NAME, await event_log.read_head())
    elif "flaky_tests" in names:
        # Without a position, the FlakinessWatch stores new baselines of the tests that are flaky now.
        await connection.execute("DELETE FROM reaction_positions WHERE reaction = %s", (FLAKINESS,))
    if "search_passages" in names:
        await connection.execute("DELETE FROM reaction_positions WHERE reaction = %s", (SEMANTIC_INDEX,))
    if names & {"reaction_positions", "webhook_endpoints"}:
        await _fold_endpoints(connection, event_log)


async def _fold_endpoints(connection: AsyncConnection, event_log: EventLog) -> None:
    """Makes the rows of webhooks and channels from the events up to the position of the delivery planner."""
    up_to = await log_positions.lock_position(connection, planner.NAME) or 0
    folded = sorted(event.name for event in endpoints.FOLDED_EVENTS if issubclass(event, endpoints.DESCRIBING))
    position, is_full = 0, bool(up_to)
    while is_full:
        events, position, is_full = await event_log.read_batch(position, BATCH_SIZE, folded, up_to=up_to)
        for recorded in events:
            await endpoints.apply(connection, recorded.event, utcnow())


async def _correct_endpoints(connection: AsyncConnection, event_log: EventLog) -> list[int]:
    """Corrects the rows of webhooks and channels that somebody changed, added or deleted by hand, and returns their
    ids.

    Folds the log into temporary tables with the names of the real ones, and compares the two.
    """
    if await fetch_row(connection, "SELECT to_regclass('webhook_endpoints')") == (None,):
        return []  # a new database, before its migration
    if not await log_positions.lock_position(connection, planner.NAME):
        return []  # the planner has folded nothing yet
    tables = ("webhook_endpoints", *delivery_endpoints.DEPENDENT_TABLES)
    for table in tables:
        await execute(connection, f"CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING ALL)")
    await _fold_endpoints(connection, event_log)
    columns = ", ".join(FOLDED)
    folded, stored = (", ".join(f"{table}.{name}" for name in FOLDED) for table in ("t", "e"))
    changed = await fetch_rows(
        connection,
        f"UPDATE public.webhook_endpoints e SET ({columns}) = ROW ({folded}) FROM pg_temp.webhook_endpoints t"
        f" WHERE t.id = e.id AND ROW ({stored}) IS DISTINCT FROM ROW ({folded}) RETURNING e.id",
    )
    changed += await fetch_rows(
        connection,
        "INSERT INTO public.webhook_endpoints SELECT t.* FROM pg_temp.webhook_endpoints t ON CONFLICT DO NOTHING"
        " RETURNING id",
    )
    added = await fetch_rows(
        connection,
        "SELECT id FROM public.webhook_endpoints EXCEPT SELECT id FROM pg_temp.webhook_endpoints",
    )
    for table in tables:
        await execute(connection, f"DROP TABLE pg_temp.{table}")
    await delivery_endpoints.delete_endpoints(connection, [endpoint_id for (endpoint_id,) in added])
    return sorted(endpoint_id for (endpoint_id,) in (*changed, *added))
