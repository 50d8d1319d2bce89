"""Paced turns: one at a time, of each caller in turn, with a rest after each."""

import asyncio

import pytest

from store.postgres.paced_turns import MAX_REST_S, REST, PacedTurns


class Clock:
    """A clock that only sleeps and work move, and the sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)  # lets others run


async def test_callers_take_turns_and_a_rest_follows_each_turn() -> None:
    clock = Clock()
    turns, order = PacedTurns(lambda: clock.now, clock.sleep), list[str]()

    async def work(caller: str, name: str, seconds: float) -> None:
        async with turns.take(caller):
            order.append(name)
            clock.now += seconds
            await asyncio.sleep(0)  # lets others run

    await asyncio.gather(work("ann", "a", 0.01), work("ann", "b", 60), work("ann", "c", 0.02), work("bob", "d", 0.03))
    assert order == ["a", "d", "b", "c"]
    assert clock.slept == pytest.approx([0, REST * 0.01, REST * 0.03, MAX_REST_S])


async def test_who_comes_after_the_rest_does_not_wait() -> None:
    clock = Clock()
    turns = PacedTurns(lambda: clock.now, clock.sleep)
    for _ in range(2):
        async with turns.take("ann"):
            clock.now += 0.1
        clock.now += 5
    assert clock.slept == [0, 0]


async def test_a_turn_that_fails_ends() -> None:
    turns = PacedTurns()
    with pytest.raises(RuntimeError):
        async with turns.take("ann"):
            raise RuntimeError
    async with asyncio.timeout(10), turns.take("ann"):
        pass
