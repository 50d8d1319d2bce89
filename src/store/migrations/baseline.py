"""SQL that creates the tables of schema version 1. Projections create the tables of read models.

All statements may run again: databases of releases before schema versions have most of these tables already.
"""

from psycopg.sql import Composed

from store.log.append_function import create_statements

Statement = str | Composed

SEQUENCES = (  # noqa: SIM905
    "users api_tokens projects jobs node_pools nodes node_commands templates builds comments artifacts test_cases"
    " known_issues quarantine results webhooks audit_reads"
).split()
"""Names of the kinds of ids in schema version 1. For each kind a sequence `<kind>_ids` is created."""

STATEMENTS: tuple[Statement, ...] = (
    # The log, as the `eventsourcing` library creates it (PostgresApplicationRecorder.create_table).
    """
    CREATE TABLE IF NOT EXISTS stored_events (
        originator_id text NOT NULL, originator_version bigint NOT NULL, topic text, state bytea,
        notification_id bigserial, PRIMARY KEY (originator_id, originator_version)
    ) WITH (
        autovacuum_enabled = true, autovacuum_vacuum_threshold = 100000000, autovacuum_vacuum_scale_factor = 0.5,
        autovacuum_analyze_threshold = 1000, autovacuum_analyze_scale_factor = 0.01
    )
    """,
    "CREATE UNIQUE INDEX IF NOT EXISTS stored_events_notification_id_idx ON stored_events (notification_id)",
    """
    DO $do$ BEGIN
        CREATE TYPE stored_event_text AS (originator_id text, originator_version bigint, topic text, state bytea);
    EXCEPTION WHEN duplicate_object THEN
        NULL;
    END $do$
    """,
    """
    CREATE OR REPLACE FUNCTION es_insert_events_text(events stored_event_text[]) RETURNS SETOF bigint
    LANGUAGE plpgsql AS $BODY$
    BEGIN
        SET LOCAL lock_timeout = '0s';
        NOTIFY "stored_events";
        RETURN QUERY
            INSERT INTO stored_events AS t (originator_id, originator_version, topic, state)
            SELECT originator_id, originator_version, topic, state FROM unnest(events) RETURNING notification_id;
    END
    $BODY$
    """,
    # Data keys, idempotency keys and the append function. A migration that changes the function runs these again.
    *create_statements("public", "stored_events"),
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
    # The position of each projection. `generation` counts how often someone other than its leader changed its rows;
    # `started_at` and `started_from` belong to the rebuild that runs or ran last.
    """
    CREATE TABLE IF NOT EXISTS projection_positions (
        name text NOT NULL, version int NOT NULL, position bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        generation bigint NOT NULL DEFAULT 0, tables text[] NOT NULL DEFAULT '{}',
        started_at timestamptz NOT NULL DEFAULT now(), started_from bigint NOT NULL DEFAULT 0, built_at timestamptz,
        PRIMARY KEY (name, version)
    )
    """,
    # Events that a projection could not apply, with the error, and the later events of their streams.
    """
    CREATE TABLE IF NOT EXISTS parked_events (
        projection text NOT NULL, version int NOT NULL, position bigint NOT NULL, stream text NOT NULL,
        error text NOT NULL, parked_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (projection, version, position)
    )
    """,
    "CREATE INDEX IF NOT EXISTS parked_events_position ON parked_events (position)",
    # Staging tables of a rebuild, and tables that a switch replaced.
    *(
        statement
        for schema in ("beside", "previous")
        for statement in (
            f"CREATE SCHEMA IF NOT EXISTS {schema}",
            f"CREATE TABLE IF NOT EXISTS {schema}.projection_positions (LIKE projection_positions INCLUDING ALL)",
            f"CREATE TABLE IF NOT EXISTS {schema}.parked_events (LIKE parked_events INCLUDING ALL)",
        )
    ),
    # Deletions in staging tables that wait for an index.
    """
    CREATE TABLE IF NOT EXISTS beside.waiting_deletions (
        table_name text NOT NULL, column_name text NOT NULL, first bigint NOT NULL, last bigint NOT NULL
    )
    """,
    # The positions of workers in the log, and the reactions that are due.
    "CREATE TABLE IF NOT EXISTS reaction_positions (reaction text PRIMARY KEY, position bigint NOT NULL)",
    """
    CREATE TABLE IF NOT EXISTS due_reactions (
        reaction text NOT NULL, position bigint NOT NULL, due_at timestamptz NOT NULL DEFAULT now(),
        tries int NOT NULL DEFAULT 0, error text,
        PRIMARY KEY (reaction, position)
    )
    """,
    # The audit log.
    "CREATE TABLE IF NOT EXISTS audit_tiles (level int, n bigint, hashes bytea NOT NULL, PRIMARY KEY (level, n))",
    "ALTER TABLE audit_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL",  # hashes do not compress
    """
    CREATE TABLE IF NOT EXISTS audit_checkpoints (
        size bigint PRIMARY KEY, root bytea NOT NULL, note text NOT NULL, at timestamptz NOT NULL
    )
    """,
    # Sealed private keys that sign checkpoints. The log says which of them signs the next one.
    "CREATE TABLE IF NOT EXISTS audit_keys (vkey text PRIMARY KEY, sealed bytea NOT NULL)",
    # Deliveries.
    """
    CREATE TABLE IF NOT EXISTS webhook_endpoints (
        id bigint PRIMARY KEY, project_id bigint, url text, events text[] NOT NULL, active bool NOT NULL,
        sealed_secret bytea, ok bigint NOT NULL DEFAULT 0, failed bigint NOT NULL DEFAULT 0,
        failures_in_a_row int NOT NULL DEFAULT 0, pause_s int NOT NULL DEFAULT 0, open_until timestamptz,
        probing bool NOT NULL DEFAULT false, last_error text, said_failing bool NOT NULL DEFAULT false
    )
    """,
    "ALTER TABLE webhook_endpoints ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'webhook'",
    "ALTER TABLE webhook_endpoints ALTER COLUMN url DROP NOT NULL",  # a channel's URL is in its stream alone
    """
    CREATE TABLE IF NOT EXISTS webhook_deliveries (
        id bigserial PRIMARY KEY, delivery_id text NOT NULL UNIQUE, webhook_id bigint NOT NULL,
        position bigint NOT NULL, type text NOT NULL, item int NOT NULL, lane text, replay bool NOT NULL,
        state text NOT NULL, leased bool NOT NULL DEFAULT false, due_at timestamptz NOT NULL,
        tries int NOT NULL DEFAULT 0, attempts int NOT NULL DEFAULT 0, since timestamptz NOT NULL, last_error text
    )
    """,
    "CREATE INDEX IF NOT EXISTS webhook_deliveries_due ON webhook_deliveries (webhook_id, due_at)"
    " WHERE state = 'pending'",
    "CREATE INDEX IF NOT EXISTS webhook_deliveries_lane ON webhook_deliveries (webhook_id, lane, id)"
    " WHERE state IN ('waiting', 'pending')",
    "CREATE INDEX IF NOT EXISTS webhook_deliveries_to_say ON webhook_deliveries (id) WHERE state = 'giving_up'",
    "CREATE INDEX IF NOT EXISTS webhook_deliveries_ended ON webhook_deliveries (since)"
    " WHERE state IN ('delivered', 'given_up')",
    "ALTER TABLE webhook_deliveries ADD COLUMN IF NOT EXISTS leased_by text",
    "CREATE INDEX IF NOT EXISTS webhook_deliveries_leased ON webhook_deliveries (leased_by) WHERE leased",
    """
    CREATE TABLE IF NOT EXISTS webhook_attempts (
        id bigserial PRIMARY KEY, webhook_id bigint NOT NULL, delivery_id text NOT NULL, type text NOT NULL,
        replay bool NOT NULL, number int NOT NULL, ok bool NOT NULL, status_code int NOT NULL, error text NOT NULL,
        ms int NOT NULL, excerpt text NOT NULL, attempted_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS webhook_attempts_webhook ON webhook_attempts (webhook_id, id DESC)",
    "CREATE INDEX IF NOT EXISTS webhook_attempts_at ON webhook_attempts (attempted_at)",
    """
    CREATE TABLE IF NOT EXISTS webhook_replays (
        replay text PRIMARY KEY, webhook_id bigint NOT NULL, position bigint NOT NULL, up_to bigint NOT NULL
    )
    """,
    # Records the outcome of an attempt. Locks the endpoint's row first, as `enqueue` does, so that it sees a delivery
    # that was enqueued behind this one. Returns whether other deliveries became due; null if this one is not
    # pending.
    """
    CREATE OR REPLACE FUNCTION end_webhook_attempt(
        delivery bigint, endpoint bigint, now timestamptz, is_ok bool, status int, what text, took_ms int,
        beginning text, next_state text, next_due timestamptz, asked_pause int, opens_after int, first_pause int,
        longest_pause int
    ) RETURNS bool LANGUAGE plpgsql VOLATILE AS $body$
    DECLARE
        was webhook_endpoints;
        it webhook_deliveries;
        more bool := false;
        pause int;
    BEGIN
        SELECT * INTO was FROM webhook_endpoints WHERE id = endpoint FOR UPDATE;
        SELECT * INTO it FROM webhook_deliveries WHERE id = delivery AND state = 'pending' FOR UPDATE;
        IF was.id IS NULL OR it.id IS NULL THEN
            RETURN NULL;
        END IF;
        INSERT INTO webhook_attempts
            (webhook_id, delivery_id, type, replay, number, ok, status_code, error, ms, excerpt, attempted_at)
        VALUES
            (endpoint, it.delivery_id, it.type, it.replay, it.attempts + 1, is_ok, status, what, took_ms, beginning,
            now);
        UPDATE webhook_deliveries SET state = next_state, leased = false, leased_by = NULL, due_at = next_due,
            tries = it.tries + 1, attempts = it.attempts + 1, last_error = what WHERE id = delivery;
        IF is_ok THEN
            UPDATE webhook_endpoints SET ok = ok + 1, failures_in_a_row = 0, pause_s = 0, open_until = NULL,
                probing = false WHERE id = endpoint;
            IF was.open_until IS NOT NULL THEN
                UPDATE webhook_deliveries SET due_at = now
                    WHERE webhook_id = endpoint AND state = 'pending' AND NOT leased AND due_at > now;
                more := true;
            END IF;
        ELSE
            UPDATE webhook_endpoints SET failed = failed + 1, failures_in_a_row = was.failures_in_a_row + 1,
                last_error = what WHERE id = endpoint;
            IF was.failures_in_a_row + 1 >= opens_after AND (was.open_until IS NULL OR was.probing) THEN
                pause := CASE WHEN was.pause_s = 0 THEN first_pause ELSE least(was.pause_s * 2, longest_pause) END;
                UPDATE webhook_endpoints SET probing = false, pause_s = pause,
                    open_until = now + make_interval(secs => greatest(pause, asked_pause)) WHERE id = endpoint;
            END IF;
        END IF;
        IF next_state <> 'pending' AND it.lane IS NOT NULL THEN
            UPDATE webhook_deliveries SET state = 'pending', due_at = now, since = now WHERE id = (
                SELECT id FROM webhook_deliveries WHERE webhook_id = endpoint AND lane = it.lane
                    AND state IN ('waiting', 'pending') ORDER BY id LIMIT 1) AND state = 'waiting';
            more := more OR FOUND;
        END IF;
        RETURN more;
    END
    $body$
    """,
    # Flaky baselines (`store.tables.flaky_baselines`).
    """
    CREATE TABLE IF NOT EXISTS flaky_tests (test_case_id bigint PRIMARY KEY, runs int NOT NULL, flaky_runs int NOT NULL)
    """,
)
