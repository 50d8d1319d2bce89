"""Kinds of change in the log, and in what proves that nobody changed it."""

from tests.support import tampering
from tests.support.tampering import cut_off_after

from bench.support.tampering.changes import (
    append_by_sql,
    change_unsealed,
    delete_signing_key,
    destroy_a_key,
    forge_checkpoints,
    forge_tree,
    key_of,
    lose_wraps,
    put_back_a_key,
    set_back,
    sign_with_another_key,
    skip_recheck,
)
from bench.support.tampering.kind import Kind, of_log
from store.log.ids import POSITION_SEQUENCE

LOG_KINDS = (
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
        "sequences",
        "that of deliveries is set back",
        lambda scene: set_back(scene, "webhook_deliveries_id_seq"),
        ("comparison",),
    ),
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
    Kind(
        "keys",
        "a root key is shown as never used",
        lambda scene: scene.execute("UPDATE root_keys SET used_since = NULL"),
        ("sealer",),
        ("root_keys",),
    ),
    Kind(
        "sealing",
        "everything is shown as compared just now, and a row is changed: noticed one round later",
        skip_recheck,
        ("sealer", "verify"),
    ),
    Kind(
        "sealing",
        "more is shown as sealed than was ever used",
        lambda scene: scene.execute("UPDATE audit_sealing SET checked_size = 1000000000"),
        ("sealer",),
    ),
)
