"""Changes a server's data by SQL and on disk: one function for each change that a kind of change makes."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable

import zstandard
from tests.support.tampering import hide_in_the_tree

from bench.support.tampering.scene import Scene
from domain.claims import ClaimTaken
from domain.core.events import EventMetadata
from projections.artifacts import ArtifactRow
from projections.engine.read_your_writes import POLL_INTERVAL_S
from store.audit.leaves import hash_of, leaf_of, row_of
from store.audit.merkle import Frontier
from store.audit.signed_notes import Checkpoint, SigningKey, note_hash, split_note
from store.clock import utcnow
from store.log.event_log import Write
from testhide.processes import core
from testhide.settings import Settings

LOST = "lost"
"""Schema into which a change moves the tables that it takes away."""


def forge_tree(scene: Scene) -> None:
    """Changes a row of the log, and computes the audit tree anew from the rows."""
    change_the_topic(scene)
    hide_in_the_tree(scene.connection)


def forge_checkpoints(scene: Scene) -> None:
    """Changes a row of the log and the audit tree, and signs all checkpoints anew with the server's key."""
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
    # So that there is something to sign. Rows that SQL adds are noticed by themselves.
    scene.server.admin.post("/api/v3/api-tokens", json={"name": "other laptop"}).raise_for_status()
    scene.execute("DELETE FROM audit_keys")


def forge_artifact(scene: Scene) -> None:
    scene.execute(f"UPDATE {ArtifactRow.table} SET sha256 = '00' WHERE id = %s", scene.artifact)
    scene.blob.write_bytes(b"forged")


def destroy_a_key(scene: Scene) -> None:
    scene.execute("UPDATE stored_events_keys SET wrapped = NULL, destroyed_at = now() WHERE name ~ %s", key_of(scene))


def put_back_a_key(scene: Scene) -> None:
    """Deletes a build, and puts its destroyed data key back."""
    (wrapped,) = scene.fetch("SELECT wrapped FROM stored_events_keys WHERE name ~ %s", key_of(scene))
    scene.server.admin.delete(f"/api/v3/builds/{scene.build}").raise_for_status()
    scene.execute("UPDATE stored_events_keys SET wrapped = %s WHERE name ~ %s", wrapped, key_of(scene))


def set_back(scene: Scene, sequence: str) -> None:
    """Sets a sequence back to its first value."""
    scene.fetch("SELECT setval(%s::regclass, 1)", sequence)


def lose_wraps(scene: Scene) -> None:
    """Deletes all root keys in the database, which are stored in encrypted form (wraps)."""
    scene.execute("DELETE FROM root_key_wraps")


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


def lose(table: object) -> Callable[[Scene], object]:
    """Returns a change that takes a table away. It moves the table to another schema, so that it can be put back."""
    return lambda scene: scene.connection.execute(f"ALTER TABLE public.{table} SET SCHEMA {LOST}".encode())


def alter_answer(scene: Scene) -> None:
    """Flips a bit of a stored answer. Sets the answer's age to zero first, since an answer with a secret is deleted
    after 5 minutes.
    """
    scene.execute("UPDATE stored_events_once SET at = now(), answer = set_byte(answer, 20, get_byte(answer, 20) # 1)")


def repeat(scene: Scene) -> str | None:
    """Sends a request again that has a stored answer."""
    return scene.ask("POST", "/projects", json={"name": "Once"}, headers=scene.once)


def silence(scene: Scene) -> None:
    """Damages a row, and deletes the alarm that the sealer sets about it."""
    change_the_topic(scene)
    scene.execute("INSERT INTO alarms (name, message) VALUES ('sealer', 'the log is not sealed any more')")
    scene.execute("DELETE FROM alarms")


def change_the_topic(scene: Scene) -> None:
    scene.execute("UPDATE stored_events SET topic = 'build.pinned' WHERE notification_id = 9")


def skip_recheck(scene: Scene) -> None:
    """Changes a row, and stores that the sealer has just compared the whole log."""
    change_the_topic(scene)
    scene.execute(
        "UPDATE audit_sealing SET (leaves_checked, checked_size, checked_at) = (%s, %s, now())", *[scene.held] * 2
    )


def change_unsealed(scene: Scene) -> None:
    """Appends an event, and changes its row before the sealer seals it."""
    size = scene.fetch("SELECT max(size) FROM audit_checkpoints")[0]
    asyncio.run(append_event(scene.server.settings))
    scene.execute("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id > %s", size)


async def append_event(settings: Settings) -> None:
    async with core(settings, pool_size=1) as parts:
        await parts.log.append([Write(1, ClaimTaken(claim="new", owner="user-1"))], EventMetadata(utcnow(), "user:1"))


def skip_due_reactions(scene: Scene) -> None:
    """Moves the stored positions past an event, but not past the end of the log, which readiness would notice."""
    scene.execute(
        "UPDATE reaction_positions SET position = position + 1"
        " WHERE position < (SELECT max(notification_id) FROM stored_events)"
    )


def park_event(scene: Scene) -> None:
    """Stores that an event is parked, and waits until the server has read it."""
    scene.execute(
        "INSERT INTO parked_events SELECT name, version, 9, 'build-1', 'made up' FROM projection_positions"
        " WHERE name = 'builds'"
    )
    time.sleep(2 * POLL_INTERVAL_S)
