"""The MAC of a row of the log: whoever has the database but not the server's secret cannot make or change a row.

It is made with the secret when the event is appended, and checked before the row is sealed. It is the last element of
the stored state, and covers the row's stream, version and type and all bytes of the state before it.
"""

import hashlib
import hmac

from eventsourcing.persistence import StoredEvent

MAC_BYTES = 16
NO_MAC = b"\xc4\x00"
"""No bytes, in msgpack: the last element of a state that has no MAC yet."""
MAC_HEAD = b"\xc4\x10"
"""What precedes the MAC in msgpack: 16 bytes follow."""


def add_mac(key: bytes, row: StoredEvent) -> StoredEvent:
    """Returns a row that the codec has just encoded, with its MAC."""
    assert row.state.endswith(NO_MAC)
    head = row.state[: -len(NO_MAC)] + MAC_HEAD
    state = head + _mac(key, row, head)
    return StoredEvent(row.originator_id, row.originator_version, row.topic, state)


def has_right_mac(key: bytes, row: StoredEvent) -> bool:
    """Tells whether the row ends with the MAC that this server made for it."""
    head, mac = row.state[:-MAC_BYTES], row.state[-MAC_BYTES:]
    return head.endswith(MAC_HEAD) and hmac.compare_digest(mac, _mac(key, row, head))


def _mac(key: bytes, row: StoredEvent, head: bytes) -> bytes:
    context = f"{row.originator_id}\0{row.originator_version}\0{row.topic}\0".encode()
    # Over a hash, since SHA-256 takes a third of the time for the large states of results.
    return hashlib.blake2b(hashlib.sha256(context + head).digest(), digest_size=MAC_BYTES, key=key).digest()
