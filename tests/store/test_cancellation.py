"""Tasks that are told to end do, also those that lose a cancellation."""

import asyncio

import pytest

from store.postgres.cancellation import cancel_and_wait


async def deaf(times: int) -> None:
    """As `asyncio.wait_for` before Python 3.12 is now and then."""
    for _ in range(times):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_cancellation_is_repeated_until_it_is_heard(times: int) -> None:
    tasks = [asyncio.create_task(deaf(times)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancel_and_wait(*tasks)
    assert all(task.cancelled() for task in tasks)


async def test_what_has_ended_or_fails_is_no_matter() -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("at its end")

    done = asyncio.create_task(asyncio.sleep(0))
    await done
    failing = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await cancel_and_wait(done, failing)
    assert isinstance(failing.exception(), OSError)
