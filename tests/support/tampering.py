"""Changes that somebody with the database's password can make to a log, and the positions at which each must be found.
A seed decides all choices.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import StoredEvent
from psycopg import Connection

from store.audit.leaves import MAPPER, hash_of, leaf_of
from store.audit.merkle import Edge
from store.crypto.secrets import Secrets, decrypt, encrypt
from store.log.codec import Envelope, commitment

Row = tuple[int, str, int, str, bytes]


@dataclass
class Intruder:
    """Somebody who has the database and even the root keys, but not the checkpoints that others hold."""

    connection: Connection[Any]
    secrets: Secrets
    chance: random.Random

    def __post_init__(self) -> None:
        self.connection.execute("DROP TABLE IF EXISTS pg_temp.kept")
        self.connection.execute("CREATE TEMP TABLE kept AS TABLE stored_events")
        self.rows: list[Row] = self.connection.execute(
            "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
            " ORDER BY notification_id"
        ).fetchall()

    def undo(self) -> None:
        self.connection.execute("TRUNCATE stored_events")
        self.connection.execute("INSERT INTO stored_events SELECT * FROM kept")

    def any_row(self) -> Row:
        return self.chance.choice(self.rows)

    def change(self, position: int, column: str, value: object) -> None:
        query = f"UPDATE stored_events SET {column} = %s WHERE notification_id = %s"
        self.connection.execute(query.encode(), (value, position))

    def insert(self, row: Row) -> None:
        self.connection.execute(
            "INSERT INTO stored_events (notification_id, originator_id, originator_version, topic, state)"
            " VALUES (%s, %s, %s, %s, %s)",
            row,
        )

    def delete(self, position: int) -> None:
        self.connection.execute("DELETE FROM stored_events WHERE notification_id = %s", (position,))

    def sealed_row(self) -> tuple[Row, Envelope, AESGCM]:
        """Returns a row with sealed fields whose data key still exists, its envelope, and this key."""
        while True:
            row = self.any_row()
            envelope = MAPPER.envelope(row[4])
            if envelope.key_name is not None and (key := self.key(envelope.key_name)) is not None:
                return row, envelope, key

    def key(self, name: str) -> AESGCM | None:
        above, _, _ = name.rpartition("/")
        parent = self.key(above) if above else None
        found = self.connection.execute("SELECT wrapped FROM stored_events_keys WHERE name = %s", (name,)).fetchone()
        if found is None or found[0] is None or (above and parent is None):
            return None
        return self.secrets.unwrap(name, found[0], parent)


def turn_a_bit_of_the_state(intruder: Intruder) -> set[int]:
    position, _, _, _, state = intruder.any_row()
    index, bit = intruder.chance.randrange(len(state)), 1 << intruder.chance.randrange(8)
    intruder.change(position, "state", state[:index] + bytes([state[index] ^ bit]) + state[index + 1 :])
    return {position}


def change_a_letter_of_the_stream(intruder: Intruder) -> set[int]:
    position, stream, *_ = intruder.any_row()
    intruder.change(position, "originator_id", stream[:-1] + chr(ord(stream[-1]) + 17))
    return {position}


def change_the_type(intruder: Intruder) -> set[int]:
    position, _, _, topic, _ = intruder.any_row()
    intruder.change(position, "topic", "build.pinned" if topic != "build.pinned" else "build.unpinned")
    return {position}


def change_the_version(intruder: Intruder) -> set[int]:
    position, _, version, *_ = intruder.any_row()
    intruder.change(position, "originator_version", version + 1_000)
    return {position}


def change_the_actor(intruder: Intruder) -> set[int]:
    position, _, _, _, state = intruder.any_row()
    envelope = msgspec.structs.replace(MAPPER.envelope(state), actor="user:666")
    intruder.change(position, "state", msgspec.msgpack.encode(envelope))
    return {position}


def change_the_time(intruder: Intruder) -> set[int]:
    position, _, _, _, state = intruder.any_row()
    envelope = MAPPER.envelope(state)
    later = msgspec.structs.replace(envelope, at_us=envelope.at_us + 3_600_000_000)
    intruder.change(position, "state", msgspec.msgpack.encode(later))
    return {position}


def swap_what_is_sealed(intruder: Intruder) -> set[int]:
    """Swaps the sealed fields of two rows, with commitment and key, so that each part fits the others."""
    (one, first, _), (other, second, _) = intruder.sealed_row(), intruder.sealed_row()
    for row, envelope, others in ((one, first, second), (other, second, first)):
        taken = {name: getattr(others, name) for name in ("flags", "key_name", "sealed", "commitment")}
        forged = msgspec.structs.replace(envelope, **taken)
        intruder.change(row[0], "state", msgspec.msgpack.encode(forged))
    return {one[0], other[0]} if one[0] != other[0] else set()


def delete_a_row(intruder: Intruder) -> set[int]:
    position = intruder.any_row()[0]
    intruder.delete(position)
    return {position}


def swap_two_rows(intruder: Intruder) -> set[int]:
    first, second = intruder.chance.sample(intruder.rows, 2)
    for position, (_, *others) in ((first[0], second), (second[0], first)):
        intruder.delete(position)
        intruder.connection.execute(
            "DELETE FROM stored_events WHERE originator_id = %s AND originator_version = %s", others[:2]
        )
        intruder.insert((position, *others))  # type: ignore[arg-type]
    return {first[0], second[0]}


def swap_two_states(intruder: Intruder) -> set[int]:
    first, second = intruder.chance.sample(intruder.rows, 2)
    intruder.change(first[0], "state", second[4])
    intruder.change(second[0], "state", first[4])
    return {first[0], second[0]} if first[4] != second[4] else set()


def insert_before_the_first(intruder: Intruder) -> set[int]:
    _, _, _, topic, state = intruder.any_row()
    position = -intruder.chance.randrange(1_000)
    intruder.insert((position, "build-999999999", 1, topic, state))
    return {position}


def insert_between_and_shift(intruder: Intruder) -> set[int]:
    position, _, _, topic, state = intruder.any_row()
    for shift in (1_000_000_001, -1_000_000_000):  # in two steps: positions are unique at every moment
        intruder.connection.execute(
            "UPDATE stored_events SET notification_id = notification_id + %s WHERE notification_id >= %s",
            (shift, position),
        )
    intruder.insert((position, "build-999999999", 1, topic, state))
    return {position}


def replace_a_row_by_another(intruder: Intruder) -> set[int]:
    position, _, _, topic, state = intruder.any_row()
    intruder.delete(position)
    intruder.insert((position, "build-999999999", 1, topic, state))
    return {position}


def encrypt_a_row_again(intruder: Intruder) -> set[int]:
    """Encrypts the same content again under the same key: only the bytes differ."""
    row, envelope, key = intruder.sealed_row()
    context = f"{row[1]}\0{row[2]}\0{row[3]}".encode()
    sealed = encrypt(key, decrypt(key, envelope.sealed, context), context)
    intruder.change(row[0], "state", msgspec.msgpack.encode(msgspec.structs.replace(envelope, sealed=sealed)))
    return {row[0]}


def seal_something_else(intruder: Intruder) -> set[int]:
    """Encrypts other content under the same key, with a commitment that fits it."""
    row, envelope, key = intruder.sealed_row()
    salt, sealed = bytes(16), msgspec.msgpack.encode({"branch": "main"})
    forged = msgspec.structs.replace(
        envelope,
        flags=envelope.flags & ~2,
        sealed=encrypt(key, salt + sealed, f"{row[1]}\0{row[2]}\0{row[3]}".encode()),
        commitment=commitment(salt, sealed),
    )
    intruder.change(row[0], "state", msgspec.msgpack.encode(forged))
    return {row[0]}


TAMPERINGS: Sequence[Callable[[Intruder], set[int]]] = (
    turn_a_bit_of_the_state,
    change_a_letter_of_the_stream,
    change_the_type,
    change_the_version,
    change_the_actor,
    change_the_time,
    swap_what_is_sealed,
    delete_a_row,
    swap_two_rows,
    swap_two_states,
    insert_before_the_first,
    insert_between_and_shift,
    replace_a_row_by_another,
    encrypt_a_row_again,
    seal_something_else,
)
"""Changes to a log. Each returns the positions at which it must be found."""


def hide_in_the_tree(connection: Connection[Any]) -> None:
    """Computes the audit tree anew from the rows as they are now, as an intruder does to hide a change."""
    edge = Edge()
    rows = connection.execute(
        "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
        " WHERE notification_id > 0 ORDER BY notification_id"
    ).fetchall()
    tiles = edge.append(hash_of(leaf_of(position, StoredEvent(*columns))) for position, *columns in rows)
    connection.execute("TRUNCATE audit_tiles")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO audit_tiles VALUES (%s, %s, %s)", [(level, n, tile) for (level, n), tile in tiles.items()]
        )


def cut_off_after(connection: Connection[Any], size: int) -> None:
    """Removes the end of the log, and everything that refers to it."""
    connection.execute("DELETE FROM stored_events WHERE notification_id > %s", (size,))
    connection.execute("DELETE FROM audit_checkpoints WHERE size > %s", (size,))
