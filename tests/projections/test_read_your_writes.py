"""Read your writes: who waits for a position, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
import pytest

from projections.engine.model import versions_digest
from projections.engine.read_your_writes import WAIT_TIMEOUT_S, ProjectionWaiter
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import PROJECTED, Listener
from testhide.processes import Core
from tests.projections.toys import SEEN, TOYS

BOTH = (TOYS, SEEN)
FAR = 10**15


@dataclass
class Models:
    """The read models' positions, as a projector writes them."""

    database: str
    listener: Listener
    waiter: ProjectionWaiter

    def move(self, position: int, *, notify: bool = True, names: tuple[str, ...] = ("toys", "seen")) -> None:
        with psycopg.connect(self.database) as connection:
            for name in names:
                connection.execute(
                    "INSERT INTO projection_positions (name, version, position) VALUES (%s, 1, %s)"
                    " ON CONFLICT (name, version)"
                    " DO UPDATE SET position = EXCLUDED.position",
                    (name, position),
                )
            if notify:
                connection.execute("SELECT pg_notify(%s, %s)", (PROJECTED, f"{position} {versions_digest(BOTH)}"))

    async def move_and_be_heard(self, position: int) -> None:
        heard = asyncio.Event()
        with self.listener.subscribed(PROJECTED, lambda payload: heard.set()):
            self.move(position)
            await asyncio.wait_for(heard.wait(), 10)

    def disconnect_everybody(self) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    async def wait(self, position: int) -> tuple[bool, float]:
        """The answer, and after how many seconds it came."""
        clock = asyncio.get_running_loop().time
        began = clock()
        return await self.waiter.wait(position), clock() - began


@pytest.fixture
async def models(parts: Core) -> AsyncIterator[Models]:
    listener = Listener(parts.conninfo, PROJECTED)
    waiter = ProjectionWaiter(parts.pool, listener, BOTH)
    await listener.start()
    running = asyncio.create_task(waiter.run())
    yield Models(parts.conninfo, listener, waiter)
    await cancel_and_wait(running)
    await listener.close()


async def test_who_waits_is_woken(models: Models) -> None:
    models.move(3)
    assert await models.waiter.wait(3)
    waits = [asyncio.create_task(models.waiter.wait(position)) for position in (5, 4, 6)]
    await asyncio.sleep(0)
    models.move(5)
    assert await asyncio.gather(*waits[:2]) == [True, True]
    assert not waits[2].done()
    models.move(6)
    assert await waits[2]


async def test_it_does_not_wait_for_what_is_there(models: Models) -> None:
    models.move(3)
    assert await models.waiter.wait(3)
    answered, after = await models.wait(2)
    assert answered
    assert after < 0.1


async def test_a_wait_ends(models: Models) -> None:
    answered, after = await models.wait(1)
    assert not answered
    assert WAIT_TIMEOUT_S <= after < WAIT_TIMEOUT_S + 1


async def test_while_the_read_models_lag_nobody_waits(models: Models) -> None:
    models.move(1)
    assert not await models.waiter.wait(5)
    for position in (5, 6):
        answered, after = await models.wait(position)
        assert not answered
        assert after < 0.1
    # Some progress is not enough: they still lag by more than the limit.
    await models.move_and_be_heard(4)
    answered, after = await models.wait(7)
    assert not answered
    assert after < 0.1
    await models.move_and_be_heard(5)
    later = asyncio.create_task(models.waiter.wait(6))
    await asyncio.sleep(0)
    models.move(6)
    assert await later, "they have caught up: waiting pays again"


async def test_a_position_that_does_not_exist_keeps_nobody_else_from_waiting(models: Models) -> None:
    """Anyone may ask for `Testhide-Min-Position: 1000000000000000`."""
    models.move(1)
    assert await models.waiter.wait(1)
    assert not await models.waiter.wait(FAR)
    write = asyncio.create_task(models.waiter.wait(2))
    await asyncio.sleep(0)
    models.move(2)
    assert await write


