"""How events are stored and read back, without a database."""

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import StoredEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.core.columns import Column, Int16s, Int32s
from domain.core.events import UNSTAMPED, Event, EventMetadata, Recorded
from domain.registry import EVENTS, UPCASTERS
from store.crypto.secrets import SecretMismatch
from store.log.codec import EXACT_US, Envelope, EventMapper, Shape, UnknownEvent, UnreadableEvent, canonical
from tests.store.events import events

KEY = AESGCM(b"k" * 32)
STAMP = EventMetadata(datetime(2026, 5, 20, 10, 0, 5, 123456, UTC), "user:7", "request-1", 41)
MAPPER = EventMapper(EVENTS, UPCASTERS)

stamps = st.builds(
    EventMetadata,
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    st.text(),
    st.text(),
    st.none() | st.integers(0, 2**53),
)


class Thing(Event, frozen=True):
    name: ClassVar[str] = "thing.happened"
    count: int = 0
    text: str = ""

    @property
    def stream(self) -> str:
        return "thing-1"


class Secret(Thing, frozen=True):
    sealed: ClassVar[tuple[str, ...]] = ("text", "words")
    words: list[str] = []

    @property
    def data_key(self) -> str | None:
        return "thing-1"


class Newest(Secret, frozen=True):
    """What `thing.happened` became: `text` was called `saying` in version 1, and `loud` came with version 3."""

    class_version: ClassVar[int] = 3
    loud: bool = True
    at_least: tuple[int, ...] = ()


THINGS = EventMapper({"thing.happened": Thing}, {})
SECRETS = EventMapper({"thing.happened": Secret}, {})
SAID = Secret(count=3, text="said", words=["softly"])


def decoded(mapper: EventMapper, stored: StoredEvent, key: AESGCM | None = None) -> Event:
    return mapper.decode(stored, 1, lambda name: key).event


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_comes_back_as_it_was(name: str) -> None:
    @settings(max_examples=8, deadline=None)
    @given(events(EVENTS[name]), stamps, st.integers(1, 2**31))
    def holds(event: Event, stamp: EventMetadata, version: int) -> None:
        stored = MAPPER.encode(event.stream, version, event, stamp, KEY)
        assert (stored.originator_id, stored.originator_version, stored.topic) == (event.stream, version, name)
        assert MAPPER.decode(stored, 9, {event.data_key: KEY}.get) == Recorded(
            event.stream, version, 9, stamp.on(event)
        )

    holds()


def test_the_librarys_mapper_interface_round_trips() -> None:
    recorded = Recorded("thing-1", 3, 0, STAMP.on(Thing(text="said")))
    assert THINGS.to_domain_event(THINGS.to_stored_event(recorded)) == recorded


@pytest.mark.parametrize("name", EVENTS)
def test_an_erased_event_shows_all_but_its_sealed_fields(name: str) -> None:
    """It stays an event that states can be folded from, and nothing of the sealed fields is left in it."""

    @settings(max_examples=5, deadline=None)
    @given(events(EVENTS[name]))
    def holds(event: Event) -> None:
        stored = MAPPER.encode(event.stream, 1, event, STAMP, KEY if event.data_key else None)
        recorded = MAPPER.decode(stored, 1, lambda key: None)
        defaults = {field.name: field for field in msgspec.structs.fields(event)}
        blank = {
            field: defaults[field].default_factory()
            if defaults[field].default_factory is not msgspec.NODEFAULT
            else defaults[field].default
            for field in event.sealed
        }
        assert recorded.event == STAMP.on(msgspec.structs.replace(event, **blank))
        assert recorded.erased == any(getattr(event, field) != value for field, value in blank.items())

    holds()


@pytest.mark.parametrize("mapper", [THINGS, SECRETS])
def test_text_is_compressed_when_that_pays(mapper: EventMapper) -> None:
    kind = Thing if mapper is THINGS else Secret
    stored = mapper.encode("thing-1", 1, kind(text="said " * 1000), STAMP, KEY)
    assert len(stored.state) < 300
    assert decoded(mapper, stored, KEY) == STAMP.on(kind(text="said " * 1000))


@given(st.integers(0, EXACT_US) | st.integers(-(10**15), 10**17))
def test_times_have_all_their_microseconds(at_us: int) -> None:
    envelope = Envelope(0, 1, at_us, "", "", None, None, b"", b"", b"")
    assert (envelope.at - UNSTAMPED) // timedelta(microseconds=1) == at_us


