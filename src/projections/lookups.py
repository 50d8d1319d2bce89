"""Queries for the look-ups of an AI job: the history of a test, similar failures, lines of a log, the builds of a
commit. No query finds anything of another project.
"""

import asyncio

from psycopg import AsyncConnection

from domain.assistant.answers import Source
from domain.assistant.evidence import BuildSummary, FailedTest, describe_probability, describe_summary
from domain.assistant.lookups import LookedUp, Lookup
from domain.core.events import copy_fields
from domain.failures.log_signals import clean
from domain.test_health import FAILED, assess
from projections import builds, results_history, test_health
from projections.builds import BuildRow
from projections.engine.queries import fetch_all
from projections.evidence import ASSESSED_RUNS
from projections.past_failures import fetch_similar
from projections.results_history import ResultOrigin
from store.postgres.queries import Source as Database
from store.postgres.queries import connected
from store.tables.build_logs import BuildLogs

MAX_BUILDS = 10
"""Largest number of builds that a look-up names: builds of a commit, or builds in which a test failed."""
AROUND = 10
"""Number of lines that are read before and after the lines that explain a failure."""
MAX_LINES = 60
"""Largest number of lines of a log that a look-up reads."""
MAX_LINE = 200
"""Largest number of characters that a sentence quotes of a line or message."""


async def look_up(database: Database, project_id: int, lookup: Lookup) -> LookedUp | None:
    """Returns the answer to a look-up; None if its subject does not exist in the project."""
    async with connected(database) as connection:
        match lookup.kind:
            case "test_history":
                return await _find_history(connection, project_id, lookup)
            case "similar_failures":
                return await _find_similar(connection, project_id, lookup)
            case "log_lines":
                return await _read_log(connection, project_id, lookup)
            case "builds_of_commit":
                return await _find_builds(connection, project_id, lookup)


async def _find_history(connection: AsyncConnection, project_id: int, lookup: Lookup) -> LookedUp | None:
    kind, _, number = lookup.ref.partition(":")
    case_id = int(number)
    if kind == "test":
        origin = await _find_origin(connection, project_id, lookup)
        if origin is None:
            return None
        case_id = origin.case_id
    found = await test_health.fetch_histories(connection, [case_id])
    if not found or found[0].project_id != project_id:
        return None
    history = found[0].history.newest(ASSESSED_RUNS)
    assessment = await asyncio.to_thread(assess, history.to_bytes())
    failed = sorted({run.build_id for run in history.notable if run.flags & FAILED}, reverse=True)
    at = f", at last in builds {', '.join(map(str, failed[:MAX_BUILDS]))}" if failed else ""
    text = (
        f"{found[0].node_id} failed in {len(failed):,} of its last {history.runs:,} runs{at}. The probability that it"
        f" is flaky is {describe_probability(assessment.flaky_probability)}."
    )
    return LookedUp(lookup, text, (Source(f"test_case:{case_id}", text),))


async def _find_similar(connection: AsyncConnection, project_id: int, lookup: Lookup) -> LookedUp | None:
    origin = await _find_origin(connection, project_id, lookup)
    if origin is None:
        return None
    row = await results_history.find_text(connection, origin.result_id)
    failure = FailedTest(origin.result_id, origin.case_id, origin.node_id, "" if row is None else row.message)
    found = await fetch_similar(connection, project_id, failure, origin.build_id)
    if not found:
        return LookedUp(lookup, f"No earlier failure of another test has a message like that of {origin.node_id}.")
    sources = tuple(
        Source(f"test:{past.result_id}", f"{past.name} failed in build {past.build_id}: {past.message}")
        for past in found
    )
    named = ", ".join(
        f"{past.name} in build {past.build_id}{f' ({past.classification})' if past.classification else ''}"
        for past in found
    )
    return LookedUp(lookup, f"Failures with messages like that of {origin.node_id}: {named}.", sources)


async def _read_log(connection: AsyncConnection, project_id: int, lookup: Lookup) -> LookedUp | None:
    """Returns an answer with lines of a build's log: lines around those that the look-up names, or else around the best
    explanation of the failure, or else the end of the log. Returns None if the build does not exist in the project.
    """
    _, number, *lines = lookup.ref.split(":")
    build = await builds.find(connection, int(number))
    if build is None or build.project_id != project_id:
        return None
    logs = BuildLogs(connection)
    count = await logs.count_lines(build.id, build.attempt)
    explanation = await builds.find_explanation(connection, build.id)
    excerpts = [] if explanation is None else explanation.excerpts
    first = last = count
    if lines:
        first, last = map(int, lines[0].split("-"))
    elif excerpts:
        first, last = int(excerpts[0]["first_line"]), int(excerpts[0]["last_line"])
    offset = max(0, first - 1 - AROUND)
    read = await logs.read(build.id, build.attempt, offset, min(MAX_LINES, last + AROUND - offset))
    texts = [clean(line.text, keep_time=True) for line in read]
    if not texts:
        which = f"has no lines {first} to {last}" if lines else "is empty"
        return LookedUp(lookup, f"The log of build {build.id} {which}.")
    numbered = list(enumerate((text.strip() for text in texts), offset + 1))
    marked = [item for item in numbered[first - 1 - offset : last - offset] if item[1]] or numbered[-1:]
    quoted = f"“{marked[0][1][:MAX_LINE]}{'...' if len(marked[0][1]) > MAX_LINE else ''}”"
    text = f"Line {marked[0][0]} of the log of build {build.id} says: {quoted}."
    if not lines and not excerpts:
        text = f"No line of the log of build {build.id} is known to explain it. The last line says: {quoted}."
    ref = f"log:{build.id}:{offset + 1}-{offset + len(texts)}"
    return LookedUp(lookup, text, (Source(ref, "\n".join(texts)),))


async def _find_builds(connection: AsyncConnection, project_id: int, lookup: Lookup) -> LookedUp | None:
    commit = lookup.ref.partition(":")[2]
    query = (
        f'SELECT * FROM {BuildRow.table} WHERE lower(commit_sha) COLLATE "C" = lower(%(commit)s)'
        f" AND project_id = %(project)s ORDER BY id DESC LIMIT {MAX_BUILDS}"
    )
    rows = await fetch_all(connection, BuildRow, query, {"commit": commit, "project": project_id})
    if not rows:
        return None
    named = ", ".join(f"{row.id} {row.status}" for row in rows)
    text = f"The newest builds on commit {commit[:12]}: {named}."
    described = [Source(f"build:{row.id}", describe_summary(copy_fields(BuildSummary, row))) for row in rows]
    return LookedUp(lookup, text, (Source(lookup.ref, text), *described))


async def _find_origin(connection: AsyncConnection, project_id: int, lookup: Lookup) -> ResultOrigin | None:
    origin = await results_history.find_origin(connection, int(lookup.ref.partition(":")[2]))
    return origin if origin is not None and origin.project_id == project_id else None
