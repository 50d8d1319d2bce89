"""One LISTEN connection for everything that waits."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from store.postgres.cancellation import wait_for
from store.postgres.notifications import EVENTS, POLLS, Listener


@pytest.fixture
async def listener(database: str) -> AsyncIterator[Listener]:
    listener = Listener(database, EVENTS, POLLS)
    await listener.start()
    yield listener
    await listener.close()


class Heard:
    """What a subscriber was called with, in order."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[str | None] = asyncio.Queue()

    def __call__(self, payload: str | None) -> None:
        self._calls.put_nowait(payload)

    async def next(self) -> str | None:
        return await asyncio.wait_for(self._calls.get(), 10)

    @property
    def is_empty(self) -> bool:
        return self._calls.empty()


def notify(database: str, channel: str, payload: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_notify(%s, %s)", (channel, payload))


def disconnect_all(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_each_subscriber_hears_its_channel(database: str, listener: Listener) -> None:
    events, also_events, polls = Heard(), Heard(), Heard()
    with (
        listener.subscribed(EVENTS, events),
        listener.subscribed(EVENTS, also_events),
        listener.subscribed(POLLS, polls),
    ):
        notify(database, EVENTS, "41")
        notify(database, POLLS, "3:1")
        assert [await events.next(), await also_events.next(), await polls.next()] == ["41", "41", "3:1"]
    assert events.is_empty
    assert polls.is_empty


async def test_who_has_left_is_not_called(database: str, listener: Listener) -> None:
    gone, stays = Heard(), Heard()
    with listener.subscribed(EVENTS, stays):
        with listener.subscribed(EVENTS, gone):
            notify(database, EVENTS, "1")
            assert await gone.next() == "1"
        notify(database, EVENTS, "2")
        assert [await stays.next(), await stays.next()] == ["1", "2"]
    assert gone.is_empty


async def test_after_a_lost_connection_everybody_is_told_to_look_again(database: str, listener: Listener) -> None:
    events, polls = Heard(), Heard()
    with listener.subscribed(EVENTS, events), listener.subscribed(POLLS, polls):
        disconnect_all(database)
        for heard in (events, polls):
            assert await heard.next() is None, "when the connection breaks"
            assert await heard.next() is None, "when there is a new one"
        notify(database, EVENTS, "7")
        assert await events.next() == "7"


async def test_a_channel_must_be_listened_on(listener: Listener) -> None:
    with pytest.raises(AssertionError, match="projected"), listener.subscribed("projected", Heard()):
        pass


@pytest.mark.parametrize("turns", range(4))
async def test_who_waits_for_news_can_be_cancelled_when_they_come(turns: int) -> None:
    """This many turns of the event loop later."""
    changed = asyncio.Event()

    async def follow() -> None:
        while True:
            changed.clear()
            await wait_for(changed, 60)

    following = asyncio.create_task(follow())
    for _ in range(3):
        await asyncio.sleep(0)
    changed.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    following.cancel()
    ended, _ = await asyncio.wait({following}, timeout=1)
    assert following in ended
    assert following.cancelled()


async def test_news_that_do_not_come_are_waited_for_in_vain() -> None:
    assert not await wait_for(asyncio.Event(), 0.01)
