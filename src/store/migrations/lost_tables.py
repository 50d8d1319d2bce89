"""Finds tables of the store that the database has lost. TABLES lists all tables of the store, each with the data that
is lost with it.

`projections.engine.inspection` finds lost tables of read models.
"""

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import AsyncConnection

from store.log.ids import KINDS
from store.migrations.runner import LOCK, MIGRATIONS
from store.postgres.queries import execute, fetch_rows


class StoreTable(NamedTuple):
    columns: str
    lost: str | None
    """Description of the data that stays lost when `testhide repair` makes the table again. None if `testhide repair`
    cannot make it again.
    """


NOTHING = "nothing, the server fills it again"
REBUILD = "rebuilds in progress begin again, and retired read models stay until they are dropped by hand"
POSITION_COLUMNS = (
    "name version position updated_at generation tables started_at started_from built_at broken"  # of all schemas
)
PARKED_COLUMNS = "projection version position stream error parked_at"

TABLES = {
    "stored_events": StoreTable("originator_id originator_version topic state notification_id", None),
    "stored_events_keys": StoreTable("name wrapped destroyed_at", None),
    "root_keys": StoreTable("id used_since is_leaked last_position", None),
    "root_key_wraps": StoreTable("root_id opener wrapped", None),
    "stored_events_once": StoreTable(
        "scope body position at made answer",
        "a request that is repeated with its Idempotency-Key is carried out again, and a hook that its host delivers"
        " again starts its builds again",
    ),
    "audit_tiles": StoreTable("level n hashes", None),
    "audit_checkpoints": StoreTable("size root note at", None),
    "audit_keys": StoreTable("vkey sealed", None),
    "audit_sealing": StoreTable("id leaves_checked checkpoints_checked checked_size checked_at", NOTHING),
    "alarms": StoreTable("name message since", NOTHING),
    "blob_store": StoreTable("id store_id", NOTHING),
    "build_log_chunks": StoreTable(
        "build_id attempt first_line line_count lines job_id digest size", "the logs of all builds, for good"
    ),
    "shared_caches": StoreTable(
        "blob project_id job_id scope pool_id digest size_bytes sha256 state used_at",
        "the caches of builds on the server: builds save them again, and the old files stay until the jobs are deleted",
    ),
    "agent_gauges": StoreTable(
        "node_id session seen_at free polling cpu_pct ram_pct disk_free_gb uptime_s polled_at heartbeat", NOTHING
    ),
    "queue_reasons": StoreTable("build_id reason", NOTHING),
    "token_uses": StoreTable("token_id used_at", "when API tokens were last used"),
    "session_uses": StoreTable("session_id used_at", "when sessions were last used: older ones have to sign in again"),
    "login_failures": StoreTable("subject failures since", "the count of failed logins"),
    "known_logins": StoreTable("subject at", "from which addresses users have signed in"),
    "used_once": StoreTable("digest at", "which SAML assertions of the last minutes were used"),
    "projection_positions": StoreTable(POSITION_COLUMNS, "all read models: build them, as `readyz` says then"),
    "parked_events": StoreTable(
        PARKED_COLUMNS, "which events are parked: build read models that had some (`testhide projections rebuild`)"
    ),
    "beside.projection_positions": StoreTable(POSITION_COLUMNS, REBUILD),
    "beside.parked_events": StoreTable(PARKED_COLUMNS, REBUILD),
    "beside.waiting_deletions": StoreTable("table_name column_name first last", REBUILD),
    "previous.projection_positions": StoreTable(POSITION_COLUMNS, REBUILD),
    "previous.parked_events": StoreTable(PARKED_COLUMNS, REBUILD),
    "reaction_positions": StoreTable(
        "reaction position",
        "reactions because of the last events before now (builds of changes, syncs with `.testhide.yml`, statuses of"
        " commits, tickets, mails, deletions of files) and messages of webhooks and Teams",
    ),
    "due_reactions": StoreTable(
        "reaction position due_at tries error waits noted_at progress parked_at project_id",
        "reactions that were due or parked: builds of changes, syncs with `.testhide.yml`, statuses of commits, tickets"
        " and mails of just now; logs and artifacts of jobs and builds deleted just now may stay",
    ),
    "webhook_endpoints": StoreTable(
        "id project_id url events active sealed_secret ok failed failures_in_a_row pause_s open_until probing"
        " last_error said_failing kind",
        "how many attempts each webhook and channel had, and messages because of events after it was lost; webhooks"
        " and channels themselves are read from the log",
    ),
    "webhook_deliveries": StoreTable(
        "id delivery_id webhook_id position type item lane replay state leased due_at tries attempts since last_error"
        " leased_by",
        "messages of webhooks and Teams that were not delivered yet (`POST /webhooks/{id}/replay` sends them again)",
    ),
    "webhook_attempts": StoreTable(
        "id webhook_id delivery_id type replay number ok status_code error ms excerpt attempted_at",
        "the history of deliveries, for good",
    ),
    "webhook_replays": StoreTable("replay webhook_id position up_to", "replays that were not complete: ask again"),
    "search_passages": StoreTable(
        "id project_id type digest subject_id result_id job_id build_id text words model vector",
        NOTHING,
    ),
    "flaky_tests": StoreTable(
        "test_case_id runs flaky_runs", "tests that turned flaky in builds since it was lost are not announced"
    ),
} | {f"{kind}_ids": StoreTable("last_value", None) for kind in KINDS}
"""Name -> table or sequence. A name without a schema is in the schema `public`."""