def test_what_is_sealed_does_not_show() -> None:
    stored = SECRETS.encode("thing-1", 1, SAID, STAMP, KEY)
    assert b"said" not in stored.state
    assert b"softly" not in stored.state
    assert b"user:7" in stored.state
    assert SECRETS.encode("thing-1", 1, SAID, STAMP, KEY).state != stored.state, "the same words twice do not show"


def test_nothing_is_sealed_without_a_key() -> None:
    with pytest.raises(AssertionError, match="needs its data key"):
        SECRETS.encode("thing-1", 1, SAID, STAMP, None)


@pytest.mark.parametrize(
    "moved",
    [{"originator_id": "thing-2"}, {"originator_version": 2}, {"topic": "other.happened"}, {"key": AESGCM(b"K" * 32)}],
)
def test_a_sealed_field_only_opens_at_its_place(moved: dict[str, Any]) -> None:
    stored = SECRETS.encode("thing-1", 1, SAID, STAMP, KEY)
    row: dict[str, Any] = {"originator_id": "thing-1", "originator_version": 1, "topic": "thing.happened"}
    row["state"] = stored.state
    mapper = EventMapper({"thing.happened": Secret, "other.happened": Secret}, {})
    key = moved.get("key", KEY)
    with pytest.raises(SecretMismatch):
        decoded(mapper, StoredEvent(**row | {name: value for name, value in moved.items() if name != "key"}), key)


def test_without_its_key_an_event_is_erased_and_keeps_the_rest() -> None:
    stored = SECRETS.encode("thing-1", 1, SAID, STAMP, KEY)
    recorded = SECRETS.decode(stored, 5, lambda name: None)
    assert recorded == Recorded("thing-1", 1, 5, STAMP.on(Secret(count=3)), erased=True)


@pytest.mark.parametrize("secret", [SAID, Secret(count=3, text="said " * 1000)])
def test_what_an_event_holds_is_opened_and_committed_to(secret: Secret) -> None:
    stored = SECRETS.encode("thing-1", 1, secret, STAMP, KEY)
    again = SECRETS.encode("thing-1", 1, secret, STAMP, KEY)
    opened = SECRETS.opened(stored, lambda name: KEY)
    assert msgspec.msgpack.decode(opened.clear) == {"count": 3}
    assert opened.sealed is not None
    assert msgspec.msgpack.decode(opened.sealed).items() <= msgspec.structs.asdict(secret).items()
    assert opened.envelope.commitment == hashlib.sha256(opened.salt + canonical(opened.sealed)).digest()
    assert opened.envelope.commitment != SECRETS.envelope(again.state).commitment, "the same words twice do not show"
    assert (len(opened.salt), opened.erased) == (16, False)
    erased = SECRETS.opened(stored, lambda name: None)
    assert erased == msgspec.structs.replace(opened, sealed=None, salt=b"")
    assert erased.erased


def test_nothing_said_is_nothing_sealed() -> None:
    stored = SECRETS.encode("thing-1", 1, Secret(count=3), STAMP, None)
    opened = SECRETS.opened(stored, lambda name: None)
    assert (opened.envelope.key_name, opened.envelope.commitment, opened.salt) == (None, b"", b"")
    assert (opened.sealed, opened.erased) == (None, False)


def test_there_is_one_way_to_write_fields_as_text() -> None:
    fields: dict[str, Any] = {"text": "é", "at": datetime(2026, 5, 20, tzinfo=UTC), "by": [1, None], "bytes": b"\xff"}
    text = '{"at":"2026-05-20T00:00:00Z","by":[1,null],"bytes":"/w==","text":"é"}'
    for order in (fields, dict(reversed(fields.items()))):
        assert canonical(msgspec.msgpack.encode(order)).decode() == text


@given(st.binary(), st.integers(0), st.integers(1, 255))
@settings(deadline=None)
def test_damaged_bytes_are_unreadable_and_nothing_worse(garbage: bytes, index: int, change: int) -> None:
    for secret in (SAID, Secret(count=3, text="said " * 1000)):
        state = bytearray(SECRETS.encode("thing-1", 1, secret, STAMP, KEY).state)
        state[index % len(state)] ^= change
        for damaged in (bytes(state), garbage):
            try:
                opened = SECRETS.opened(StoredEvent("thing-1", 1, "thing.happened", damaged), lambda name: KEY)
                canonical(opened.clear)
            except (UnreadableEvent, SecretMismatch):
                continue


