"""The store's tables. Run by `testhide migrate`; each statement may be run again.

Read tables are not here: they belong to their projections, which make and drop them.
"""

from typing import get_args

import psycopg

from store.audit.checkpoints import TABLES as AUDIT_TABLES
from store.log.ids import Kind
from store.log.recorder import GroupCommitRecorder, datastore
from store.tables.deliveries import TABLES as DELIVERY_TABLES
from store.tables.flaky_baselines import TABLES as EPISODE_TABLES

SEQUENCES = get_args(Kind)

STATEMENTS = (
    *(f"CREATE SEQUENCE IF NOT EXISTS {name}_ids" for name in SEQUENCES),
    # A contiguous range of ids. The lock keeps two callers from both moving the sequence past the other's start.
    """
    CREATE OR REPLACE FUNCTION draw_ids(sequence regclass, count bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE AS $body$
    DECLARE
        first bigint;
    BEGIN
        PERFORM pg_advisory_xact_lock(sequence::oid::bigint);
        first := nextval(sequence);
        IF count > 1 THEN
            PERFORM setval(sequence, first + count - 1);
        END IF;
        RETURN first;
    END
    $body$
    """,
    # Build logs: whole lines in compressed chunks, in the order of `first_line`; never events.
    """
    CREATE TABLE IF NOT EXISTS build_log_chunks (
        build_id bigint NOT NULL, attempt int NOT NULL, first_line bigint NOT NULL, line_count int NOT NULL,
        lines bytea NOT NULL, job_id bigint NOT NULL, digest bytea NOT NULL, size bigint NOT NULL,
        PRIMARY KEY (build_id, attempt, first_line)
    )
    """,
    "CREATE INDEX IF NOT EXISTS build_log_chunks_job ON build_log_chunks (job_id)",
    # What an agent is doing right now; lost without harm.
    """
    CREATE UNLOGGED TABLE IF NOT EXISTS agent_gauges (
        node_id bigint PRIMARY KEY, session text NOT NULL, seen_at timestamptz NOT NULL,
        free int NOT NULL DEFAULT 0, polling bool NOT NULL DEFAULT false,
        cpu_pct real, ram_pct real, disk_free_gb real, uptime_s bigint
    )
    """,
    "CREATE UNLOGGED TABLE IF NOT EXISTS queue_reasons (build_id bigint PRIMARY KEY, reason text NOT NULL)",
    "CREATE UNLOGGED TABLE IF NOT EXISTS token_uses (token_id bigint PRIMARY KEY, used_at timestamptz NOT NULL)",
    # Logins that failed lately, by account and by address (both as HMACs); lost without harm.
    """
    CREATE UNLOGGED TABLE IF NOT EXISTS login_failures (
        subject text PRIMARY KEY, failures int NOT NULL, since timestamptz NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS login_failures_since ON login_failures (since)",
    # How far each projection is. `generation` counts how often its rows were changed by someone other than its leader;
    # `started_at` and `started_from` are of the build that runs or ran last.
    """
    CREATE TABLE IF NOT EXISTS projection_positions (
        name text NOT NULL, version int NOT NULL, position bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        generation bigint NOT NULL DEFAULT 0, tables text[] NOT NULL DEFAULT '{}',
        started_at timestamptz NOT NULL DEFAULT now(), started_from bigint NOT NULL DEFAULT 0, built_at timestamptz,
        PRIMARY KEY (name, version)
    )
    """,
    # Events that a projection could not take, with why, and those that follow them in their streams.
    """
    CREATE TABLE IF NOT EXISTS parked_events (
        projection text NOT NULL, version int NOT NULL, position bigint NOT NULL, stream text NOT NULL,
        error text NOT NULL, parked_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (projection, version, position)
    )
    """,
    "CREATE INDEX IF NOT EXISTS parked_events_position ON parked_events (position)",
    # Read tables that are being built beside the serving ones, and those that a switch replaced.
    *(
        statement
        for place in ("beside", "previous")
        for statement in (
            f"CREATE SCHEMA IF NOT EXISTS {place}",
            f"CREATE TABLE IF NOT EXISTS {place}.projection_positions (LIKE projection_positions INCLUDING ALL)",
            f"CREATE TABLE IF NOT EXISTS {place}.parked_events (LIKE parked_events INCLUDING ALL)",
        )
    ),
    # Deletions of a build beside that wait for an index.
    """
    CREATE TABLE IF NOT EXISTS beside.waiting_deletions (
        table_name text NOT NULL, column_name text NOT NULL, first bigint NOT NULL, last bigint NOT NULL
    )
    """,
    # What workers react to: the relay's place in the log, and the reactions that are due.
    "CREATE TABLE IF NOT EXISTS reaction_positions (reaction text PRIMARY KEY, position bigint NOT NULL)",
    """
    CREATE TABLE IF NOT EXISTS due_reactions (
        reaction text NOT NULL, position bigint NOT NULL, due_at timestamptz NOT NULL DEFAULT now(),
        tries int NOT NULL DEFAULT 0, error text,
        PRIMARY KEY (reaction, position)
    )
    """,
    *AUDIT_TABLES,
    *DELIVERY_TABLES,
    *EPISODE_TABLES,
)


def migrate(conninfo: str) -> None:
    """Creates what is missing. Blocks; raises psycopg.Error."""
    recorder = GroupCommitRecorder(datastore(conninfo))
    try:
        recorder.create_table()
    finally:
        recorder.close()
        recorder.datastore.close()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in STATEMENTS:
            connection.execute(statement.encode())
