"""A cursor hands over every event of interest once, in order, and wakes up for no other."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import psycopg
import pytest

from domain.claims import ClaimReleased, ClaimTaken
from domain.core.events import EventMetadata, Recorded
from store.log import event_log
from store.log.cursor import LogCursor
from store.log.event_log import Write
from store.log.subscription import LogSubscription
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, Listener
from store.tables import log_positions
from testhide.processes import Core

METADATA = EventMetadata(datetime(2026, 5, 20, 10, tzinfo=UTC), "tests")
FAR_AWAY_S = 60.0


@pytest.fixture
async def listener(parts: Core) -> AsyncIterator[Listener]:
    listener = Listener(parts.conninfo, EVENTS)
    await listener.start()
    yield listener
    await listener.close()


class Handled:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, events: Sequence[Recorded]) -> None:
        self.batches.append([recorded.position for recorded in events])


async def take(parts: Core, *claims: str) -> None:
    await parts.log.append([Write(1, ClaimTaken(claim=claim, owner="ann")) for claim in claims], METADATA)


async def release(parts: Core, claim: str) -> None:
    await parts.log.append([Write(2, ClaimReleased(claim=claim, owner="ann"))], METADATA)


async def test_it_reads_batch_by_batch_to_the_end(parts: Core, listener: Listener) -> None:
    cursor, handled = LogCursor(parts.log, listener, batch_size=2), Handled()
    await take(parts, "a", "b", "c", "d", "e")
    await cursor.drain(handled)
    assert handled.batches == [[1, 2], [3, 4], [5]]
    assert cursor.position == 5
    await cursor.drain(handled)
    await take(parts, "f")
    await cursor.drain(handled)
    assert handled.batches[3:] == [[6]]


async def test_it_steps_over_what_is_of_no_interest(parts: Core, listener: Listener) -> None:
    cursor, handled = LogCursor(parts.log, listener, [ClaimReleased.name]), Handled()
    await take(parts, "a", "b", "c")
    await cursor.drain(handled)
    assert (cursor.position, handled.batches) == (3, [])
    await release(parts, "b")
    await take(parts, "d")
    await cursor.drain(handled)
    assert (cursor.position, handled.batches) == (5, [[4]])


async def test_a_batch_that_could_not_be_handled_comes_again(parts: Core, listener: Listener) -> None:
    async def fail(events: Sequence[Recorded]) -> None:
        if events[0].position == 3:
            raise OSError("the disk is full")

    cursor, handled = LogCursor(parts.log, listener, batch_size=2), Handled()
    await take(parts, "a", "b", "c")
    with pytest.raises(OSError, match="full"):
        await cursor.drain(fail)
    await cursor.drain(handled)
    assert handled.batches == [[3]]


async def test_only_new_events_of_interest_end_a_wait(parts: Core, listener: Listener) -> None:
    cursor = LogCursor(parts.log, listener, [ClaimTaken.name, ClaimReleased.name], notify_on=[ClaimReleased.name])
    with cursor.listening():
        await take(parts, "a")
        assert not await cursor.wait(0.1)
        await release(parts, "a")
        assert await cursor.wait(FAR_AWAY_S)
        assert not await cursor.wait(0.01), "told once"
        cursor.notify()
        assert await cursor.wait(FAR_AWAY_S)
    await take(parts, "b")
    await release(parts, "b")
    assert not await cursor.wait(0.1), "it does not listen any more"


async def test_a_wait_may_be_for_many_events(parts: Core, listener: Listener) -> None:
    cursor = LogCursor(parts.log, listener)
    cursor.position = 1
    with cursor.listening(min_new=3):
        await take(parts, "a", "b", "c")
        assert not await cursor.wait(0.1)
        await take(parts, "d")
        assert await cursor.wait(FAR_AWAY_S)


async def test_a_lost_connection_ends_a_wait(parts: Core, listener: Listener) -> None:
    """Notifications may have been lost with it."""
    cursor = LogCursor(parts.log, listener, [])
    with cursor.listening():
        with psycopg.connect(parts.conninfo, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
                " AND datname = current_database()"
            )
        assert await cursor.wait(FAR_AWAY_S)


async def test_nothing_is_missed_while_others_append(parts: Core, listener: Listener) -> None:
    cursor, handled = LogCursor(parts.log, listener, [ClaimTaken.name], batch_size=3), Handled()
    following = asyncio.create_task(cursor.follow(lambda: cursor.drain(handled)))
    await asyncio.gather(*(take(parts, f"{number}") for number in range(40)))
    async with asyncio.timeout(10):
        while cursor.position < 40:
            await asyncio.sleep(0.01)
    await cancel_and_wait(following)
    assert [position for batch in handled.batches for position in batch] == list(range(1, 41))


async def test_a_subscription_passes_each_event_to_all_handlers(parts: Core, listener: Listener) -> None:
    await take(parts, "a")
    subscription = LogSubscription(parts.log, listener, [ClaimTaken.name])
    first, second = Handled(), Handled()
    async with subscription.subscribed(first):
        assert subscription.position == 1, "it begins at the end"
        async with subscription.subscribed(second), asyncio.timeout(10):
            await take(parts, "b")
            while not (first.batches and second.batches):
                await asyncio.sleep(0.01)
    assert first.batches == second.batches == [[2]]


async def test_a_stored_position_is_moved_by_one_at_a_time(parts: Core) -> None:
    await take(parts, "a", "b")
    async with parts.pool.connection() as connection, parts.pool.connection() as other:
        assert await log_positions.lock_position(connection, "tests") is None
        await log_positions.ensure_positions(connection, ["tests"], at_head=True)
        await log_positions.ensure_positions(connection, ["tests", "others"], at_head=False)
        assert await log_positions.lock_position(connection, "others") == 0
        async with connection.transaction():
            assert await log_positions.lock_position(connection, "tests") == 2
            waiting = asyncio.create_task(log_positions.lock_position(other, "tests"))
            await log_positions.move_position(connection, "tests", 7)
            assert not waiting.done()
        assert await waiting == 7


async def test_a_batch_ends_after_a_number_of_bytes(
    parts: Core, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are many in the database, or only after they are decompressed."""
    monkeypatch.setattr(event_log, "MAX_BATCH_BYTES", 10_000)
    large = [ClaimTaken(claim=name, owner="user-1" * 1_000) for name in "abcde"]
    await parts.log.append([Write(1, event) for event in large], METADATA)
    cursor, handled = LogCursor(parts.log, listener, [ClaimTaken.name]), Handled()
    await cursor.drain(handled)
    assert (handled.batches, cursor.position) == ([[1, 2], [3, 4], [5]], 5)
    monkeypatch.setattr(event_log, "MAX_BATCH_BYTES", 1)
    one_by_one = Handled()
    await LogCursor(parts.log, listener).drain(one_by_one)
    assert one_by_one.batches == [[1], [2], [3], [4], [5]]


async def test_a_batch_ends_where_it_is_asked_to(parts: Core) -> None:
    await take(parts, "a", "b", "c")
    batch = await parts.log.read_batch(0, 10, [ClaimTaken.name], up_to=2)
    assert ([recorded.position for recorded in batch.events], batch.position, batch.is_full) == ([1, 2], 2, False)
    batch = await parts.log.read_batch(0, 10, [ClaimReleased.name], up_to=2)
    assert (batch.events, batch.position, batch.is_full) == ([], 2, False)