class Counted(Event, frozen=True):
    name: ClassVar[str] = "thing.happened"
    numbers: Int32s
    small: Int16s

    @property
    def stream(self) -> str:
        return "thing-1"


def test_columns_of_numbers_are_stored_as_their_bytes() -> None:
    mapper = EventMapper({"thing.happened": Counted}, {})
    stored = mapper.encode("thing-1", 1, Counted(numbers=Int32s([1, -2]), small=Int16s([3])), STAMP, None)
    fields = msgspec.msgpack.decode(mapper.envelope(stored.state).clear)
    assert (fields["numbers"], fields["small"]) == (b"\1\0\0\0\xfe\xff\xff\xff", b"\3\0")
    event = mapper.decode(stored, 1, lambda name: None).event
    assert isinstance(event, Counted)
    assert ([*event.numbers], [*event.small]) == ([1, -2], [3])


@pytest.mark.parametrize("numbers", [b"\1\0\0", [1], "1", None])
def test_what_is_no_column_is_unreadable(numbers: object) -> None:
    mapper = EventMapper({"thing.happened": Counted}, {})
    stored = mapper.encode("thing-1", 1, Counted(numbers=Int32s([1]), small=Int16s([3])), STAMP, None)
    envelope = mapper.envelope(stored.state)
    fields = msgspec.msgpack.decode(envelope.clear) | {"numbers": numbers}
    changed = msgspec.structs.replace(envelope, clear=msgspec.msgpack.encode(fields))
    with pytest.raises(UnreadableEvent):
        mapper.decode(dataclasses.replace(stored, state=msgspec.msgpack.encode(changed)), 1, lambda name: None)


@pytest.mark.parametrize(("column", "number"), [(Int32s, 2**31), (Int16s, -(2**15) - 1)])
def test_a_column_holds_numbers_of_its_size(column: type[Column], number: int) -> None:
    with pytest.raises(OverflowError):
        column([number])


def test_a_sealed_field_has_a_default() -> None:
    class Careless(Thing, frozen=True, kw_only=True):
        sealed: ClassVar[tuple[str, ...]] = ("text",)
        text: str  # pyright: ignore[reportGeneralTypeIssues]

    with pytest.raises(AssertionError, match=r"Careless\.text is sealed: give it a default"):
        Shape(Careless)


class Oldest(Event, frozen=True):
    name: ClassVar[str] = "thing.happened"
    sealed: ClassVar[tuple[str, ...]] = ("saying",)
    saying: str = ""


class Middle(Secret, frozen=True):
    class_version: ClassVar[int] = 2


def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {"text" if name == "saying" else name: value for name, value in fields.items()}


def quiet(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"loud": False, "at_least": [1, 2]}


@pytest.mark.parametrize(
    "written", [Oldest(saying="said"), Middle(text="said"), Newest(text="said", loud=False, at_least=(1, 2))]
)
def test_an_old_event_goes_through_every_upcaster(written: Event) -> None:
    newest = EventMapper({"thing.happened": Newest}, {("thing.happened", 1): renamed, ("thing.happened", 2): quiet})
    stored = EventMapper({"thing.happened": type(written)}, {}).encode("thing-1", 1, written, STAMP, KEY)
    assert decoded(newest, stored, KEY) == STAMP.on(Newest(text="said", loud=False, at_least=(1, 2)))
    assert decoded(newest, stored) == STAMP.on(Newest(loud=False, at_least=(1, 2))), "erased ones too"


def test_an_event_of_another_server_version_is_named_and_not_guessed_at() -> None:
    newer = EventMapper({"thing.happened": Newest}, {}).encode("thing-1", 1, Newest(), STAMP, KEY)
    with pytest.raises(UnknownEvent, match=r"'thing\.happened' version 3"):
        decoded(THINGS, newer)
    with pytest.raises(UnknownEvent, match=r"'other\.happened'"):
        decoded(THINGS, StoredEvent("thing-1", 1, "other.happened", newer.state))


def test_every_older_version_has_its_upcaster() -> None:
    needed = {(name, old) for name, cls in EVENTS.items() for old in range(1, cls.class_version)}
    assert set(UPCASTERS) == needed
