"""How an event is stored, and how it is read back.

A stored state is one msgpack array: flags, class version, time in microseconds, actor, correlation id, causation,
name of the data key, body. The stamp is in clear, so that it stays readable after an erasure; the body (the event's
own fields) is compressed when that pays and encrypted when the event names a data key. An event of an older class
version goes through the upcasters of its name first: plain functions from one version's dict to the next.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import zstandard
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

from domain.base import UNSTAMPED, Erasure, Event, Recorded, Stamp
from store.secrets import decrypt, encrypt

COMPRESSED = 1
ENCRYPTED = 2
WORTH_COMPRESSING = 512  # bytes; below that zstd saves little and costs a call

Upcasters = Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]
KeyOf = Callable[[str], bytes | None]


class UnknownEvent(Exception):
    """The log holds an event that this version of the server does not know."""


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    flags: int
    class_version: int
    at_us: int
    actor: str
    correlation_id: str
    causation: int | None
    key_name: str | None
    body: bytes

    @property
    def at(self) -> datetime:
        return UNSTAMPED + timedelta(microseconds=self.at_us)


_envelopes = msgspec.msgpack.Decoder(Envelope)
_encoder = msgspec.msgpack.Encoder()
_compressor = zstandard.ZstdCompressor(level=3)
_decompressor = zstandard.ZstdDecompressor()


class EventMapper(Mapper[str]):
    """The library's mapper for msgspec events. `Recorded` plays the part of its domain event."""

    def __init__(self, catalogue: Mapping[str, type[Event]], upcasters: Upcasters) -> None:
        super().__init__(JSONTranscoder())
        self._catalogue = catalogue
        self._upcasters = upcasters
        self._decoders = {name: msgspec.msgpack.Decoder(cls) for name, cls in catalogue.items()}

    def encode(self, stream: str, version: int, event: Event, stamp: Stamp, key: bytes | None) -> StoredEvent:
        """`event` is unstamped; `key` is the data key where the event names one."""
        flags = 0
        body = _encoder.encode(event)
        if len(body) > WORTH_COMPRESSING:
            flags |= COMPRESSED
            body = _compressor.compress(body)
        if key is not None:
            flags |= ENCRYPTED
            body = encrypt(key, body, _context(stream, version, event.name))
        envelope = Envelope(
            flags,
            event.class_version,
            (stamp.at - UNSTAMPED) // timedelta(microseconds=1),
            stamp.actor,
            stamp.correlation_id,
            stamp.causation,
            event.data_key if key is not None else None,
            body,
        )
        return StoredEvent(
            originator_id=stream,
            originator_version=version,
            topic=event.name,
            state=_encoder.encode(envelope),
        )

    def envelope(self, state: bytes) -> Envelope:
        return _envelopes.decode(state)

    def decode(self, stored: StoredEvent, position: int, key_of: KeyOf) -> Recorded:
        """`key_of` answers None for a data key that was destroyed."""
        stream, version, name = str(stored.originator_id), stored.originator_version, stored.topic
        envelope = _envelopes.decode(stored.state)
        stamp = Stamp(envelope.at, envelope.actor, envelope.correlation_id, envelope.causation)
        body = envelope.body
        if envelope.flags & ENCRYPTED:
            key = key_of(envelope.key_name or "")
            if key is None:
                return Recorded(stream, version, position, stamp.on(Erasure(erased_name=name)))
            body = decrypt(key, body, _context(stream, version, name))
        if envelope.flags & COMPRESSED:
            body = _decompressor.decompress(body)
        return Recorded(stream, version, position, stamp.on(self._event(name, envelope.class_version, body)))

    def _event(self, name: str, class_version: int, body: bytes) -> Event:
        cls = self._catalogue.get(name)
        if cls is None or class_version > cls.class_version:
            raise UnknownEvent(f"event {name!r} version {class_version} is not known to this version of the server")
        if class_version == cls.class_version:
            return self._decoders[name].decode(body)
        fields = msgspec.msgpack.decode(body)
        for old in range(class_version, cls.class_version):
            fields = self._upcasters[name, old](fields)
        return msgspec.convert(fields, cls)

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        recorded: Recorded = domain_event
        event = recorded.event
        stamp = Stamp(event.at, event.actor, event.correlation_id, event.causation)
        return self.encode(recorded.stream, recorded.version, UNSTAMPED_STAMP.on(event), stamp, None)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return self.decode(stored_event, 0, lambda name: None)


UNSTAMPED_STAMP = Stamp(UNSTAMPED, "")


def _context(stream: str, version: int, name: str) -> bytes:
    # Binds a ciphertext to its place: moved to another row it does not decrypt.
    return f"{stream}\0{version}\0{name}".encode()


def utcnow() -> datetime:
    return datetime.now(UTC)
