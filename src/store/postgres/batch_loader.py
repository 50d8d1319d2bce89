"""A data loader: one query answers the lookups of many callers.

While MAX_CONCURRENT_QUERIES queries run, new lookups wait. The next query answers all that wait. A query always begins
after the lookups that it answers, so no result is older than its lookup.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

K = TypeVar("K")
V = TypeVar("V")

MAX_CONCURRENT_QUERIES = 2
"""Largest number of queries that a loader runs at once. With two, one slow query does not delay all other callers."""
MAX_BATCH_SIZE = 200
"""Largest number of keys in one query."""


class BatchLoader(Generic[K, V]):
    """Loads values by key: `await loader(key)` returns the value of a key.

    `fetch` returns the values of many keys, in the order of the keys. If it raises, each key is fetched alone, so that
    an error reaches only the caller whose key causes it.
    """

    def __init__(
        self, pool: AsyncConnectionPool, fetch: Callable[[AsyncConnection, Sequence[K]], Awaitable[Sequence[V]]]
    ) -> None:
        self._pool = pool
        self._fetch = fetch
        self._waiting: deque[tuple[K, asyncio.Future[V]]] = deque()
        self._queries = 0
        self._tasks: set[asyncio.Task[None]] = set()  # keeps running tasks from being garbage-collected

    async def __call__(self, key: K) -> V:
        if self._queries == MAX_CONCURRENT_QUERIES:
            value: asyncio.Future[V] = asyncio.get_running_loop().create_future()
            self._waiting.append((key, value))
            return await value
        self._queries += 1
        try:
            return (await self._query([key]))[0]
        finally:
            if self._waiting:
                task = asyncio.create_task(self._run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._queries -= 1

    async def _run(self) -> None:
        """Answers the lookups that were waiting for a query to end, batch by batch, until no lookup waits."""
        try:
            while self._waiting:
                size = min(len(self._waiting), MAX_BATCH_SIZE)
                await self._load([self._waiting.popleft() for _ in range(size)])
        finally:
            self._queries -= 1

    async def _load(self, batch: Sequence[tuple[K, "asyncio.Future[V]"]]) -> None:
        try:
            await self._load_together(batch)
        except Exception:
            for item in batch:
                try:
                    await self._load_together([item])
                except Exception as error:
                    if not item[1].done():
                        item[1].set_exception(error)
        finally:
            for _, value in batch:
                value.cancel()  # no effect on those that have a result

    async def _load_together(self, batch: Sequence[tuple[K, asyncio.Future[V]]]) -> None:
        found = await self._query([key for key, _ in batch])
        for (_, value), result in zip(batch, found, strict=True):
            if not value.done():
                value.set_result(result)

    async def _query(self, keys: Sequence[K]) -> Sequence[V]:
        connection = await self._pool.getconn()
        try:
            return await self._fetch(connection, keys)
        finally:
            await self._pool.putconn(connection)
