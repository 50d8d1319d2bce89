"""Leaves of the audit log's tree: compact JSON with a position of the log and the values of the row at this position.

The last value is the hash of the row's stored bytes, so the server notices a change of any byte. The other values allow
a reader of an export to check the leaf without the data key. Destroying a data key changes no leaf.
"""

import hashlib

import msgspec
from eventsourcing.persistence import StoredEvent

from store.audit.merkle import leaf_hash
from store.log.codec import EventMapper, Opened, UnreadableEvent, canonical

MAPPER = EventMapper({}, {})
"""Decompresses and decrypts events of every type. It knows no event classes, so it cannot decode their fields."""


class EventLeaf(msgspec.Struct, array_like=True, frozen=True):
    """The leaf of an event. Hashes are SHA-256 in hex."""

    position: int
    stream: str
    version: int
    type: str
    class_version: int
    at_us: int
    actor: str
    correlation_id: str
    causation: int | None
    key: str | None
    clear: str
    """Hash of the clear fields as canonical JSON."""
    commitment: str
    """Commitment to the sealed fields: hash of the salt and their canonical JSON. Empty without sealed fields."""
    stored: str
    """Hash of the row's stored bytes (its `state`)."""


class UnreadableLeaf(msgspec.Struct, array_like=True, frozen=True):
    """The leaf of a row that was not readable as an event when the leaf was made."""

    position: int
    stream: str
    version: int
    type: str | None
    stored: str


class GapLeaf(msgspec.Struct, array_like=True, frozen=True):
    """The leaf of a position without a row, for example because the transaction with this position was rolled back."""

    position: int
    nothing: None = None


Leaf = EventLeaf | UnreadableLeaf | GapLeaf


def row_of(stream: str, version: int, type: str, state: bytes | None) -> StoredEvent:
    """Returns the columns of a row as a StoredEvent. The table permits a `state` of NULL, which becomes empty bytes."""
    return StoredEvent(stream, version, type, state or b"")


def leaf_data(leaf: Leaf) -> bytes:
    return msgspec.json.encode(leaf)


def hash_of(leaf: Leaf) -> bytes:
    return leaf_hash(leaf_data(leaf))


def leaf_of(position: int, stored: StoredEvent) -> EventLeaf | UnreadableLeaf:
    """Returns the leaf of a stored row: an UnreadableLeaf if the row cannot be read as an event."""
    try:
        return event_leaf(position, stored, MAPPER.opened(stored, lambda name: None))
    except UnreadableEvent:
        return UnreadableLeaf(
            position, str(stored.originator_id), stored.originator_version, stored.topic, sha256(stored.state)
        )


def event_leaf(position: int, stored: StoredEvent, opened: Opened) -> EventLeaf:
    """Returns the leaf of a stored event. `opened` is the same event, decompressed. Raises UnreadableEvent if the
    event's clear fields cannot be written as JSON.
    """
    _, *metadata, _, _, commitment, _ = msgspec.structs.astuple(opened.envelope)
    row = [position, str(stored.originator_id), stored.originator_version, stored.topic]
    hashes = [sha256(canonical(opened.clear)), commitment.hex(), sha256(stored.state)]
    return EventLeaf(*[*row, *metadata, *hashes])


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
