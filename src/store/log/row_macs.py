"""Makes and checks the MACs of the rows of the log. Somebody who can write to the database, but has no secret key of
the server, cannot make a right MAC. So a row that they insert or change is noticed.

The server makes the MAC when it appends the event, and checks the MAC before it seals the row. The MAC is the last
element of the stored state. It covers the row's stream, version and type, and all bytes of the state before the MAC.
"""

import hashlib
import hmac
from collections.abc import Iterable

from eventsourcing.persistence import StoredEvent

MAC_BYTES = 16
NO_MAC = b"\xc4\x00"
"""Empty bytes in msgpack: the last element of a state that has no MAC yet."""
MAC_HEAD = b"\xc4\x10"
"""Prefix of the MAC in msgpack, which says that 16 bytes follow."""


def add_mac(key: bytes, row: StoredEvent) -> StoredEvent:
    """Returns the row with its MAC. Expects a row that the codec has just encoded, without a MAC."""
    assert row.state.endswith(NO_MAC)
    head = row.state[: -len(NO_MAC)] + MAC_HEAD
    state = head + _mac(key, row, head)
    return StoredEvent(row.originator_id, row.originator_version, row.topic, state)


def has_right_mac(keys: Iterable[bytes], row: StoredEvent) -> bool:
    """Returns whether the row ends with the MAC that one of `keys` makes for this row."""
    head, mac = row.state[:-MAC_BYTES], row.state[-MAC_BYTES:]
    return head.endswith(MAC_HEAD) and any(hmac.compare_digest(mac, _mac(key, row, head)) for key in keys)


def _mac(key: bytes, row: StoredEvent, head: bytes) -> bytes:
    context = f"{row.originator_id}\0{row.originator_version}\0{row.topic}\0".encode()
    # The MAC is of a SHA-256 of the row, which takes a third of the time for the large states of results.
    return hashlib.blake2b(hashlib.sha256(context + head).digest(), digest_size=MAC_BYTES, key=key).digest()
