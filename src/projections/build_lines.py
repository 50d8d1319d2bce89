"""Queries for the lines of builds (`domain.run_lines`)."""

from collections.abc import Collection

from domain.run_histories import is_broken
from domain.run_lines import OTHER_BRANCHES, BuildOnLine, Lines
from projections.builds import BuildRow
from projections.engine.queries import fetch_column
from projections.results_runs import IS_BROKEN, BuildOutcomeRow, minute_of
from store.clock import utcnow
from store.postgres.queries import Source, fetch_rows


async def fetch_lines(source: Source, build_ids: Collection[int], asked: Collection[int] = ()) -> Lines:
    """Returns the line of each build in `build_ids`. The caller passes builds in which tests had notable runs. `asked`
    has the ids of the builds on the branch that a question is about: failures in these builds count even if the branch
    is not the default one.
    """
    following = (
        f"SELECT build_id FROM {BuildOutcomeRow.table} n WHERE n.job_id = o.job_id AND n.line = o.line AND n.line > 0"
        f" AND n.build_id > o.build_id AND passed + failed > 0 AND NOT ({IS_BROKEN})"
        f" AND NOT EXISTS (SELECT FROM {BuildRow.table} WHERE id = n.build_id AND selected_tests IS NOT NULL)"
        " ORDER BY n.build_id LIMIT 1"
    )
    query = (
        f"SELECT o.build_id, o.job_id, o.line, o.passed, o.failed, ({following})"
        f" FROM {BuildOutcomeRow.table} o WHERE o.build_id = ANY (%(builds)s)"
    )
    rows = await fetch_rows(source, query, {"builds": [*build_ids]})
    builds = {
        build_id: BuildOnLine(job_id, line, is_broken(passed, failed), after)
        for build_id, job_id, line, passed, failed, after in rows
    }
    others = {build.job_id for build in builds.values() if build.line == OTHER_BRANCHES}
    jobs: list[int] = []
    if others:
        query = (
            "SELECT id FROM unnest(%(jobs)s::int[]) AS jobs (id)"
            f" WHERE EXISTS (SELECT FROM {BuildOutcomeRow.table} WHERE job_id = jobs.id AND line > 0)"
        )
        jobs = await fetch_column(source, query, {"jobs": [*others]})
    return Lines(builds, set(jobs), asked, minute_of(utcnow()))
