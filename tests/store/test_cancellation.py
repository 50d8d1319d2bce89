"""Tasks that are told to end do, also those that lose a cancellation."""

import asyncio

import pytest

from store.postgres.cancellation import Tasks, cancel_and_wait


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


async def test_who_is_cancelled_while_cancelling_leaves_nothing_running() -> None:
    task = asyncio.create_task(deaf(3))
    await asyncio.sleep(0)
    cancelling = asyncio.create_task(cancel_and_wait(task))
    await asyncio.sleep(0)
    cancelling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelling
    assert task.cancelled()


async def test_tasks_end_together_though_one_loses_its_cancellation() -> None:
    tasks = Tasks()
    tasks.start(deaf(2), deaf(0))
    running = asyncio.create_task(tasks.run())
    await asyncio.sleep(0)
    running.cancel()
    ended, _ = await asyncio.wait({running}, timeout=10)
    assert ended
    assert running.cancelled()


async def test_an_error_of_a_task_ends_the_others() -> None:
    async def fails() -> None:
        raise OSError("lost")

    tasks, ended = Tasks(), asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks.start(waits(), fails())
    with pytest.raises(OSError, match="lost"):
        await tasks.run()
    assert ended.is_set()
