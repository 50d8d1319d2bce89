"""The store's tables. Run by `testhide migrate`; each statement may be run again.

Read tables are not here: they belong to their projections, which make and drop them.
"""

from typing import get_args

import psycopg

from store.ids import Kind
from store.recorder import GroupCommitRecorder, datastore

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
        lines bytea NOT NULL, job_id bigint NOT NULL,
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
    """
    CREATE TABLE IF NOT EXISTS projection_positions (
        name text NOT NULL, version int NOT NULL, position bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (name, version)
    )
    """,
    # Events that a projection could not take, with why; the projection went on without them.
    """
    CREATE TABLE IF NOT EXISTS parked_events (
        projection text NOT NULL, version int NOT NULL, position bigint NOT NULL, error text NOT NULL,
        parked_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (projection, version, position)
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
