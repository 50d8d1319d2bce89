"""Paces the requests of benchmarks that put an even load on a stack, and reads CPU time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable

import psutil


async def ticks(per_s: float, seconds: float) -> AsyncIterator[None]:
    """Yields `per_s` times a second for `seconds`. A consumer that is late gets the overdue ticks without a pause."""
    began = time.perf_counter()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
        yield


def read_cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Returns the CPU seconds, user and system, that the processes have used. Processes that have ended count as 0."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total
