"""Query for the parts of a build's log that explain its failure."""

import asyncio

import msgspec
from psycopg import AsyncConnection

from domain.assistant.evidence import LogExcerpt, excerpt_log
from domain.failures.log_explanations import Excerpt
from projections import builds
from projections.builds import BuildRow
from store.tables.build_logs import BuildLogs

TAIL_LINES = 2_000
"""Number of lines at the end of a log that are read if no worker has explained the log yet."""


async def fetch_excerpts(connection: AsyncConnection, build: BuildRow) -> tuple[LogExcerpt, ...]:
    """Returns the parts of a build's log that explain its failure, as a worker has found them. If no worker has
    explained the log yet, looks for these parts at the end of the log.
    """
    explanation = await builds.find_explanation(connection, build.id)
    if explanation is not None:
        found = msgspec.convert(explanation.excerpts, list[Excerpt])
        # The lines of an erased event are empty.
        return tuple(
            LogExcerpt(one.first_line, one.last_line, tuple(lines), one.score, one.reasons)
            for one, lines in zip(found, explanation.lines, strict=False)
        )
    logs = BuildLogs(connection)
    offset = max(0, await logs.count_lines(build.id, build.attempt) - TAIL_LINES)
    texts = [line.text for line in await logs.read(build.id, build.attempt, offset, TAIL_LINES)]
    return await asyncio.to_thread(excerpt_log, texts, offset)
