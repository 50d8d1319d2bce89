"""Kinds of change that somebody with the database, the blobs and even the master secret can make, each with those who
must notice it: `bench/long/tampering.py` makes each of them.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zstandard
from tests.support import tampering
from tests.support.tampering import Intruder, cut_off_after, hide_in_the_tree

from bench.support.tampering_scene import Scene
from projections.artifacts import ArtifactRow
from projections.audit_trail import TrailRow
from projections.auth import ApiTokenRow, UserRow
from projections.builds import BuildRow
from projections.nodes import NodeRow
from projections.projects import MemberRow
from projections.results import BlockRow
from store.audit.leaves import hash_of, leaf_of, row_of
from store.audit.merkle import Frontier
from store.audit.signed_notes import Checkpoint, SigningKey, note_hash, split_note

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
    """The change, for the table in docs/audit.md."""
    change: Callable[[Scene], object]
    noticed_by: tuple[str, ...] = ()
    """Detectors that must notice it; none: nobody can."""
    tables: tuple[str, ...] = ()
    """Tables that are put back afterwards, besides those of the log."""
    read: Callable[[Scene], str | None] = lambda scene: None
    """A request of somebody who reads what was changed."""
    model: str | None = None
    """The read model that is compared with the log."""
    because: str = ""
    """Why nobody can notice it."""


def of_log(what: str, change: Callable[[Intruder], set[int]]) -> Kind:
    return Kind("log", what, lambda scene: change(scene.intruder()), ("sealer", "verify"))


def forge_tree(scene: Scene) -> None:
    """Changes a row, and makes the tree anew from the rows."""
    scene.execute("UPDATE stored_events SET topic = 'build.pinned' WHERE notification_id = 9")
    hide_in_the_tree(scene.connection)


def forge_checkpoints(scene: Scene) -> None:
    """Changes a row and the tree, and signs all checkpoints anew with the server's own key."""
    forge_tree(scene)
    vkey, sealed = scene.fetch("SELECT vkey, sealed FROM audit_keys")
    key = SigningKey(vkey.partition("+")[0], base64.b64decode(scene.secrets.unseal(sealed)))
    leaves = scene.connection.execute(
        "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
        " WHERE notification_id > 0 ORDER BY notification_id"
    )
    notes = dict(scene.connection.execute("SELECT size, note FROM audit_checkpoints").fetchall())
    tree, previous = Frontier(), None
    for position, *columns in leaves.fetchall():
        tree.append(hash_of(leaf_of(position, row_of(*columns))))
        if position in notes:
            old = Checkpoint.parse(split_note(notes[position])[0])
            note = key.sign(Checkpoint(old.origin, position, tree.root, old.time, previous).text)
            scene.execute(
                "UPDATE audit_checkpoints SET (note, root) = (%s, %s) WHERE size = %s", note, tree.root, position
            )
            previous = note_hash(note)


def sign_with_another_key(scene: Scene) -> None:
    size, note = scene.fetch("SELECT size, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")
    old = Checkpoint.parse(split_note(note)[0])
    scene.execute(
        "UPDATE audit_checkpoints SET note = %s WHERE size = %s", SigningKey.new(old.origin).sign(old.text), size
    )


def append_by_sql(scene: Scene) -> None:
    scene.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
        " SELECT originator_id, (SELECT max(originator_version) + 1 FROM stored_events i"
        " WHERE i.originator_id = o.originator_id), 'build.pinned', state FROM stored_events o"
        " WHERE topic = 'build.pinned' OR topic = 'build.started' LIMIT 1"
    )


def delete_signing_key(scene: Scene) -> None:
    append_by_sql(scene)  # so that there is something to sign
    scene.execute("DELETE FROM audit_keys")


def forge_artifact(scene: Scene) -> None:
    scene.execute(f"UPDATE {ArtifactRow.table} SET sha256 = '00' WHERE id = %s", scene.artifact)
    scene.blob.write_bytes(b"forged")


def destroy_a_key(scene: Scene) -> None:
    scene.execute("UPDATE stored_events_keys SET wrapped = NULL, destroyed_at = now() WHERE name ~ %s", key_of(scene))


def key_of(scene: Scene) -> str:
    return f"/build-{scene.build}$"


def rewrite_log(scene: Scene, *, digests: bool) -> None:
    rows = scene.connection.execute(
        "SELECT first_line, lines, digest FROM build_log_chunks WHERE build_id = %s ORDER BY first_line", (scene.build,)
    ).fetchall()
    before = b""
    for number, (first, packed, digest) in enumerate(rows):
        lines = zstandard.decompress(packed)
        if number == 0:
            lines = lines.replace(b"collecting", b"COLLECTING")
        before = hashlib.sha256(before + lines).digest() if digests else digest
        scene.execute(
            "UPDATE build_log_chunks SET lines = %s, digest = %s WHERE (build_id, first_line) = (%s, %s)",
            *(zstandard.compress(lines), before, scene.build, first),
        )


def get_log(scene: Scene) -> str | None:
    return scene.get(f"/builds/{scene.build}/pipeline_logs")


def get_artifact(scene: Scene) -> str | None:
    return scene.get(f"/artifacts/{scene.artifact}/download")


def change_row(table: object, column: str, value: str, condition: str = "true") -> Callable[[Scene], None]:
    statement = (
        f"UPDATE {table} SET {column} = {value} WHERE ctid = (SELECT ctid FROM {table} WHERE {condition} LIMIT 1)"
    )
    return lambda scene: scene.execute(statement)


def of_model(model: str, table: object, what: str, change: Callable[[Scene], None], *more: str, **options: Any) -> Kind:
    return Kind(
        "read models", what, change, ("diff", *more), (str(table), "projection_positions"), model=model, **options
    )


def of_state(what: str, table: str, change: Callable[[Scene], None], because: str) -> Kind:
    return Kind("working state", what, change, (), (table,), because=because)


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
        "the newest events are removed, with all checkpoints over them",
        lambda scene: cut_off_after(scene.connection, scene.held // 2),
        ("sealer", "verify"),
    ),
    Kind(
        "log",
        "an event is added at the end",
        append_by_sql,
        because="who can write to the database can add events until they are sealed",
    ),
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
        lambda scene: scene.execute(f"INSERT INTO {ApiTokenRow.table} VALUES (999999, 1, 'made up', '\\x00', now())"),
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
        "nodes", NodeRow.table, "the token of an agent is replaced", change_row(NodeRow.table, "token_hash", "'\\x00'")
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
        lambda scene: scene.execute("UPDATE reaction_positions SET position = position + 1"),
        NO_EVENT,
    ),
)
