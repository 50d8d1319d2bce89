"""Kinds of change in what the server stores beside its log and its read models: files, deliveries, state of workers."""

from bench.support.tampering.changes import (
    alter_answer,
    change_row,
    get_artifact,
    get_log,
    park_event,
    repeat,
    rewrite_log,
    silence,
    skip_due_reactions,
)
from bench.support.tampering.kind import NO_EVENT, Kind, of_lost, of_state
from projections.builds import BuildRow

STATE_KINDS = (
    Kind(
        "build logs",
        "a line is changed",
        lambda scene: rewrite_log(scene, digests=False),
        ("contents", "reading"),
        ("build_log_chunks",),
        get_log,
    ),
    Kind(
        "build logs",
        "a line is changed, with all digests beside it",
        lambda scene: rewrite_log(scene, digests=True),
        ("contents", "reading"),
        ("build_log_chunks",),
        get_log,
    ),
    Kind(
        "build logs",
        "the end of a log is removed",
        lambda scene: scene.execute("DELETE FROM build_log_chunks WHERE build_id = %s AND first_line > 0", scene.build),
        ("contents", "reading"),
        ("build_log_chunks",),
        get_log,
    ),
    Kind(
        "artifacts",
        "a file is changed",
        lambda scene: scene.blob.write_bytes(b"forged"),
        ("contents", "reading"),
        read=get_artifact,
    ),
    Kind(
        "artifacts", "a file is deleted", lambda scene: scene.blob.unlink(), ("contents", "reading"), read=get_artifact
    ),
    Kind(
        "deliveries",
        "a webhook is delivered to another address",
        lambda scene: scene.execute("UPDATE webhook_endpoints SET url = 'https://example.com'"),
        ("comparison", "contents"),
        ("webhook_endpoints",),
    ),
    Kind(
        "deliveries",
        "a channel of Teams is told less",
        lambda scene: scene.execute("UPDATE webhook_endpoints SET events = '{}' WHERE kind = 'teams'"),
        ("comparison", "contents"),
        ("webhook_endpoints",),
    ),
    Kind(
        "deliveries",
        "the secrets of two webhooks are swapped",
        lambda scene: scene.execute(
            "UPDATE webhook_endpoints a SET sealed_secret = b.sealed_secret FROM webhook_endpoints b"
            " WHERE a.sealed_secret <> b.sealed_secret"
        ),
        ("comparison", "contents"),
        ("webhook_endpoints",),
    ),
    Kind(
        "deliveries",
        "a webhook is made up",
        lambda scene: scene.execute(
            "INSERT INTO webhook_endpoints (id, url, events, active) VALUES (999999, 'https://example.com', '{}', true)"
        ),
        ("comparison",),
        ("webhook_endpoints",),
    ),
    Kind(
        "deliveries",
        "messages are asked for once more",
        lambda scene: scene.execute(
            "INSERT INTO webhook_replays SELECT 'made up', min(id), 0, 10 FROM webhook_endpoints"
        ),
        ("comparison",),
        ("webhook_replays",),
    ),
    Kind(
        "artifacts",
        "the id of their store is changed",
        lambda scene: scene.execute("UPDATE blob_store SET store_id = 'another'"),
        ("start",),
        ("blob_store",),
    ),
    Kind(
        "answers",
        "the answer to an idempotency key is changed",
        alter_answer,
        ("reading",),
        ("stored_events_once",),
        repeat,
    ),
    Kind("alarms", "the alarm about a damaged row is deleted", silence, ("sealer", "verify")),
    of_lost("the log", "stored_events", "sealer"),
    of_lost("the data keys", "stored_events_keys", "sealer"),
    of_lost("the leaves of the tree", "audit_tiles", "sealer"),
    of_lost("the checkpoints", "audit_checkpoints", "sealer"),
    of_lost("the signing keys", "audit_keys"),
    of_lost("a read model", BuildRow.table),
    of_lost("the positions of the read models", "projection_positions"),
    of_lost("the build logs", "build_log_chunks", "contents"),
    of_lost("the addresses of deliveries", "webhook_endpoints", "contents"),
    of_lost("the deliveries", "webhook_deliveries"),
    of_lost("the answers to idempotency keys", "stored_events_once"),
    of_lost("the positions of reactions", "reaction_positions"),
    of_lost("the alarms", "alarms"),
    of_state(
        "a pending delivery is deleted",
        "webhook_deliveries",
        lambda scene: scene.execute("DELETE FROM webhook_deliveries"),
        NO_EVENT,
    ),
    of_state(
        "the answer to an idempotency key is deleted",
        "stored_events_once",
        lambda scene: scene.execute("DELETE FROM stored_events_once"),
        NO_EVENT,
    ),
    of_state(
        "a due reaction is skipped",
        "reaction_positions",
        skip_due_reactions,
        NO_EVENT,
    ),
    Kind(
        "working state",
        "the position of a worker is set behind the end of the log",
        change_row("reaction_positions", "position", "position + 1000000"),
        ("readyz",),
        ("reaction_positions",),
    ),
    Kind("working state", "an event is made up as parked", park_event, ("readyz",), ("parked_events",)),
    Kind(
        "working state",
        "the newest migration is forgotten",
        lambda scene: scene.execute(
            "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)"
        ),
        ("start",),
        ("schema_migrations",),
    ),
    of_state(
        "a reaction is made up as due",
        "due_reactions",
        lambda scene: scene.execute("INSERT INTO due_reactions (reaction, position) VALUES ('statuses', 9)"),
        "it runs as one that a killed worker repeats: each reaction may run twice",
    ),
    of_state(
        "an attempt of a delivery is shown as successful",
        "webhook_attempts",
        change_row("webhook_attempts", "ok", "true", "NOT ok"),
        "no event holds attempts; only that an endpoint fails, and that a delivery was given up",
    ),
    of_state(
        "a test is counted as flaky before",
        "flaky_tests",
        lambda scene: scene.execute("INSERT INTO flaky_tests VALUES (1, 1000000, 1000000)"),
        "it decides only whether a flaky test is announced; its results say that it is flaky",
    ),
    of_state(
        "the addresses from which users have signed in are forgotten",
        "known_logins",
        lambda scene: scene.connection.execute("DELETE FROM known_logins"),
        "the next failed attempts of an account may lock its owner out for minutes, as on a new server",
    ),
    of_state(
        "the use of SAML assertions is forgotten",
        "used_once",
        lambda scene: scene.connection.execute("DELETE FROM used_once"),
        "an assertion is valid for minutes, and each sign-in is an event",
    ),
    of_state(
        "a session that was idle for long is shown as used",
        "session_uses",
        lambda scene: scene.connection.execute("UPDATE session_uses SET used_at = now()"),
        "no event holds when a session was used; it ends at the time that its event has",
    ),
    of_state(
        "semantic search finds a text that nobody wrote",
        "search_passages",
        lambda scene: scene.execute(
            "INSERT INTO search_passages (project_id, type, digest, subject_id, job_id, build_id, text, words)"
            " VALUES (1, 'build', '\\x00', 1, 1, 1, 'made up', 'made up')"
        ),
        "results lead to builds and tests, which show what the log has",
    ),
)
