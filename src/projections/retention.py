"""Query for the builds that the retention of their projects deletes."""

from datetime import datetime
from typing import NamedTuple

from projections.builds import BuildRow
from projections.projects import ProjectRow
from store.postgres.queries import Source, fetch_rows


class ExpiredBuild(NamedTuple):
    """A build that exceeds the retention of its project, according to the read model."""

    id: int
    project_id: int
    retention_days: int
    retention_builds: int


async def find_expired(source: Source, now: datetime, limit: int) -> list[ExpiredBuild]:
    """Returns finished, unpinned builds that exceed their project's retention by age or by number, oldest first.

    Leaves out a group if one of its builds must stay. Within a group, passed builds come first: if the failed builds
    were deleted first, the group would seem to have passed.
    """
    query = (
        "SELECT id, project_id, retention_days, retention_builds"
        " FROM (SELECT *, bool_and(is_due) OVER (PARTITION BY coalesce(group_id, id)) AS is_group_due"
        "  FROM (SELECT id, group_id, status, project_id, retention_days, retention_builds,"
        "    finished_at IS NOT NULL AND NOT pinned AND ("
        "     (retention_days > 0 AND finished_at < %(now)s - make_interval(days => retention_days))"
        "     OR (retention_builds > 0 AND number > retention_builds)) AS is_due"
        "   FROM (SELECT b.id, b.group_id, b.status, b.project_id, b.pinned, b.finished_at,"
        "      p.retention_days, p.retention_builds,"
        "      count(b.finished_at) OVER (PARTITION BY b.job_id ORDER BY b.id DESC) AS number"
        f"     FROM {BuildRow.table} b JOIN {ProjectRow.table} p ON p.id = b.project_id"
        "     WHERE p.retention_days > 0 OR p.retention_builds > 0) numbered) judged) grouped"
        " WHERE is_group_due ORDER BY coalesce(group_id, id), status = 'passed' DESC, id LIMIT %(limit)s"
    )
    return [ExpiredBuild(*row) for row in await fetch_rows(source, query, {"now": now, "limit": limit})]
