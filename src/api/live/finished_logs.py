"""Checks the log of a finished build, before it is served, against the digest in the event that ended the build."""

import asyncio
import time
from functools import partial

import structlog

from domain.builds import BUILD, Finished
from domain.core.errors import ContentsAltered, NotFound
from store.log.event_log import EventLog
from store.tables.build_logs import BuildLogs

log = structlog.get_logger()

CHECK_LIFETIME_S = 60.0
"""Seconds for which the result of a check counts. A later request checks the log again."""
MAX_CHECKED = 1_000
"""Largest number of builds whose checks are remembered."""


class FinishedLogs:
    """Checks of the logs of finished builds. Remembers each result for CHECK_LIFETIME_S. Simultaneous requests for the
    same log check it only once.
    """

    def __init__(self, event_log: EventLog, build_logs: BuildLogs) -> None:
        self._event_log = event_log
        self._build_logs = build_logs
        self._checks: dict[int, tuple[float, asyncio.Task[int]]] = {}

    async def count_lines(self, build_id: int) -> int:
        """Checks the log of a finished build and returns its number of lines. Raises ContentsAltered if somebody
        altered the log, and NotFound if the build is deleted.
        """
        begun, check = self._checks.get(build_id, (0.0, None))
        if check is None or time.monotonic() - begun > CHECK_LIFETIME_S:
            check = asyncio.create_task(self._check(build_id), name=f"log of build {build_id}")
            check.add_done_callback(partial(self._forget_failed, build_id))
            self._checks.pop(build_id, None)
            self._checks[build_id] = time.monotonic(), check
            if len(self._checks) > MAX_CHECKED:
                del self._checks[next(iter(self._checks))]
        # Cancelling one caller must not cancel the task, since others may wait for it.
        return await asyncio.shield(check)

    def _forget_failed(self, build_id: int, check: asyncio.Task[int]) -> None:
        if (check.cancelled() or check.exception() is not None) and self._checks.get(build_id, (0, None))[1] is check:
            del self._checks[build_id]

    async def _check(self, build_id: int) -> int:
        build = await self._event_log.load_state(BUILD.at(build_id))
        if not isinstance(build, Finished):
            raise NotFound(f"There is no build {build_id}.")  # it was deleted a moment ago
        damage = await self._build_logs.find_damage(build_id, build.attempt, build.log_lines, build.log_digest)
        if damage is None:
            return build.log_lines
        # When the build, its job or its project is deleted, the lines are removed some moments after the data key.
        key = build.queued.data_key
        if key is not None and await self._event_log.data_keys.find_destroyed([key]):
            raise NotFound(f"There is no build {build_id}.")
        log.error("the log of a build was altered", build=build_id, damage=damage)
        raise ContentsAltered(
            f"The log of build {build_id} is not the one that was stored: {damage}. An operator can restore it from a"
            " backup."
        )
