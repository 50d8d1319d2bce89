"""Questions that come together are answered together, each as if it had been asked alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.postgres.batch_loader import MAX_CONCURRENT_QUERIES, BatchLoader

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool(database: str) -> AsyncIterator[AsyncConnectionPool]:
    opened: AsyncConnectionPool = AsyncConnectionPool(database, min_size=1, kwargs={"autocommit": True}, open=False)
    async with opened:
        yield opened


class Asked:
    """Answers tenfold, notes which questions came together."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    async def __call__(self, connection: AsyncConnection, asked: Sequence[int]) -> list[int]:
        self.groups.append(list(asked))
        await connection.execute("SELECT 1")
        if 13 in asked:
            raise ValueError("13")
        return [10 * number for number in asked]


async def test_each_question_gets_its_own_answer_and_few_queries_are_made(pool: AsyncConnectionPool) -> None:
    asked = Asked()
    grouped = BatchLoader(pool, asked)
    assert await asyncio.gather(*(grouped(number) for number in range(100, 200))) == list(range(1000, 2000, 10))
    assert len(asked.groups) <= MAX_CONCURRENT_QUERIES + 1
    assert sorted(number for group in asked.groups for number in group) == list(range(100, 200))


async def test_an_error_is_only_of_the_question_that_it_is_for(pool: AsyncConnectionPool) -> None:
    grouped = BatchLoader(pool, Asked())
    answers = await asyncio.gather(*(grouped(number) for number in (12, 13, 14)), return_exceptions=True)
    assert [answers[0], str(answers[1]), answers[2]] == [120, "13", 140]


async def test_one_who_gave_up_does_not_disturb_the_others(pool: AsyncConnectionPool) -> None:
    grouped = BatchLoader(pool, Asked())
    gave_up, stayed = asyncio.ensure_future(grouped(1)), asyncio.ensure_future(grouped(2))
    await asyncio.sleep(0)
    gave_up.cancel()
    assert await stayed == 20
    assert gave_up.cancelled()


async def test_it_answers_again_right_after_its_last_answer(pool: AsyncConnectionPool) -> None:
    grouped = BatchLoader(pool, Asked())

    async def one_after_the_other(start: int) -> None:
        for number in range(start, start + 50):
            assert await asyncio.wait_for(grouped(number), 5) == 10 * number

    await asyncio.gather(*(one_after_the_other(start) for start in (100, 200, 300)))