async def test_a_position_that_does_not_exist_yet_keeps_nobody_else_from_waiting(models: Models) -> None:
    """Anyone may ask for the next position, again and again. It may exist when the wait ends."""
    models.move(1)
    assert await models.waiter.wait(1)
    assert not await models.waiter.wait(2, is_in_log=False)
    write = asyncio.create_task(models.waiter.wait(2))
    await asyncio.sleep(0)
    models.move(2)
    assert await write


async def test_waits_in_vain_are_not_kept(models: Models) -> None:
    waits = [models.waiter.wait(FAR - number) for number in range(100)]
    assert not any(await asyncio.gather(*waits))
    given_up = asyncio.create_task(models.waiter.wait(1))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert models.waiter.waiter_count == 0


async def test_a_position_counts_when_all_read_models_have_reached_it(models: Models) -> None:
    models.move(9, notify=False, names=("toys",))
    assert await models.waiter.read_position() == 0
    models.move(4, notify=False, names=("seen",))
    assert await models.waiter.read_position() == 4


async def test_a_lost_notification_is_found_again(models: Models) -> None:
    wait = asyncio.create_task(models.waiter.wait(1))
    await asyncio.sleep(0)
    models.move(1, notify=False)
    assert await wait


async def test_what_read_models_of_another_release_have_reached_says_nothing(models: Models) -> None:
    models.move(1)
    assert await models.waiter.wait(1)
    wait = asyncio.create_task(models.waiter.wait(2))
    await asyncio.sleep(0)
    heard = asyncio.Event()
    with models.listener.subscribed(PROJECTED, lambda payload: heard.set()):
        with psycopg.connect(models.database) as connection:
            connection.execute("SELECT pg_notify(%s, %s)", (PROJECTED, f"2 {versions_digest([TOYS])}"))
        await asyncio.wait_for(heard.wait(), 10)
    assert not wait.done()
    models.move(2)
    assert await wait


async def test_a_parked_event_is_not_shown(models: Models) -> None:
    with psycopg.connect(models.database) as connection:
        connection.execute(
            "INSERT INTO parked_events (projection, version, position, stream, error)"
            " VALUES ('toys', 1, 3, 'toy-1', '')"
        )
        connection.execute("SELECT pg_notify(%s, '')", (PROJECTED,))
    models.move(5)
    assert await models.waiter.wait_reached(5)
    assert models.waiter.is_degraded
    assert not await models.waiter.wait(3)
    assert not await models.waiter.wait(5, first=2)
    assert await models.waiter.wait(5, first=4)
    assert await models.waiter.wait(5)


async def test_it_goes_on_after_the_database_was_away(models: Models) -> None:
    models.move(1)
    assert await models.waiter.wait(1)
    for position in (2, 3):
        models.disconnect_everybody()
        wait = asyncio.create_task(models.waiter.wait(position))
        await asyncio.sleep(0)
        models.move(position)
        assert await wait


async def test_changes_that_a_crash_of_the_database_lost_are_waited_for_again(models: Models) -> None:
    models.move(5)
    assert await models.waiter.wait(5)
    models.move(3, notify=False)
    models.disconnect_everybody()
    async with asyncio.timeout(10):
        while models.waiter.position >= 5:  # until the loss of the connection was noticed
            await asyncio.sleep(0.001)
    again = asyncio.create_task(models.waiter.wait(5))
    await asyncio.sleep(0)
    assert await models.waiter.wait(3)
    assert not again.done()
    models.move(5)
    assert await again


async def test_a_position_that_goes_back_is_waited_for_again(models: Models) -> None:
    """A read model that is repaired may be behind those that were never broken."""
    models.move(5)
    assert await models.waiter.wait(5)
    models.move(3, notify=False)
    async with asyncio.timeout(10):
        while models.waiter.position > 3:
            await asyncio.sleep(0.05)
    again = asyncio.create_task(models.waiter.wait(5))
    await asyncio.sleep(0)
    assert not again.done()
    models.move(5)
    assert await again
