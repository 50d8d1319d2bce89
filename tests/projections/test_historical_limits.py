"""Reads of the past take turns."""

import asyncio

import pytest

from domain.core.errors import TooManyRequests
from projections.time_travel.historical_tables import MAX_CONCURRENT, MAX_OF_CALLER, MAX_WAITING, HistoricalConnections


async def test_nobody_waits_behind_the_many_reads_of_another_caller() -> None:
    past, running, end = HistoricalConnections(""), list[str](), asyncio.Event()

    async def read(caller: str) -> None:
        async with past.turns.take(caller):
            running.append(caller)
            await end.wait()

    async def turns() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for caller in ["first"] * MAX_OF_CALLER + ["second", "third"]:
            group.create_task(read(caller))
        await turns()
        assert running == ["first", "second"]
        assert len(running) == MAX_CONCURRENT
        with pytest.raises(TooManyRequests, match="You have too many"):
            await read("first")
        others = [group.create_task(read(f"caller {number}")) for number in range(MAX_WAITING - MAX_OF_CALLER - 2)]
        await turns()
        with pytest.raises(TooManyRequests, match="There are too many"):
            await read("another")
        end.set()
        await asyncio.gather(*others)
    await read("another")
    assert len(past.turns) == 0
