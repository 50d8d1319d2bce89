"""SQL that creates the append function of an events table, and the tables of data keys and idempotency keys.

When load is low, most batches have one event. For a single event the function runs plain statements, which take a
quarter of the time of statements over arrays. Lookups are scalar subqueries, so that PostgreSQL always plans each as
one index probe.
"""

from psycopg.sql import SQL, Composed, Identifier, Literal


def function_name(table: str) -> str:
    return f"{table}_append"


def create_statements(schema: str, table: str) -> list[Composed]:
    """Returns statements that create the append function of an events table, and the tables of data keys and
    idempotency keys that belong to the events table. The statements can run again: they keep existing tables and
    replace the function.
    """
    names = {
        "schema": Identifier(schema),
        "table": Identifier(table),
        "keys": Identifier(f"{table}_keys"),
        "once": Identifier(f"{table}_once"),
        "function": Identifier(function_name(table)),
        "lock": Literal(f"{schema}.{table}"),
        "channel": Literal(table),
        "wake_channel": Literal(f"{table}_wakes"),
    }
    statements = (
        SQL(
            "CREATE TABLE IF NOT EXISTS {schema}.{keys}"
            " (name text PRIMARY KEY, wrapped bytea, destroyed_at timestamptz)"
        ),
        SQL(
            "CREATE TABLE IF NOT EXISTS {schema}.{once} (scope bytea PRIMARY KEY, body bytea NOT NULL,"
            " position bigint NOT NULL, at timestamptz NOT NULL DEFAULT now(), made bigint, answer bytea)"
        ),
        SQL("""
        CREATE OR REPLACE FUNCTION {schema}.{function}(
            reqs int[], streams text[], versions bigint[], topics text[], states bytea[],
            guard_reqs int[], guard_streams text[], guard_versions bigint[],
            key_reqs int[], key_names text[], key_values bytea[],
            erased_reqs int[], erased_names text[],
            wakes text[],
            once_reqs int[], once_scopes bytea[], once_bodies bytea[],
            OUT first_position bigint, OUT conflicts int[], OUT done int[]
        ) LANGUAGE plpgsql VOLATILE AS $body$
        DECLARE
            last_position bigint;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended({lock}, 0));
            IF cardinality(once_reqs) > 0 THEN
                done := ARRAY(
                    SELECT o.req FROM unnest(once_reqs, once_scopes) AS o(req, scope)
                    WHERE (SELECT true FROM {schema}.{once} WHERE scope = o.scope)
                );
            END IF;
            IF cardinality(reqs) = 1 THEN
                IF cardinality(done) > 0
                    OR EXISTS (
                        SELECT FROM {schema}.{table}
                        WHERE originator_id = streams[1] AND originator_version = versions[1]
                    )
                    OR EXISTS (
                        SELECT FROM unnest(guard_streams, guard_versions) AS g(stream, version) WHERE (
                            SELECT true FROM {schema}.{table}
                            WHERE originator_id = g.stream AND originator_version = g.version + 1
                        )
                    )
                    OR EXISTS (SELECT FROM {schema}.{keys} WHERE name = ANY (key_names))
                THEN
                    conflicts := reqs;
                    RETURN;
                END IF;
                conflicts := '{{}}';
                IF cardinality(key_reqs) > 0 THEN
                    INSERT INTO {schema}.{keys} (name, wrapped) SELECT * FROM unnest(key_names, key_values);
                END IF;
                INSERT INTO {schema}.{table} (originator_id, originator_version, topic, state)
                    VALUES (streams[1], versions[1], topics[1], states[1])
                    RETURNING notification_id INTO first_position;
                last_position := first_position;
            ELSE
                conflicts := ARRAY(
                    SELECT w.req FROM unnest(reqs, streams, versions) AS w(req, stream, version) WHERE (
                        SELECT true FROM {schema}.{table}
                        WHERE originator_id = w.stream AND originator_version = w.version
                    )
                    UNION
                    SELECT g.req FROM unnest(guard_reqs, guard_streams, guard_versions) AS g(req, stream, version)
                    WHERE (
                        SELECT true FROM {schema}.{table}
                        WHERE originator_id = g.stream AND originator_version = g.version + 1
                    )
                    UNION
                    SELECT k.req FROM unnest(key_reqs, key_names) AS k(req, name)
                    WHERE (SELECT true FROM {schema}.{keys} WHERE name = k.name)
                    UNION
                    SELECT unnest(done)
                );
                INSERT INTO {schema}.{keys} (name, wrapped)
                    SELECT k.name, k.value FROM unnest(key_reqs, key_names, key_values) AS k(req, name, value)
                    WHERE k.req <> ALL (conflicts);
                WITH written AS (
                    INSERT INTO {schema}.{table} (originator_id, originator_version, topic, state)
                        SELECT w.stream, w.version, w.topic, w.state
                        FROM unnest(reqs, streams, versions, topics, states)
                            WITH ORDINALITY AS w(req, stream, version, topic, state, place)
                        WHERE w.req <> ALL (conflicts)
                        ORDER BY w.place
                    RETURNING notification_id
                )
                SELECT min(notification_id), max(notification_id) INTO first_position, last_position FROM written;
            END IF;
            IF cardinality(erased_reqs) > 0 THEN
                -- A key that was never made gets a row, too, so that nobody makes it later.
                INSERT INTO {schema}.{keys} AS d (name, destroyed_at)
                    SELECT DISTINCT k.name, now() FROM unnest(erased_reqs, erased_names) AS k(req, name)
                    WHERE k.req <> ALL (conflicts)
                    ON CONFLICT (name) DO UPDATE SET wrapped = NULL, destroyed_at = excluded.destroyed_at
                    WHERE d.wrapped IS NOT NULL;
            END IF;
            IF cardinality(once_reqs) > 0 THEN
                INSERT INTO {schema}.{once} (scope, body, position)
                    SELECT o.scope, o.body, last_position
                    FROM unnest(once_reqs, once_scopes, once_bodies) AS o(req, scope, body)
                    WHERE o.req <> ALL (conflicts);
            END IF;
            IF first_position IS NOT NULL THEN
                PERFORM pg_notify(
                    {channel},
                    last_position || ' ' || array_to_string(ARRAY(SELECT DISTINCT unnest(topics)), ' ')
                );
                PERFORM pg_notify({wake_channel}, wake) FROM unnest(wakes) AS wake;
            END IF;
        END
        $body$
        """),
    )
    return [statement.format(**names) for statement in statements]