class LostTable(NamedTuple):
    name: str
    column: str | None
    """The column that is lost; None when the whole table is lost."""

    def __str__(self) -> str:
        return self.name if self.column is None else f"{self.name} (its column {self.column})"

    @property
    def lost(self) -> str | None:
        """Description of the data that stays lost when `testhide repair` makes the table again. None if `testhide
        repair` cannot make it again.
        """
        return TABLES[self.name].lost if self.column is None else None


def describe(tables: Sequence[LostTable]) -> str:
    """Returns a message that says which tables and columns are lost, and what to do."""
    names = ", ".join(map(str, tables))
    if final := [table for table in tables if table.lost is None]:
        cure = f"restore {', '.join(map(str, final))} from a backup"
        if any(table.column for table in final):
            cure += ", or drop what is left of a table without a column"
        return f"lost from the database: {names}; {cure} (docs/backup.md)"
    return f"lost from the database: {names}; run `testhide repair`, which makes them again, empty"


async def find_lost_tables(connection: AsyncConnection) -> list[LostTable]:
    """Returns the tables and columns that this release's migrations made and that are missing now. Returns an empty
    list for a database of another release, which may have other tables.
    """
    (is_migrated,) = (await fetch_rows(connection, "SELECT to_regclass('schema_migrations') IS NOT NULL"))[0]
    if not is_migrated:
        return []
    ((version,),) = await fetch_rows(connection, "SELECT max(version) FROM schema_migrations")
    if version != MIGRATIONS[-1].version:
        return []
    expected = [(name, column) for name, table in TABLES.items() for column in table.columns.split()]
    rows = await fetch_rows(
        connection,
        "SELECT DISTINCT ON (w.table_number) w.name, w.column_name, to_regclass(w.name) IS NOT NULL"
        " FROM unnest(%s::text[], %s::text[], %s::int[]) WITH ORDINALITY AS w (name, column_name, table_number, number)"
        " LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(w.name) AND a.attname = w.column_name"
        " WHERE a.attname IS NULL ORDER BY w.table_number, w.number",
        (
            [name for name, _ in expected],
            [column for _, column in expected],
            [list(TABLES).index(name) for name, _ in expected],
        ),
    )
    return [LostTable(name, column if is_there else None) for name, column, is_there in rows]


async def make_again(connection: AsyncConnection) -> None:
    """Makes lost tables again, without rows, in the caller's transaction."""
    await execute(connection, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (LOCK,))
    for migration in MIGRATIONS:
        for statement in migration.statements:
            await connection.execute(statement.encode() if isinstance(statement, str) else statement)
