"""Sealing and checking large events: few of them are in memory at a time."""

import base64
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

from domain.claims import ClaimTaken
from domain.core.events import EventMetadata
from store.audit.checkpoints import compute_root
from store.log.event_log import Write
from testhide.processes import Core
from tests.workers.test_sealing import NOW, Yard

EVENTS = 40
SIZE = 384 * 1024
"""Bytes of an event, which do not compress."""
MAX_PEAK = 6 * 1024 * 1024


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / 2**20:.1f} MiB"


async def test_few_large_events_are_in_memory(parts: Core) -> None:
    """While the log is sealed, checked again, and compared with a checkpoint after a restore."""
    yard = Yard(parts)
    await yard.happen(1)
    await yard.seal()
    texts = [base64.b64encode(os.urandom(SIZE * 3 // 4)).decode() for _ in range(EVENTS)]
    for number, text in enumerate(texts):
        event = ClaimTaken(claim=f"large-{number}", owner=text)
        await parts.log.append([Write(1, event)], EventMetadata(NOW, "user:1"))
    with peak_below(MAX_PEAK):
        await yard.seal()
    with peak_below(MAX_PEAK):
        await yard.seal()  # checks what the call before has sealed
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert checkpoint.root == await yard.root_of_the_log()
    with peak_below(MAX_PEAK):
        async with parts.pool.connection() as connection:
            assert await compute_root(connection, checkpoint.size) == checkpoint.root
