"""Queries for builds that belong together: builds of a group, restarts of a build, builds of a change."""

from domain.assistant.evidence import BuildSummary
from domain.core.events import copy_fields
from projections.builds import BuildRow
from projections.engine.queries import fetch_all, fetch_column
from store.postgres.queries import Source, fetch_rows


async def fetch_counting(source: Source, group_id: int) -> list[BuildRow]:
    """Returns the builds that decide the status of a group, ordered by id: for each combination, the newest build that
    runs all tests.
    """
    newest = (
        f"SELECT DISTINCT ON (matrix) * FROM {BuildRow.table} WHERE group_id = %(group)s AND selected_tests IS NULL"
        " ORDER BY matrix, id DESC"
    )
    return await fetch_all(source, BuildRow, f"SELECT * FROM ({newest}) newest ORDER BY id", {"group": group_id})


async def fetch_last_runs(source: Source, first_id: int) -> list[BuildRow]:
    """Returns the newest build that runs all tests, for each combination of the matrix, ordered by id. Considers only
    the build `first_id`, the builds of the group that began with it, and all restarts of these builds.
    """
    newest = (
        f"WITH RECURSIVE run (id) AS (SELECT id FROM {BuildRow.table} WHERE group_id = %(first)s"
        "  UNION SELECT %(first)s::bigint"
        f"  UNION SELECT b.id FROM {BuildRow.table} b JOIN run ON b.restarted_from = run.id)"
        f" SELECT DISTINCT ON (matrix) b.* FROM {BuildRow.table} b JOIN run USING (id) WHERE selected_tests IS NULL"
        " ORDER BY matrix, id DESC"
    )
    return await fetch_all(source, BuildRow, f"SELECT * FROM ({newest}) newest ORDER BY id", {"first": first_id})


async def fetch_failed_others(source: Source, build: BuildRow) -> tuple[BuildSummary, ...]:
    """Returns the other builds in a build's group that failed or were aborted. Considers only builds that decide the
    status of the group: for each combination, the newest one that runs all tests. Returns none if the build is in no
    group.
    """
    if build.group_id is None:
        return ()
    counting = await fetch_counting(source, build.group_id)
    failed = [row for row in counting if row.id != build.id and row.status in ("failed", "aborted")]
    return tuple(copy_fields(BuildSummary, row) for row in failed)


async def fetch_unfinished(source: Source, group_id: int) -> list[int]:
    """Returns the ids of a group's builds that have not finished, including builds that run only some tests."""
    query = f"SELECT id FROM {BuildRow.table} WHERE group_id = %(group)s AND finished_at IS NULL ORDER BY id"
    return await fetch_column(source, query, {"group": group_id})


async def fetch_ids(source: Source, group_id: int) -> list[int]:
    """Returns the ids of a group's builds, including builds that run only some tests."""
    query = f"SELECT id FROM {BuildRow.table} WHERE group_id = %(group)s ORDER BY id"
    return await fetch_column(source, query, {"group": group_id})


async def fetch_restart_ids(source: Source, build_id: int) -> list[int]:
    """Returns the id of the build that `build_id` restarts directly or indirectly, and of all restarts of that build,
    `build_id` among them. If builds in between were deleted, begins with the last of these.
    """
    query = (
        "WITH RECURSIVE origin (id) AS (SELECT %(build)s::bigint"
        f"  UNION SELECT b.restarted_from FROM {BuildRow.table} b JOIN origin USING (id)"
        "   WHERE b.restarted_from IS NOT NULL),"
        " run (id) AS (SELECT id FROM origin"
        f"  UNION SELECT b.id FROM {BuildRow.table} b JOIN run ON b.restarted_from = run.id)"
        " SELECT id FROM run ORDER BY id"
    )
    return await fetch_column(source, query, {"build": build_id})


async def fetch_of_change(source: Source, change_id: int) -> list[tuple[int, int]]:
    """Returns (job id, build id) of the builds that a change started, ordered by both."""
    query = (
        f"SELECT job_id, id FROM {BuildRow.table} WHERE trigger->>'change_id' IS NOT NULL"
        " AND (trigger->>'change_id')::bigint = %(change)s ORDER BY job_id, id"
    )
    return [(job_id, build_id) for job_id, build_id in await fetch_rows(source, query, {"change": change_id})]
