"""How events are stored and read back, without a database."""

from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.base import Erasure, Event, Recorded, Stamp
from domain.catalogue import EVENTS, UPCASTERS
from store.codec import EventMapper, UnknownEvent
from store.secrets import SecretMismatch
from tests.store.events import events

KEY = b"k" * 32
STAMP = Stamp(datetime(2026, 5, 20, 10, 0, 5, 123456, UTC), "user:7", "request-1", 41)
MAPPER = EventMapper(EVENTS, UPCASTERS)

stamps = st.builds(
    Stamp,
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    st.text(),
    st.text(),
    st.none() | st.integers(0, 2**53),
)


class Thing(Event, frozen=True):
    name: ClassVar[str] = "thing.happened"
    text: str = ""
    secret: bool = False

    @property
    def stream(self) -> str:
        return "thing-1"

    @property
    def data_key(self) -> str | None:
        return "thing-1" if self.secret else None


class Newest(Thing, frozen=True):
    """What `thing.happened` became: `text` was called `words` in version 1, and `loud` came with version 3."""

    class_version: ClassVar[int] = 3
    loud: bool = True
    at_least: tuple[int, ...] = ()


THINGS = EventMapper({"thing.happened": Thing}, {})


def decoded(mapper: EventMapper, stored: StoredEvent, key: bytes | None = None) -> Event:
    return mapper.decode(stored, 1, lambda name: key).event


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_comes_back_as_it_was(name: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(events(EVENTS[name]), stamps, st.integers(1, 2**31), st.booleans())
    def holds(event: Event, stamp: Stamp, version: int, encrypted: bool) -> None:
        key = KEY if encrypted and event.data_key else None
        stored = MAPPER.encode(event.stream, version, event, stamp, key)
        assert (stored.originator_id, stored.originator_version, stored.topic) == (event.stream, version, name)
        assert MAPPER.decode(stored, 9, {event.data_key: key}.get) == Recorded(
            event.stream, version, 9, stamp.on(event)
        )

    holds()


def test_the_librarys_mapper_interface_round_trips() -> None:
    recorded = Recorded("thing-1", 3, 0, STAMP.on(Thing(text="said")))
    assert THINGS.to_domain_event(THINGS.to_stored_event(recorded)) == recorded


def test_text_is_compressed_when_that_pays() -> None:
    long, short = (THINGS.encode("thing-1", 1, Thing(text=text), STAMP, None) for text in ("said " * 1000, "said"))
    assert len(long.state) < 300
    assert decoded(THINGS, long) == STAMP.on(Thing(text="said " * 1000))
    assert b"said" in short.state


def test_an_encrypted_event_does_not_show_its_text_but_its_stamp() -> None:
    stored = THINGS.encode("thing-1", 1, Thing(text="said", secret=True), STAMP, KEY)
    assert b"said" not in stored.state
    assert b"user:7" in stored.state


@pytest.mark.parametrize(
    "moved", [{"originator_id": "thing-2"}, {"originator_version": 2}, {"topic": "other.happened"}, {"key": b"K" * 32}]
)
def test_an_encrypted_state_only_decrypts_at_its_place(moved: dict[str, Any]) -> None:
    key = moved.pop("key", KEY)
    stored = THINGS.encode("thing-1", 1, Thing(secret=True), STAMP, KEY)
    place = {"originator_id": "thing-1", "originator_version": 1, "topic": "thing.happened", "state": stored.state}
    mapper = EventMapper({"thing.happened": Thing, "other.happened": Thing}, {})
    with pytest.raises(SecretMismatch):
        decoded(mapper, StoredEvent(**place | moved), key)


def test_without_its_key_an_event_is_an_erasure_that_keeps_the_stamp() -> None:
    stored = THINGS.encode("thing-1", 1, Thing(text="said", secret=True), STAMP, KEY)
    assert decoded(THINGS, stored, key=None) == STAMP.on(Erasure(erased_name="thing.happened"))


def test_an_old_event_goes_through_every_upcaster() -> None:
    def renamed(fields: dict[str, Any]) -> dict[str, Any]:
        return {"text": fields.pop("words"), **fields}

    def quiet(fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"loud": False, "at_least": [1, 2]}

    class Oldest(Event, frozen=True):
        name: ClassVar[str] = "thing.happened"
        words: str

    class Middle(Thing, frozen=True):
        class_version: ClassVar[int] = 2

    newest = EventMapper({"thing.happened": Newest}, {("thing.happened", 1): renamed, ("thing.happened", 2): quiet})
    written: dict[type[Event], Event] = {
        Oldest: Oldest(words="said"),
        Middle: Middle(text="said"),
        Newest: Newest(text="said", loud=False, at_least=(1, 2)),
    }
    for cls, event in written.items():
        stored = EventMapper({"thing.happened": cls}, {}).encode("thing-1", 1, event, STAMP, KEY)
        assert decoded(newest, stored, KEY) == STAMP.on(Newest(text="said", loud=False, at_least=(1, 2)))


def test_an_event_of_another_server_version_is_named_and_not_guessed_at() -> None:
    newer = EventMapper({"thing.happened": Newest}, {}).encode("thing-1", 1, Newest(), STAMP, None)
    with pytest.raises(UnknownEvent, match=r"'thing\.happened' version 3"):
        decoded(THINGS, newer)
    with pytest.raises(UnknownEvent, match=r"'other\.happened'"):
        decoded(THINGS, StoredEvent("thing-1", 1, "other.happened", newer.state))


def test_every_older_version_has_its_upcaster() -> None:
    needed = {(name, old) for name, cls in EVENTS.items() for old in range(1, cls.class_version)}
    assert set(UPCASTERS) == needed


def test_a_field_that_an_older_server_did_not_write_takes_its_default() -> None:
    body = msgspec.msgpack.encode({})
    stored = THINGS.encode("thing-1", 1, Thing(), STAMP, None)
    envelope = msgspec.structs.replace(THINGS.envelope(stored.state), body=body)
    assert decoded(THINGS, StoredEvent("thing-1", 1, "thing.happened", msgspec.msgpack.encode(envelope))) == STAMP.on(
        Thing()
    )
