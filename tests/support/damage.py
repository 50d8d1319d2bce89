"""Damages stored events, so that their rows can no longer be read. The damage is not hidden, unlike that of an
intruder.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import msgspec
import psycopg

from store.audit.leaves import MAPPER

Damage = Callable[[bytes], bytes]


def no_event(state: bytes) -> bytes:
    return state[: len(state) // 2]


def other_fields(state: bytes) -> bytes:
    fields = {"claim": 7, "build_id": "seven"}
    return msgspec.msgpack.encode(
        msgspec.structs.replace(MAPPER.envelope(state), flags=0, clear=msgspec.msgpack.encode(fields))
    )


def other_seal(state: bytes) -> bytes:
    envelope = MAPPER.envelope(state)
    assert envelope.sealed, "it has sealed fields"
    *others, last = envelope.sealed
    return msgspec.msgpack.encode(msgspec.structs.replace(envelope, sealed=bytes([*others, last ^ 1])))


def no_time(state: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.replace(MAPPER.envelope(state), at_us=2**62))


def no_such_version(state: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.replace(MAPPER.envelope(state), class_version=0))


DAMAGES: Mapping[str, Damage] = {
    damage.__name__: damage for damage in (no_event, other_fields, no_time, no_such_version)
}
"""Name -> damage, for the damages that any event can have."""


@contextlib.contextmanager
def damaged(conninfo: str, position: int, damage: Damage = no_event) -> Iterator[None]:
    """Makes the event at this position unreadable while the block runs."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT state FROM stored_events WHERE notification_id = %s", (position,)).fetchone()
        assert row is not None
        change = "UPDATE stored_events SET state = %s WHERE notification_id = %s"
        connection.execute(change, (damage(row[0]), position))
        try:
            yield
        finally:
            connection.execute(change, (row[0], position))
