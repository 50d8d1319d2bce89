"""Query for the states of a project's jobs, by the newest build of each."""

from collections.abc import Sequence

from psycopg import AsyncConnection

from domain.assistant.job_states import JobState, is_red, sort_states
from domain.core.events import copy_fields
from projections.builds import BuildRow
from projections.engine.queries import fetch_all
from projections.jobs import JobRow
from store.postgres.queries import fetch_rows

MAX_JOBS = 200
"""Largest number of jobs of a project whose states are read: the newest ones."""
SEARCHED_BUILDS = 500
"""Number of a job's newest builds that are searched for a build on a branch."""
COUNTS = "status IN ('passed', 'failed') AND NOT untrusted AND selected_tests IS NULL"
"""SQL condition: a build has passed or failed, is not of a fork, and ran all tests."""


async def fetch_newest(
    source: AsyncConnection, project_id: int, *, job_id: int | None = None, branch: str | None = None
) -> list[BuildRow]:
    """Returns the newest build of each job of a project, or of one job. Only builds that passed or failed, ran all
    tests and are not of a fork count.

    With `branch`, returns only builds on this branch. Otherwise prefers builds on the job's default branch to builds on
    other branches. If the newest build belongs to a group in which a build failed or was aborted, returns the group's
    build with the most failed tests instead.
    """
    of_job = f"SELECT * FROM {BuildRow.table} b WHERE b.job_id = j.id AND {COUNTS} ORDER BY id DESC"
    on_branch = (
        f"SELECT 0 AS place, id FROM ({of_job} LIMIT {SEARCHED_BUILDS}) recent"
        " WHERE branch = coalesce(%(branch)s, j.default_branch) ORDER BY id DESC LIMIT 1"
    )
    on_any = f"SELECT 1 AS place, id FROM ({of_job} LIMIT 1) recent WHERE %(branch)s::text IS NULL"
    query = (
        f"SELECT b.* FROM (SELECT * FROM {JobRow.table} WHERE project_id = %(project)s"
        f"  AND (%(job)s::bigint IS NULL OR id = %(job)s) ORDER BY id DESC LIMIT {MAX_JOBS}) j"
        f" CROSS JOIN LATERAL (SELECT id FROM (({on_branch}) UNION ALL ({on_any})) found ORDER BY place LIMIT 1) newest"
        f" JOIN {BuildRow.table} b ON b.id = newest.id ORDER BY b.id DESC"
    )
    newest = await fetch_all(source, BuildRow, query, {"project": project_id, "job": job_id, "branch": branch})
    groups = await _fetch_counting(source, [build.group_id for build in newest if build.group_id is not None])
    return [find_worst([one for one in groups if one.group_id == build.group_id]) or build for build in newest]


async def fetch_job_states(source: AsyncConnection, project_id: int, branch: str | None = None) -> list[JobState]:
    """Returns the state of each job of a project, the red ones first. With `branch`, returns only the states of jobs
    with builds on this branch.
    """
    builds = await fetch_newest(source, project_id, branch=branch)
    query = f"SELECT id, default_branch FROM {JobRow.table} WHERE id = ANY (%(ids)s)"
    default = dict(await fetch_rows(source, query, {"ids": [build.job_id for build in builds]}))
    return sort_states(
        [
            copy_fields(JobState, one, build_id=one.id, off_default_branch=one.branch != default.get(one.job_id))
            for one in builds
        ]
    )


def find_worst(group: Sequence[BuildRow]) -> BuildRow | None:
    """Returns the failed build with the most failed tests. If none failed, returns the aborted build with the most
    failed tests; None if none was aborted, either.
    """
    bad = [build for build in group if is_red(build.status)]
    return min(bad, key=lambda build: (build.status != "failed", -build.failed, build.id), default=None)


async def _fetch_counting(source: AsyncConnection, group_ids: Sequence[int]) -> list[BuildRow]:
    """Returns the builds that decide the status of each group: for each combination, the newest build that runs all
    tests.
    """
    query = (
        f"SELECT DISTINCT ON (group_id, matrix) * FROM {BuildRow.table} WHERE group_id = ANY (%(groups)s)"
        " AND selected_tests IS NULL ORDER BY group_id, matrix, id DESC"
    )
    return await fetch_all(source, BuildRow, query, {"groups": list(group_ids)}) if group_ids else []
