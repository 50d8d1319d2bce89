"""Encodes events for storage, and decodes them: seals and opens fields, and upcasts old versions.

A stored state is one msgpack array, the envelope: flags, class version, time in microseconds, actor, correlation id,
causation, name of the data key, clear fields, sealed fields, commitment, MAC (`store.log.row_macs`). Clear and sealed
fields are compressed where that saves space.

The sealed fields are encrypted with the data key, together with a random salt. A ciphertext that is copied into another
row does not decrypt there. Once the data key is destroyed, sealed fields read as their defaults, and clear fields read
as before. The commitment stays: it is the SHA-256 of the salt and the canonical sealed fields, with hashes in place of
credentials (`store.log.credentials`). Without the salt the commitment reveals nothing; with the salt it proves what was
sealed.

An event of an older class version passes through the upcasters of its name. Each upcaster turns the fields of one
version into the fields of the next.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import msgspec
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

from domain.core.columns import Column
from domain.core.events import UNSTAMPED, Damaged, Event, EventMetadata, Recorded
from store.crypto.secrets import SecretMismatch, decrypt, encrypt
from store.log.credentials import withhold

COMPRESSED = 1
SEALED_COMPRESSED = 2
"""Flags of a stored state: 1 if the clear fields are compressed, 2 if the sealed fields are. `store.log.credentials`
defines the flags 4 and 8.
"""
MIN_COMPRESSED_BYTES = 512
"""Number of bytes above which fields are compressed. For shorter fields zstd saves too little to be worth the call."""
SALT_BYTES = 16
EXACT_US = 4_000_000_000_000_000
"""Microseconds from 1970 to the year 2096. Up to this time, a `float` of seconds is exact to the microsecond."""

E = TypeVar("E", bound=Event)
Upcasters = Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]
KeyOf = Callable[[str], AESGCM | None]


class UnknownEvent(Exception):
    """The log contains an event type, or a newer version of an event type, that this release does not know."""


class UnreadableEvent(Exception):
    """The stored bytes are not an event. They were damaged or changed."""


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
    commitment: bytes
    """Commitment to the sealed fields; empty when nothing is sealed."""
    mac: bytes = b""
    """Empty if a release without MACs wrote the row."""

    @property
    def at(self) -> datetime:
        if 0 <= self.at_us < EXACT_US:
            return datetime.fromtimestamp(self.at_us / 1e6, UTC)  # takes half the time
        return UNSTAMPED + timedelta(microseconds=self.at_us)

    def stamped(self, event: E) -> E:
        """Returns a copy of the event with time, actor, correlation id and causation of this envelope."""
        return msgspec.structs.replace(
            event, at=self.at, actor=self.actor, correlation_id=self.correlation_id, causation=self.causation
        )


class Opened(msgspec.Struct, frozen=True, gc=False):
    """A stored event after decompression and decryption, but before decoding and upcasting."""

    envelope: Envelope
    clear: bytes
    """The clear fields as msgpack."""
    sealed: bytes | None
    """The sealed fields as msgpack; None when there are none or their data key was destroyed."""
    salt: bytes
    """The salt of the commitment; empty if `sealed` is None."""

    @property
    def erased(self) -> bool:
        return self.sealed is None and bool(self.envelope.sealed)


class StoredRow(msgspec.Struct, frozen=True, gc=False):
    """A row of the log: its position, and the fields of the library's `StoredEvent`. Making a StoredRow takes a fifth
    of the time.
    """

    position: int
    originator_id: str
    originator_version: int
    topic: str
    state: bytes


def _as_stored(value: Any) -> bytes:
    assert isinstance(value, Column), f"{type(value).__name__} is not a type of fields"
    return value.stored


def _from_stored(hint: type[Any], value: Any) -> Any:
    assert issubclass(hint, Column), f"{hint.__name__} is not a type of fields"
    if not isinstance(value, bytes):
        raise TypeError("a column is stored as bytes")
    return hint.of(value)


_envelopes = msgspec.msgpack.Decoder(Envelope)
_encoder = msgspec.msgpack.Encoder(enc_hook=_as_stored)


class _OfThread(threading.local):
    """Compressor of the current thread. Each thread has a separate compressor, since two threads must not use the same
    compressor at the same time.
    """

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=3)


_of_thread = _OfThread()
_decompressor = zstandard.ZstdDecompressor()
_NO_STAMP = EventMetadata(UNSTAMPED, "")


def canonical(packed: bytes) -> bytes:
    """Returns the fields in `packed` (msgpack) as canonical JSON: compact, keys sorted, bytes as base64. Raises
    UnreadableEvent if `packed` is no msgpack or JSON has no form for a value.
    """
    return _json(_unpacked(packed))


def _unpacked(packed: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(packed)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableEvent(f"the fields are not msgpack: {error}") from None


def _json(fields: Any) -> bytes:
    try:
        return msgspec.json.encode(fields, order="sorted")
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableEvent(f"the fields are no JSON: {error}") from None


def disclosed(sealed: bytes) -> tuple[bytes, int]:
    """Returns (JSON, flags) for sealed fields in msgpack. The canonical JSON has hashes in place of credentials. The
    flags (`store.log.credentials`) say which kinds of credentials were hashed.
    """
    shown, flags = withhold(_unpacked(sealed))
    return _json(shown), flags


def commitment(salt: bytes, sealed: bytes) -> bytes:
    """Returns the commitment to `sealed` (msgpack). Whoever knows the sealed fields and the salt can check the
    commitment.
    """
    return hashlib.sha256(salt + disclosed(sealed)[0]).digest()


class Shape:
    """The stored form of one event class: splits its fields into clear and sealed ones, and joins them again."""

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        self.decode = msgspec.msgpack.Decoder(event, dec_hook=_from_stored).decode
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

    def seals(self, event: Event) -> bool:
        return any(getattr(event, name) != blank for name, blank in self.blank.items())

    def split(self, event: Event) -> tuple[bytes, bytes]:
        """Returns the clear and the sealed fields, both encoded. A sealed field with its default value is in neither
        part.
        """
        sealed = {name: value for name, blank in self.blank.items() if (value := getattr(event, name)) != blank}
        if not sealed:
            return _encoder.encode(event), b""
        return _encoder.encode(msgspec.structs.replace(event, **self.blank)), _encoder.encode(sealed)

    def join(self, clear: bytes, sealed: bytes | None) -> Event:
        event = self.decode(clear)
        if not sealed:
            return event
        return msgspec.structs.replace(event, **msgspec.structs.asdict(self.decode_sealed(sealed)))


@cache
def shape_of(event: type[Event]) -> Shape:
    """Returns the shape of an event class. The first call for a class makes the shape: a process needs few shapes, and
    making the shapes of all classes takes 30 ms.
    """
    return Shape(event)


class EventMapper(Mapper[str]):
    """Encodes and decodes events. Implements `Mapper` of the library `eventsourcing`. What the library calls domain
    events are `Recorded` here.
    """

    def __init__(self, catalogue: Mapping[str, type[Event]], upcasters: Upcasters) -> None:
        super().__init__(JSONTranscoder())
        self._upcasters = upcasters
        self._catalogue = catalogue
        self.opened_bytes = 0
        """Number of bytes, after decompression, of the fields of all events that were opened so far."""

    def encode(self, stream: str, version: int, event: Event, stamp: EventMetadata, key: AESGCM | None) -> StoredEvent:
        """Encodes an event, with `stamp` as its metadata. `key` is the event's data key; None if the event needs
        none.
        """
        clear, sealed = shape_of(self._catalogue[event.name]).split(event)
        flags, committed = 0, b""
        if len(clear) > MIN_COMPRESSED_BYTES:
            flags |= COMPRESSED
            clear = _of_thread.compressor.compress(clear)
        if sealed:
            assert key is not None, f"{event.name} has sealed fields and needs its data key"
            salt = os.urandom(SALT_BYTES)
            text, hashed = disclosed(sealed)
            committed = hashlib.sha256(salt + text).digest()
            flags |= hashed
            if len(sealed) > MIN_COMPRESSED_BYTES:
                flags |= SEALED_COMPRESSED
                sealed = _of_thread.compressor.compress(sealed)
            sealed = encrypt(key, salt + sealed, _context(stream, version, event.name))
        at_us = (stamp.at - UNSTAMPED) // timedelta(microseconds=1)
        metadata = (at_us, stamp.actor, stamp.correlation_id, stamp.causation)
        key_name = event.data_key if sealed else None
        envelope = Envelope(flags, event.class_version, *metadata, key_name, clear, sealed, committed)
        return StoredEvent(
            originator_id=stream, originator_version=version, topic=event.name, state=_encoder.encode(envelope)
        )

    def seals(self, event: Event) -> bool:
        """Returns True if a sealed field of the event differs from its default, so that encoding needs the data key."""
        return shape_of(self._catalogue[event.name]).seals(event)

    def envelope(self, state: bytes) -> Envelope:
        try:
            return _envelopes.decode(state)
        except (msgspec.MsgspecError, ValueError) as error:
            raise UnreadableEvent(f"the stored state is not an event's: {error}") from None

    def find_envelope(self, state: bytes) -> Envelope | None:
        """Returns the envelope of a stored state; None if it cannot be read."""
        try:
            return _envelopes.decode(state)
        except (msgspec.MsgspecError, ValueError):
            return None

    def opened(self, stored: StoredEvent | StoredRow, key_of: KeyOf, envelope: Envelope | None = None) -> Opened:
        """Decompresses and decrypts a stored event. `key_of(name)` returns a data key, or None if the key was
        destroyed. `envelope` is the decoded envelope of the event; None if the caller has not decoded it.

        Raises UnreadableEvent if the stored bytes are no event. Raises SecretMismatch if the sealed fields do not
        decrypt.
        """
        envelope = envelope or self.envelope(stored.state)
        return Opened(envelope, *self._open(stored, key_of, envelope))

    def _open(
        self, stored: StoredEvent | StoredRow, key_of: KeyOf, envelope: Envelope
    ) -> tuple[bytes, bytes | None, bytes]:
        """Returns the clear fields, the sealed fields and the salt. Sealed fields are None if there are none or their
        data key was destroyed; the salt is empty then.
        """
        clear = _decompressed(envelope.clear) if envelope.flags & COMPRESSED else envelope.clear
        self.opened_bytes += len(clear)
        if not envelope.sealed or (key := key_of(envelope.key_name or "")) is None:
            return clear, None, b""
        context = _context(str(stored.originator_id), stored.originator_version, stored.topic)
        plain = decrypt(key, envelope.sealed, context)
        sealed = plain[SALT_BYTES:]
        if envelope.flags & SEALED_COMPRESSED:
            sealed = _decompressed(sealed)
        self.opened_bytes += len(sealed)
        return clear, sealed, plain[:SALT_BYTES]

    def decode(
        self, stored: StoredEvent | StoredRow, position: int, key_of: KeyOf, envelope: Envelope | None = None
    ) -> Recorded:
        """Decodes a stored event. Raises UnreadableEvent for damaged bytes, SecretMismatch if the sealed fields do not
        decrypt, and UnknownEvent for an event that only a newer release knows.
        """
        envelope = envelope or self.envelope(stored.state)
        clear, sealed, _ = self._open(stored, key_of, envelope)
        try:
            event = envelope.stamped(self._event(stored.topic, envelope.class_version, clear, sealed))
        except UnknownEvent:
            raise
        except Exception as error:  # an upcaster may fail in any way on damaged fields, and its message may quote them
            detail = str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__
            raise UnreadableEvent(f"the fields are not those of {stored.topic}: {detail}") from None
        is_erased = sealed is None and bool(envelope.sealed)
        return Recorded(str(stored.originator_id), stored.originator_version, position, event, is_erased)

    def read(
        self, stored: StoredEvent | StoredRow, position: int, key_of: KeyOf, envelope: Envelope | None = None
    ) -> Recorded:
        """Decodes a stored event. If the event cannot be read, returns a `Damaged` event in its place. Raises
        UnknownEvent for an event that only a newer release knows.
        """
        try:
            return self.decode(stored, position, key_of, envelope)
        except (UnreadableEvent, SecretMismatch) as error:
            if stored.topic not in self._catalogue:
                raise UnknownEvent(f"event {stored.topic!r} is not known to this version of the server") from None
            event = Damaged(type=stored.topic, reason=str(error))
            with contextlib.suppress(UnreadableEvent, OverflowError):
                event = self.envelope(stored.state).stamped(event)
            return Recorded(str(stored.originator_id), stored.originator_version, position, event)

    def key_name(self, state: bytes) -> str | None:
        """Returns the name of the event's data key. Returns None if the event has no sealed fields or is unreadable."""
        envelope = self.find_envelope(state)
        return None if envelope is None else envelope.key_name

    def has_mac(self, state: bytes) -> bool:
        """Returns whether a stored state has a MAC, right or wrong. Returns True for a state that cannot be read."""
        envelope = self.find_envelope(state)
        return envelope is None or bool(envelope.mac)

    def _event(self, name: str, class_version: int, clear: bytes, sealed: bytes | None) -> Event:
        known = self._catalogue.get(name)
        if known is None or class_version > known.class_version:
            raise UnknownEvent(f"event {name!r} version {class_version} is not known to this version of the server")
        if class_version == known.class_version:
            return shape_of(known).join(clear, sealed)
        fields = msgspec.msgpack.decode(clear) | (msgspec.msgpack.decode(sealed) if sealed else {})
        for old in range(class_version, known.class_version):
            fields = self._upcasters[name, old](fields)
        return msgspec.convert(fields, known, dec_hook=_from_stored)

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        recorded: Recorded = domain_event
        event = recorded.event
        stamp = EventMetadata(event.at, event.actor, event.correlation_id, event.causation)
        return self.encode(recorded.stream, recorded.version, _NO_STAMP.on(event), stamp, None)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return self.decode(stored_event, 0, lambda name: None)


def _decompressed(data: bytes) -> bytes:
    try:
        return _decompressor.decompress(data)
    except (zstandard.ZstdError, MemoryError) as error:  # the latter for a changed length
        raise UnreadableEvent(f"the fields do not decompress: {error}") from None


def _context(stream: str, version: int, name: str) -> bytes:
    # Binds a ciphertext to its row: a ciphertext that was moved to another row does not decrypt.
    return f"{stream}\0{version}\0{name}".encode()
