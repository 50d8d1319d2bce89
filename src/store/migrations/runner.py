"""Migrations of the store's tables. Each migration runs once, in order, and is recorded in the table
`schema_migrations`.

To change a table, append a Migration to MIGRATIONS, and never edit a released one. Processes of the previous release
still run during and after a migration. So do not remove what they use: drop a column one release after the code that
used it. Write statements that may run twice, since `store.migrations.lost_tables` runs them again. Add new tables and
columns to TABLES in that module.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from store.migrations import baseline
from store.migrations.baseline import Statement

LOCK = "testhide migrations"
"""Name of the advisory lock that lets one process at a time migrate a database."""


@dataclass(frozen=True)
class Migration:
    version: int
    name: str
    statements: Sequence[Statement]
    in_transaction: bool = True
    """False for statements that PostgreSQL runs only outside of transactions, such as CREATE INDEX CONCURRENTLY. After
    a crash they run again, so running them twice must do no harm.
    """


class NewerSchema(Exception):
    """A newer release has migrated the database. The message says which release to start."""


MIGRATIONS = (
    Migration(1, "baseline", baseline.STATEMENTS),
    Migration(
        2,
        "broken read models, and alarms",
        (
            *(
                f"ALTER TABLE {schema}.projection_positions ADD COLUMN IF NOT EXISTS broken text"
                for schema in ("public", "beside", "previous")
            ),
            "CREATE TABLE IF NOT EXISTS alarms"
            " (name text PRIMARY KEY, message text NOT NULL, since timestamptz NOT NULL DEFAULT now())",
        ),
    ),
    Migration(
        3,
        "progress of the sealer's checks",
        (
            """
            CREATE TABLE IF NOT EXISTS audit_sealing (
                id bool PRIMARY KEY DEFAULT true CHECK (id), leaves_checked bigint NOT NULL DEFAULT 0,
                checkpoints_checked bigint NOT NULL DEFAULT 0, checked_size bigint NOT NULL DEFAULT 0,
                checked_at timestamptz
            )
            """,
        ),
    ),
    Migration(
        4,
        "addresses that signed in",
        (
            "CREATE TABLE IF NOT EXISTS known_logins (subject text PRIMARY KEY, at timestamptz NOT NULL)",
            "CREATE INDEX IF NOT EXISTS known_logins_at ON known_logins (at)",
        ),
    ),
    Migration(
        5,
        "identity providers, and what is used once",
        (
            "CREATE SEQUENCE IF NOT EXISTS identity_providers_ids",
            "CREATE TABLE IF NOT EXISTS used_once (digest bytea PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
            "CREATE INDEX IF NOT EXISTS used_once_at ON used_once (at)",
        ),
    ),
    Migration(
        6,
        "root keys",
        (
            "CREATE TABLE IF NOT EXISTS root_keys (id int PRIMARY KEY, used_since timestamptz,"
            " is_leaked bool NOT NULL DEFAULT false, last_position bigint)",
            "CREATE TABLE IF NOT EXISTS root_key_wraps"
            " (root_id int, opener text, wrapped bytea NOT NULL, PRIMARY KEY (root_id, opener))",
        ),
    ),
    Migration(
        7,
        "id of the blob store",
        (
            "CREATE TABLE IF NOT EXISTS blob_store"
            " (id bool PRIMARY KEY DEFAULT true CHECK (id), store_id text NOT NULL)",
        ),
    ),
    Migration(8, "SCM endpoints", ("CREATE SEQUENCE IF NOT EXISTS scm_endpoints_ids",)),
    Migration(
        9,
        "retries, progress and cancellation of due reactions",
        (
            "ALTER TABLE due_reactions ADD COLUMN IF NOT EXISTS waits int NOT NULL DEFAULT 0,"
            " ADD COLUMN IF NOT EXISTS noted_at timestamptz NOT NULL DEFAULT now(),"
            " ADD COLUMN IF NOT EXISTS progress text, ADD COLUMN IF NOT EXISTS parked_at timestamptz",
            "UPDATE due_reactions SET parked_at = now() WHERE tries >= 20",  # parked in releases before
        ),
    ),
    Migration(10, "changes of repositories", ("CREATE SEQUENCE IF NOT EXISTS changes_ids",)),
    Migration(11, "Jira integrations", ("CREATE SEQUENCE IF NOT EXISTS jira_ids",)),
    Migration(
        12,
        "last uses of sessions",
        (
            "CREATE TABLE IF NOT EXISTS session_uses (session_id text PRIMARY KEY, used_at timestamptz NOT NULL)",
            "CREATE INDEX IF NOT EXISTS session_uses_at ON session_uses (used_at)",
        ),
    ),
    Migration(
        13,
        "projects of due reactions",
        ("ALTER TABLE due_reactions ADD COLUMN IF NOT EXISTS project_id bigint",),
    ),
    Migration(
        14,
        "shared caches of builds",
        (
            """
            CREATE TABLE IF NOT EXISTS shared_caches (
                blob text PRIMARY KEY, project_id bigint NOT NULL, job_id bigint NOT NULL, scope text NOT NULL,
                pool_id bigint NOT NULL, digest text NOT NULL, size_bytes bigint NOT NULL, sha256 text NOT NULL,
                state text NOT NULL, used_at timestamptz NOT NULL DEFAULT now()
            )
            """,
            "CREATE INDEX IF NOT EXISTS shared_caches_name ON shared_caches (job_id, scope, pool_id, digest)",
            "CREATE INDEX IF NOT EXISTS shared_caches_project ON shared_caches (project_id, used_at)",
        ),
    ),
    Migration(
        15,
        "beginnings of agents' polls",
        ("ALTER TABLE agent_gauges ADD COLUMN IF NOT EXISTS polled_at timestamptz",),
    ),
    Migration(
        16,
        "builds in the heartbeats of agents",
        ("ALTER TABLE agent_gauges ADD COLUMN IF NOT EXISTS heartbeat jsonb",),
    ),
    Migration(
        17,
        "vCenter integrations and their operations",
        (
            "CREATE SEQUENCE IF NOT EXISTS vcenter_ids",
            "CREATE SEQUENCE IF NOT EXISTS vcenter_operations_ids",
        ),
    ),
    Migration(
        18,
        "passages of semantic search",
        (
            """
            CREATE TABLE IF NOT EXISTS search_passages (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, project_id bigint NOT NULL, type text NOT NULL,
                digest bytea NOT NULL, subject_id bigint NOT NULL, result_id bigint, job_id bigint NOT NULL,
                build_id bigint NOT NULL, text text NOT NULL, words text NOT NULL, model text, vector real[],
                UNIQUE (project_id, type, digest)
            )
            """,
            "CREATE INDEX IF NOT EXISTS search_passages_newest ON search_passages (project_id, type, build_id)",
            "CREATE INDEX IF NOT EXISTS search_passages_build ON search_passages (build_id)",
            "CREATE INDEX IF NOT EXISTS search_passages_job ON search_passages (job_id)",
            "CREATE INDEX IF NOT EXISTS search_passages_words ON search_passages"
            " USING gin (array_to_tsvector(string_to_array(words, ' '))) WITH (gin_pending_list_limit = 512)",
        ),
    ),
    Migration(
        19,
        "room for versions of positions",
        (
            # Each batch of events writes all rows anew. While a long transaction is open, such as a backup, PostgreSQL
            # keeps all versions. It compares those that do not fit on their page with all others of the same key.
            "ALTER TABLE projection_positions SET (fillfactor = 10)",
        ),
    ),
)


def migrate(conninfo: str, release: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Applies the migrations that the database lacks, and records `release` with each. Waits while another process
    migrates. Blocks the thread. Raises NewerSchema if a newer release has migrated the database, and psycopg.Error if
    the database cannot be reached or a statement fails.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version int PRIMARY KEY, name text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now(), release text NOT NULL)"
        )
        applied: dict[int, str] = dict(connection.execute("SELECT version, release FROM schema_migrations").fetchall())
        newest, known = max(applied, default=0), migrations[-1].version
        if newest > known:
            raise NewerSchema(
                f"The database has schema version {newest}, made by release {applied[newest]}, and this is release"
                f" {release}, which knows versions up to {known}: start release {applied[newest]} or a newer one."
            )
        for migration in migrations:
            if migration.version not in applied:
                with connection.transaction() if migration.in_transaction else contextlib.nullcontext():
                    _apply(connection, migration, release)


def _apply(connection: psycopg.Connection, migration: Migration, release: str) -> None:
    for statement in migration.statements:
        connection.execute(statement.encode() if isinstance(statement, str) else statement)
    connection.execute(
        "INSERT INTO schema_migrations (version, name, release) VALUES (%s, %s, %s)",
        (migration.version, migration.name, release),
    )
