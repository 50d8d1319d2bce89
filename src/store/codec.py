"""How an event is stored, and how it is read back.

A stored state is one msgpack array: flags, class version, time in microseconds, actor, correlation id, causation, name
of the data key, the clear fields, the sealed fields. Sealed fields are encrypted under the data key, bound to their
place; when that key is gone they read as their defaults, and all the rest of the event as ever. Both parts are
compressed when that pays. An event of an older class version goes through the upcasters of its name first: plain
functions from one version's dict to the next.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import zstandard
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

from domain.base import UNSTAMPED, Event, Recorded, Stamp
from store.secrets import decrypt, encrypt

COMPRESSED = 1
SEALED_COMPRESSED = 2
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
    clear: bytes
    sealed: bytes

    @property
    def stamp(self) -> Stamp:
        at = UNSTAMPED + timedelta(microseconds=self.at_us)
        return Stamp(at, self.actor, self.correlation_id, self.causation)


_envelopes = msgspec.msgpack.Decoder(Envelope)
_encoder = msgspec.msgpack.Encoder()
_compressor = zstandard.ZstdCompressor(level=3)
_decompressor = zstandard.ZstdDecompressor()
_NO_STAMP = Stamp(UNSTAMPED, "")


class Shape:
    """A class of events as it is stored: all fields, and the sealed ones by themselves."""

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        self.decode = msgspec.msgpack.Decoder(event).decode
        fields = {field.name: field for field in msgspec.structs.fields(event)}
        self.blank: dict[str, Any] = {}
        for name in event.sealed:
            field = fields[name]
            if field.default_factory is not msgspec.NODEFAULT:
                self.blank[name] = field.default_factory()
            else:
                assert field.default is not msgspec.NODEFAULT, f"{event.__name__}.{name} is sealed: give it a default"
                self.blank[name] = field.default
        sealed = msgspec.defstruct(
            f"{event.__name__}Sealed",
            [(name, fields[name].type, self.blank[name]) for name in event.sealed],
            omit_defaults=True,
        )
        self.decode_sealed = msgspec.msgpack.Decoder(sealed).decode

    def split(self, event: Event) -> tuple[bytes, bytes]:
        """The clear and the sealed fields, encoded; nothing sealed is in the first."""
        if not self.blank:
            return _encoder.encode(event), b""
        sealed = {name: getattr(event, name) for name in self.blank}
        return _encoder.encode(msgspec.structs.replace(event, **self.blank)), _encoder.encode(sealed)

    def join(self, clear: bytes, sealed: bytes) -> Event:
        event = self.decode(clear)
        if not sealed:
            return event
        return msgspec.structs.replace(event, **msgspec.structs.asdict(self.decode_sealed(sealed)))


class EventMapper(Mapper[str]):
    """The library's mapper for msgspec events. `Recorded` plays the part of its domain event."""

    def __init__(self, catalogue: Mapping[str, type[Event]], upcasters: Upcasters) -> None:
        super().__init__(JSONTranscoder())
        self._upcasters = upcasters
        self._shapes = {name: Shape(event) for name, event in catalogue.items()}

    def encode(self, stream: str, version: int, event: Event, stamp: Stamp, key: bytes | None) -> StoredEvent:
        """`event` is unstamped; `key` is the data key where the event names one."""
        clear, sealed = self._shapes[event.name].split(event)
        flags = 0
        if len(clear) > WORTH_COMPRESSING:
            flags |= COMPRESSED
            clear = _compressor.compress(clear)
        if len(sealed) > WORTH_COMPRESSING:
            flags |= SEALED_COMPRESSED
            sealed = _compressor.compress(sealed)
        if sealed:
            assert key is not None, f"{event.name} has sealed fields and needs its data key"
            sealed = encrypt(key, sealed, _context(stream, version, event.name))
        envelope = Envelope(
            flags,
            event.class_version,
            (stamp.at - UNSTAMPED) // timedelta(microseconds=1),
            stamp.actor,
            stamp.correlation_id,
            stamp.causation,
            event.data_key if sealed else None,
            clear,
            sealed,
        )
        return StoredEvent(
            originator_id=stream, originator_version=version, topic=event.name, state=_encoder.encode(envelope)
        )

    def envelope(self, state: bytes) -> Envelope:
        return _envelopes.decode(state)

    def decode(self, stored: StoredEvent, position: int, key_of: KeyOf) -> Recorded:
        """`key_of` answers None for a data key that was destroyed."""
        stream, version, name = str(stored.originator_id), stored.originator_version, stored.topic
        envelope = _envelopes.decode(stored.state)
        clear, sealed = envelope.clear, envelope.sealed
        if envelope.flags & COMPRESSED:
            clear = _decompressor.decompress(clear)
        key = key_of(envelope.key_name or "") if sealed else None
        erased = bool(sealed) and key is None
        if key is not None:
            sealed = decrypt(key, sealed, _context(stream, version, name))
            if envelope.flags & SEALED_COMPRESSED:
                sealed = _decompressor.decompress(sealed)
        event = self._event(name, envelope.class_version, clear, b"" if erased else sealed)
        return Recorded(stream, version, position, envelope.stamp.on(event), erased)

    def _event(self, name: str, class_version: int, clear: bytes, sealed: bytes) -> Event:
        shape = self._shapes.get(name)
        if shape is None or class_version > shape.event.class_version:
            raise UnknownEvent(f"event {name!r} version {class_version} is not known to this version of the server")
        if class_version == shape.event.class_version:
            return shape.join(clear, sealed)
        fields = msgspec.msgpack.decode(clear) | (msgspec.msgpack.decode(sealed) if sealed else {})
        for old in range(class_version, shape.event.class_version):
            fields = self._upcasters[name, old](fields)
        return msgspec.convert(fields, shape.event)

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        recorded: Recorded = domain_event
        event = recorded.event
        stamp = Stamp(event.at, event.actor, event.correlation_id, event.causation)
        return self.encode(recorded.stream, recorded.version, _NO_STAMP.on(event), stamp, None)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return self.decode(stored_event, 0, lambda name: None)


def _context(stream: str, version: int, name: str) -> bytes:
    # Binds a ciphertext to its place: moved to another row it does not decrypt.
    return f"{stream}\0{version}\0{name}".encode()


def utcnow() -> datetime:
    return datetime.now(UTC)
