"""What many ask at once, asked of the database once.

A question that comes while queries of its kind are under way waits for the next, which answers all that came. An answer
is always what the database said after the question.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

A = TypeVar("A")
V = TypeVar("V")

AT_ONCE = 2
"""Queries of one kind under way together: a slow one does not hold up all others."""
MAX_ASKED = 200


class BatchLoader(Generic[A, V]):
    """`await grouped(argument)`. `ask` answers each argument, in their order; an error reaches only whom it is for."""

    def __init__(
        self, pool: AsyncConnectionPool, ask: Callable[[AsyncConnection, Sequence[A]], Awaitable[Sequence[V]]]
    ) -> None:
        self._pool = pool
        self._ask = ask
        self._waiting: deque[tuple[A, asyncio.Future[V]]] = deque()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()  # or they could be collected while they run

    async def __call__(self, argument: A) -> V:
        answer: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, answer))
        if self._under_way < AT_ONCE:
            self._under_way += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._answer_some([self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_ASKED))])
        finally:
            self._under_way -= 1

    async def _answer_some(self, group: Sequence[tuple[A, "asyncio.Future[V]"]]) -> None:
        try:
            await self._answer(group)
        except Exception:
            for one in group:
                await self._answer_alone(one)
        finally:
            for _, answer in group:
                answer.cancel()  # without effect on those that were answered

    async def _answer(self, group: Sequence[tuple[A, asyncio.Future[V]]]) -> None:
        async with self._pool.connection() as connection:
            found = await self._ask(connection, [argument for argument, _ in group])
        for (_, answer), value in zip(group, found, strict=True):
            if not answer.done():
                answer.set_result(value)

    async def _answer_alone(self, one: tuple[A, "asyncio.Future[V]"]) -> None:
        try:
            await self._answer([one])
        except Exception as error:
            if not one[1].done():
                one[1].set_exception(error)
