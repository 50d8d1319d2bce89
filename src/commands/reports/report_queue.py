"""Decides which of the waiting reports is read or recorded next."""

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from domain.core.errors import Unavailable
from store.postgres.cancellation import cancel_and_wait

LEFT = "You left before this report was read: send it again."


@dataclass(frozen=True)
class ReportSender:
    """A user or agent who sends a report and waits for the answer."""

    actor: str
    has_left: asyncio.Event = field(default_factory=asyncio.Event)
    """Event that is set when the client has closed its connection."""

    def must_stay(self) -> None:
        """Raises Unavailable if the client has left."""
        if self.has_left.is_set():
            raise Unavailable(LEFT)


@dataclass(eq=False)
class _QueuedReport:
    project_id: int
    actor: str
    turn: asyncio.Future[None]


class ReportQueue:
    """Queue of reports. At most `limit` reports have their turn at the same time, and only one of each project, so that
    a project with many reports does not delay others.

    The next turn goes to the actor whose last turn is longest ago, and among the actor's projects to the one whose last
    turn is longest ago. With a limit above 1, one turn is always left for other actors: no actor has all turns.
    """

    def __init__(self, limit: int = sys.maxsize) -> None:
        self._free = limit
        self._share = max(1, limit - 1)
        """Number of turns that one actor may have at a time."""
        self._projects: set[int] = set()
        """Ids of the projects of which a report has its turn now."""
        self._turns: Counter[str] = Counter()
        """Actor -> number of the actor's reports that have their turn now."""
        self._waiting: list[_QueuedReport] = []
        self._numbers = itertools.count(1)
        self._last_turns: dict[str | int, int] = {}
        """Actor or project id -> number of its last turn; turns are numbered in their order. There are at most as many
        entries as users, nodes and projects.
        """

    @contextlib.asynccontextmanager
    async def turn(self, project_id: int, actor: str, has_left: asyncio.Event | None = None) -> AsyncIterator[bool]:
        """Waits for the turn of a report, which lasts until the `async with` statement ends. Yields whether the report
        had to wait. Raises Unavailable if `has_left` is set before the turn comes.
        """
        waiting = _QueuedReport(project_id, actor, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._give_turns()
        has_waited = not waiting.turn.done()
        try:
            await _wait_or_leave(waiting.turn, has_left or asyncio.Event())
            yield has_waited
        finally:
            if waiting.turn.done():
                self._free += 1
                self._turns[actor] -= 1
                self._projects.remove(project_id)
                self._give_turns()
            else:
                self._waiting.remove(waiting)

    def _give_turns(self) -> None:
        while self._free and (found := self._find_next()) is not None:
            self._waiting.remove(found)
            self._free -= 1
            self._turns[found.actor] += 1
            self._projects.add(found.project_id)
            self._last_turns[found.actor] = self._last_turns[found.project_id] = next(self._numbers)
            found.turn.set_result(None)

    def _find_next(self) -> _QueuedReport | None:
        last = self._last_turns
        return min(
            (
                waiting
                for waiting in self._waiting
                if self._turns[waiting.actor] < self._share and waiting.project_id not in self._projects
            ),
            key=lambda waiting: (last.get(waiting.actor, 0), last.get(waiting.project_id, 0)),
            default=None,
        )


async def _wait_or_leave(turn: asyncio.Future[None], has_left: asyncio.Event) -> None:
    leaving = asyncio.ensure_future(has_left.wait())
    try:
        await asyncio.wait((turn, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(leaving)
    if has_left.is_set():
        raise Unavailable(LEFT)
