"""Queries for the lines of builds (`domain.run_lines`)."""

from collections.abc import Collection, Iterable

from domain.run_histories import is_broken
from domain.run_lines import BuildOnLine, Lines
from projections.engine.binary_copy import unpack_array
from projections.results_runs import IS_BROKEN, BuildOutcomeRow, minute_of
from store.clock import utcnow
from store.postgres.queries import Source, fetch_rows

MAX_BUILDS = 100_000
"""Largest number of builds of a project's lines that are read, the newest ones."""


async def fetch_lines(
    source: Source, project_ids: Collection[int], build_ids: Collection[int], asked: Collection[int] = ()
) -> Lines:
    """Returns the lines of projects since the oldest of some builds, which have notable runs. `asked` has the ids of
    builds on the branch that somebody asks about.
    """
    query = (
        f"SELECT build_id, job_id, line, passed, failed FROM {BuildOutcomeRow.table} WHERE build_id = ANY (%(builds)s)"
    )
    rows = await fetch_rows(source, query, {"builds": [*build_ids]})
    outcomes = {build: BuildOnLine(job, line, is_broken(passed, failed)) for build, job, line, passed, failed in rows}
    query = (
        "SELECT array_send(array_agg(build_id::int)), array_send(array_agg(job_id)), array_send(array_agg(line))"
        f" FROM (SELECT * FROM {BuildOutcomeRow.table} WHERE project_id = ANY (%(projects)s) AND line > 0"
        f"  AND build_id >= %(first)s AND NOT ({IS_BROKEN}) ORDER BY build_id DESC LIMIT {MAX_BUILDS}) newest"
    )
    builds: Iterable[tuple[int, int, int]] = ()
    if build_ids:
        parameters = {"projects": [*project_ids], "first": min(build_ids)}
        (sent,) = await fetch_rows(source, query, parameters)
        if sent[0] is not None:
            builds = zip(*(unpack_array(column, "i") for column in sent), strict=True)
    return Lines(outcomes, builds, asked, now=minute_of(utcnow()))
