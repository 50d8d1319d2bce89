"""Lists the kinds of change that somebody can make who has the database, the blobs and even the secret key. Each kind
names the detectors that must notice it. `bench/long/tampering.py` makes each of these changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support import tampering
from tests.support.tampering import Intruder, cut_off_after

from bench.support.tampering_changes import (
    alter_answer,
    append_by_sql,
    change_row,
    change_unsealed,
    delete_signing_key,
    destroy_a_key,
    forge_artifact,
    forge_checkpoints,
    forge_tree,
    get_artifact,
    get_log,
    key_of,
    lose,
    lose_wraps,
    put_back_a_key,
    repeat,
    rewrite_log,
    set_back,
    sign_with_another_key,
    silence,
    skip_due_reactions,
)
from bench.support.tampering_scene import Scene
from projections.artifacts import ArtifactRow
from projections.audit_trail import TrailRow
from projections.auth import ApiTokenRow, UserRow
from projections.builds import BuildRow
from projections.identity_providers import IdentityProviderRow
from projections.nodes import NodeRow
from projections.projects import MemberRow
from projections.results import BlockRow
from store.log.ids import POSITION_SEQUENCE

SEALED = (
    "stored_events",
    "audit_tiles",
    "audit_checkpoints",
    "audit_keys",
    "audit_sealing",
    "alarms",
    "stored_events_keys",
)


@dataclass(frozen=True)
class Kind:
    area: str
    what: str
    """Description of the change, for the table in docs/audit.md."""
    change: Callable[[Scene], object]
    noticed_by: tuple[str, ...] = ()
    """Detectors that must notice the change; empty if none can."""
    tables: tuple[str, ...] = ()
    """Tables that are put back afterwards, in addition to the tables of the log."""
    read: Callable[[Scene], str | None] = lambda scene: None
    """Sends a request for the changed data. Returns what the reader notices, or None."""
    model: str | None = None
    """Name of the read model that is compared with the log."""
    because: str = ""
    """Why no detector can notice the change."""


def of_log(what: str, change: Callable[[Intruder], set[int]]) -> Kind:
    return Kind("log", what, lambda scene: change(scene.intruder()), ("sealer", "verify"))


def of_model(model: str, table: object, what: str, change: Callable[[Scene], None], *more: str, **options: Any) -> Kind:
    return Kind(
        "read models", what, change, ("diff", *more), (str(table), "projection_positions"), model=model, **options
    )


def of_state(what: str, table: str, change: Callable[[Scene], None], because: str) -> Kind:
    return Kind("working state", what, change, (), (table,), because=because)


def of_lost(what: str, table: object, *more: str) -> Kind:
    return Kind("tables", f"`{table}` is dropped: {what}", lose(table), ("readyz", *more))


NO_EVENT = "no event holds it: what is still to be done, not what happened"

KINDS: tuple[Kind, ...] = (
    of_log("a bit of a row's bytes is turned", tampering.turn_a_bit_of_the_state),
    of_log("a row gets another stream", tampering.change_a_letter_of_the_stream),
    of_log("a row gets another type", tampering.change_the_type),
    of_log("a row gets another version", tampering.change_the_version),
    of_log("a row gets another actor", tampering.change_the_actor),
    of_log("a row gets another time", tampering.change_the_time),
    of_log("the sealed fields of two rows are swapped", tampering.swap_what_is_sealed),
    of_log("other content is sealed under the same key", tampering.seal_something_else),
    of_log("the same content is encrypted anew", tampering.encrypt_a_row_again),
    of_log("a row is deleted", tampering.delete_a_row),
    of_log("two rows are swapped", tampering.swap_two_rows),
    of_log("the bytes of two rows are swapped", tampering.swap_two_states),
    of_log("a row is inserted before the first", tampering.insert_before_the_first),
    of_log("a row is inserted, later ones are shifted", tampering.insert_between_and_shift),
    of_log("a row is replaced by another", tampering.replace_a_row_by_another),
    Kind(
        "log",
        "a row is inserted far behind the last",
        lambda scene: scene.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)"
            " SELECT 'build-999999999', 1, topic, state, 1000000000000 FROM stored_events LIMIT 1"
        ),
        ("sealer",),
    ),
    Kind(
        "log",
        "a row is inserted some positions behind the last",
        lambda scene: scene.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)"
            " SELECT 'build-999999999', 1, topic, state, (SELECT max(notification_id) + 500 FROM stored_events)"
            " FROM stored_events LIMIT 1"
        ),
        ("sealer",),
    ),
    Kind("sequences", "that of positions is set back", lambda scene: set_back(scene, POSITION_SEQUENCE), ("sealer",)),
    Kind("sequences", "that of builds is set back", lambda scene: set_back(scene, "builds_ids"), ("comparison",)),
    Kind(
        "log",
        "the newest events are removed, with all checkpoints over them",
        lambda scene: cut_off_after(scene.connection, scene.held // 2),
        ("sealer", "verify"),
    ),
    Kind("log", "an event is added at the end", append_by_sql, ("sealer",)),
    Kind("log", "a row is changed before it is sealed", change_unsealed, ("sealer",)),
    Kind(
        "tree",
        "a leaf is changed",
        lambda scene: scene.execute(
            "UPDATE audit_tiles SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1) WHERE (level, n) = (0, 0)"
        ),
        ("sealer", "verify"),
    ),
    Kind(
        "tree",
        "a tile of leaves is deleted",
        lambda scene: scene.execute("DELETE FROM audit_tiles WHERE (level, n) = (0, 0)"),
        ("sealer", "verify"),
    ),
    Kind(
        "tree",
        "an inner hash is changed",
        lambda scene: scene.execute(
            "UPDATE audit_tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1) WHERE (level, n) = (1, 0)"
        ),
        ("sealer",),
    ),
    Kind("tree", "a row and the whole tree are made to fit each other", forge_tree, ("sealer", "verify")),
    Kind(
        "tree", "a row, the tree and all checkpoints, signed with the server's own key", forge_checkpoints, ("verify",)
    ),
    Kind("checkpoints", "the newest is signed with another key", sign_with_another_key, ("sealer",)),
    Kind(
        "checkpoints",
        "the time in an older one is changed",
        lambda scene: scene.execute(
            "UPDATE audit_checkpoints SET note = replace(note, E'\\ntime 2', E'\\ntime 1')"
            " WHERE size = (SELECT min(size) FROM audit_checkpoints)"
        ),
        ("sealer",),
    ),
    Kind(
        "checkpoints",
        "an older one is deleted",
        lambda scene: scene.execute(
            "DELETE FROM audit_checkpoints WHERE size = (SELECT min(size) FROM audit_checkpoints)"
        ),
        ("sealer",),
    ),
    Kind(
        "checkpoints",
        "all are deleted, and the tree with them",
        lambda scene: scene.connection.execute("TRUNCATE audit_checkpoints, audit_tiles"),
        ("sealer",),
    ),
    Kind("checkpoints", "the private signing key is deleted", delete_signing_key, ("sealer",)),
    Kind("keys", "a data key is destroyed without a deletion", destroy_a_key, ("sealer", "verify")),
    Kind("keys", "the key of something deleted is put back", put_back_a_key, ("sealer",)),
    Kind(
        "keys",
        "a data key is deleted",
        lambda scene: scene.execute("DELETE FROM stored_events_keys WHERE name ~ %s", key_of(scene)),
        ("sealer", "verify"),
    ),
    Kind(
        "keys",
        "a data key is changed",
        lambda scene: scene.execute(
            "UPDATE stored_events_keys SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) WHERE name ~ %s",
            key_of(scene),
        ),
        ("sealer", "verify"),
    ),
    Kind("keys", "the wrap of a root key is deleted", lose_wraps, ("sealer",), ("root_key_wraps",)),
    of_model(
        "builds",
        BuildRow.table,
        "a failed build is shown as passed",
        change_row(BuildRow.table, "status", "'passed'", "status = 'failed'"),
    ),
    of_model(
        "results",
        BlockRow.table,
        "the results of a report are removed",
        lambda scene: scene.execute(f"DELETE FROM {BlockRow.table}"),
    ),
    of_model(
        "auth",
        UserRow.table,
        "a user is made an administrator",
        change_row(UserRow.table, "role", "'admin'", "role <> 'admin'"),
        "comparison",
    ),
    of_model(
        "auth",
        ApiTokenRow.table,
        "an API token is made up",
        lambda scene: scene.execute(
            f"INSERT INTO {ApiTokenRow.table} VALUES (999999, 1, 'made up', '\\x00', now(), '[]')"
        ),
        "comparison",
    ),
    of_model(
        "auth",
        UserRow.table,
        "the password of a user is replaced",
        change_row(UserRow.table, "password_hash", "'x'"),
        "comparison",
    ),
    of_model(
        "auth",
        ApiTokenRow.table,
        "an API token gets another owner",
        change_row(ApiTokenRow.table, "user_id", "user_id + 1"),
        "comparison",
    ),
    of_model(
        "projects",
        MemberRow.table,
        "a membership is removed",
        lambda scene: scene.execute(f"DELETE FROM {MemberRow.table}"),
        "comparison",
    ),
    of_model(
        "nodes",
        NodeRow.table,
        "the token of an agent is replaced",
        change_row(NodeRow.table, "token_hash", "'\\x00'"),
        "comparison",
    ),
    of_model(
        "nodes",
        NodeRow.table,
        "an agent gets a second token",
        change_row(NodeRow.table, "old_token_until", "'2099-01-01', old_token_hash = '\\x00'"),
        "comparison",
    ),
    of_model(
        "identity_providers",
        IdentityProviderRow.table,
        "an identity provider is made up",
        lambda scene: scene.execute(
            f"INSERT INTO {IdentityProviderRow.table} VALUES (9999, 'Company', 'https://idp', 'https://idp/sso', '[]',"
            " true, true, true, true, 'admin', '', '', '{}', NULL, now(), now())"
        ),
        "comparison",
    ),
    of_model(
        "trail",
        TrailRow.table,
        "events are left out of the audit trail",
        lambda scene: scene.execute(f"DELETE FROM {TrailRow.table} WHERE position = 9"),
        "comparison",
    ),
    Kind(
        "read models",
        "a position is set behind the end of the log",
        change_row("projection_positions", "position", "position + 1000", "name = 'builds'"),
        ("readyz",),
        ("projection_positions",),
    ),
    of_model(
        "artifacts",
        ArtifactRow.table,
        "the name of an artifact is changed",
        change_row(ArtifactRow.table, "path", "'other.bin'"),
    ),
    of_model(
        "artifacts",
        ArtifactRow.table,
        "the SHA-256 of an artifact is changed, and the file with it",
        forge_artifact,
        "contents",
        "reading",
        read=get_artifact,
    ),
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
        ("contents",),
        ("webhook_endpoints",),
    ),
    Kind(
        "deliveries",
        "a channel of Teams is told less",
        lambda scene: scene.execute("UPDATE webhook_endpoints SET events = '{}' WHERE kind = 'teams'"),
        ("contents",),
        ("webhook_endpoints",),
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
)
