"""Explains failed builds: finds and records the parts of their logs that say why the builds failed."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg_pool import AsyncConnectionPool

from commands.explanations import ExplainBuild
from commands.handler import CommandContext, Handler
from domain.builds import BUILD, BuildFinished, Finished
from domain.core.events import Damaged, Recorded
from domain.failures.log_explanations import Excerpt, Explainer, NoiseFinder
from domain.failures.log_signals import clean
from projections import comparable_builds
from store.log.event_log import EventLog
from store.tables.build_logs import BuildLogs, Line

CALLER = CommandContext("system:explanations")
MAX_CPU_S = 120.0
"""Largest CPU time for reading one log, in seconds. A log of a million ordinary lines takes some 15 s. If a log takes
longer than the limit, only the lines that were read until then count.
"""


@dataclass(frozen=True)
class BuildExplainer:
    """Explains failed builds. Explaining a build again has no effect."""

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    build_logs: BuildLogs

    async def explain(self, event: BuildFinished) -> None:
        """Finds and records the failure excerpts of the build that the event finished. Records nothing if the build did
        not fail, is explained or deleted already, or has an empty log.
        """
        build = await self.event_log.load_state(BUILD.at(event.build_id))
        if not isinstance(build, Finished) or build.status != "failed" or build.explained:
            return
        explainer = Explainer(await self._find_noise(event.build_id))
        await self._read(build, explainer)
        excerpts = explainer.finish()
        lines = [await self._fetch_lines(build, excerpt) for excerpt in excerpts]
        await self.handler.execute(ExplainBuild(event.build_id, tuple(excerpts), tuple(lines)), CALLER)

    async def _find_noise(self, build_id: int) -> frozenset[int]:
        """Returns the fingerprints of the lines that look like failures in the log of the last passed build of the job.
        Lines like these explain no failure.
        """
        passed_id = await comparable_builds.find_last_passed(self.pool, build_id)
        passed = None if passed_id is None else await self.event_log.load_state(BUILD.at(passed_id))
        finder = NoiseFinder()
        if isinstance(passed, Finished):
            await self._read(passed, finder)
        return finder.finish()

    async def _read(self, build: Finished, reader: Explainer | NoiseFinder) -> None:
        """Adds the lines of the last attempt of a build to `reader`."""
        offset, spent_s = 0, 0.0
        while offset < build.log_lines and spent_s < MAX_CPU_S:
            page = await self.build_logs.read_page(build.build_id, build.attempt, offset)
            if not page:
                return  # the build was deleted meanwhile
            # In a thread, since a page takes milliseconds, and the other reactions of this process must go on.
            spent_s += await asyncio.to_thread(_add_all, reader, page[: build.log_lines - offset])
            offset += len(page)

    async def _fetch_lines(self, build: Finished, excerpt: Excerpt) -> tuple[str, ...]:
        first, count = excerpt.first_line - 1, excerpt.last_line - excerpt.first_line + 1
        lines = await self.build_logs.read(build.build_id, build.attempt, first, count)
        return tuple(clean(line.text, keep_time=True) for line in lines)


def _add_all(reader: Explainer | NoiseFinder, lines: Sequence[Line]) -> float:
    """Adds lines to the reader. Returns the CPU time that this took, in seconds."""
    begun = time.thread_time()
    for line in lines:
        reader.add(line.text)
    return time.thread_time() - begun


def select_failed(events: Sequence[Recorded]) -> list[Recorded]:
    """Returns the ends of failed builds. Also returns events that cannot be read, so that they are parked instead of
    skipped.
    """
    return [
        one
        for one in events
        if isinstance(one.event, Damaged) or (isinstance(one.event, BuildFinished) and one.event.status == "failed")
    ]
