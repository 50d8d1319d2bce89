"""Limits how many changes of a project wait until a worker has decided which jobs they start."""

import asyncio
import time
from dataclasses import dataclass, field

from cachetools import LRUCache
from psycopg_pool import AsyncConnectionPool

from domain.changes import EVALUATION
from domain.core.errors import TooManyRequests
from store.tables.reactions import count_due

MAX_WAITING = 2_000
"""Largest number of changes of one project that wait until a worker has decided which jobs they start. Further changes
are refused.
"""
RETRY_AFTER_S = 60
COUNT_LIFETIME_S = 1.0
"""Seconds until the waiting changes of a project are counted again. So a burst of hooks costs few counts."""
MAX_REMEMBERED = 10_000
"""Largest number of projects for which a process remembers a `Room`: how many changes the project may still report."""


@dataclass
class Room:
    """Number of changes that a project may still report before its waiting changes are counted again."""

    left: int = 0
    until: float = 0.0
    """Time by the monotonic clock at which the waiting changes must be counted again."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class WaitingChanges:
    """Counts the waiting changes of projects. Each process adds the changes that it has accepted to its last count, but
    does not know what other processes have accepted since. So several processes together may exceed MAX_WAITING for
    COUNT_LIFETIME_S.
    """

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._rooms: LRUCache[int, Room] = LRUCache(MAX_REMEMBERED)

    async def add(self, project_id: int, changes: int) -> None:
        """Counts `changes` more changes of a project, which the caller records next. Raises TooManyRequests if
        MAX_WAITING changes of the project wait. A worker turns accepted changes into due reactions, which the next
        count, after COUNT_LIFETIME_S, counts. While no worker runs, this count leaves out the accepted changes.
        """
        room = self._rooms.get(project_id)
        if room is None:
            room = self._rooms[project_id] = Room()
        async with room.lock:
            if room.left <= 0 or time.monotonic() >= room.until:
                waiting = await count_due(self._pool, EVALUATION, project_id, MAX_WAITING)
                room.left, room.until = MAX_WAITING - waiting, time.monotonic() + COUNT_LIFETIME_S
            if room.left <= 0:
                raise TooManyRequests(
                    f"{MAX_WAITING:,} changes of project {project_id} wait for their builds already. Nothing of this"
                    " message was recorded: send it again in a minute (GitHub: Redeliver, GitLab: Resend request).",
                    RETRY_AFTER_S,
                )
            room.left -= changes
