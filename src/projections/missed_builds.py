"""Query for the builds in which a failing test did not run any more: it may have been removed, or is skipped."""

from collections.abc import Collection

from projections.builds import BuildRow
from projections.results_runs import IS_BROKEN, BuildOutcomeRow
from store.postgres.queries import Source, fetch_rows

MAX_MISSED = 100
"""Largest number of newer builds that are counted for one build."""


async def count_newer_builds(source: Source, build_ids: Collection[int]) -> dict[int, int]:
    """Returns build -> number of newer builds with results, of the same job and combination on the default branch, up
    to MAX_MISSED. If a build has the newest run of a test, the test did not run in any of the newer builds.

    Does not count builds that have not ended, builds of selected tests and broken builds. Also does not count newer
    builds that started before the older build ended: a test may have run in the newer build first. The number is 0 for
    a build on another branch.
    """
    newer = (
        f"SELECT FROM (SELECT build_id FROM {BuildOutcomeRow.table} WHERE job_id = o.job_id AND line = o.line"
        f"  AND line > 0 AND build_id > o.build_id AND passed + failed > 0 AND NOT ({IS_BROKEN})) n"
        f" LEFT JOIN {BuildRow.table} b ON b.id = n.build_id"
        " WHERE b.id IS NULL OR b.status IN ('passed', 'failed') AND b.selected_tests IS NULL"
        "  AND (this.id IS NULL OR b.started_at >= this.finished_at)"
        f" LIMIT {MAX_MISSED}"
    )
    query = (
        f"SELECT o.build_id, (SELECT count(*) FROM ({newer}) newer) FROM {BuildOutcomeRow.table} o"
        f" LEFT JOIN {BuildRow.table} this ON this.id = o.build_id WHERE o.build_id = ANY (%(builds)s)"
    )
    return dict(await fetch_rows(source, query, {"builds": list(build_ids)})) if build_ids else {}
