"""Read model of builds and their comments."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from domain import builds
from domain.core.events import Recorded, copy_fields
from domain.jobs import Configuration, JobDeleted
from domain.reports import COUNTS
from projections.auth import email_column
from projections.engine.model import (
    Change,
    Delete,
    DeleteWhere,
    Int,
    Key,
    Projection,
    Row,
    Rows,
    SmallInt,
    Table,
)
from projections.engine.queries import fetch_all, fetch_column, fetch_value, find_row
from store.postgres.queries import Source, fetch_rows

VERSION = 6

MAX_COUNT = 10_000
"""Number of builds at which `count` stops if several filters are combined. With a single filter the count is exact."""
MAX_RIVALS = 200
"""Number of a job's newest builds that `find_rivals` searches for other changes than that of a queued build."""


class BuildRow(Row, frozen=True):
    table = Table(
        "builds",
        VERSION,
        indexes=(
            "(job_id, id DESC)",
            "(project_id, id DESC)",
            '(lower(commit_sha) COLLATE "C")',
            "(node_id) WHERE finished_at IS NULL",
            "(node_pool_id) WHERE finished_at IS NULL",
            "(job_id) WHERE status = 'queued'",
            "(group_id) WHERE group_id IS NOT NULL",
            "(restarted_from) WHERE restarted_from IS NOT NULL",
            "(((trigger->>'change_id')::bigint)) WHERE trigger->>'change_id' IS NOT NULL",
        ),
    )
    id: int
    job_id: int
    project_id: int
    status: str
    branch: str
    priority: SmallInt
    external: bool
    created_at: datetime
    created_by: str
    commit_sha: str | None = None
    reason: str | None = None
    detail: str | None = None
    node_pool_id: int | None = None
    node_id: int | None = None
    attempt: Int = 0
    assigned_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    log_lines: int = 0
    passed: Int = 0
    failed: Int = 0
    skipped: Int = 0
    flaky: Int = 0
    known_issues: Int = 0
    quarantined: Int = 0
    restarted_from: int | None = None
    selected_tests: int | None = None
    """Number of tests that the build was restricted to; None when it runs all tests."""
    pinned: bool = False
    moved_to_top: int = 0
    """Log position of the last move to the top of the queue; 0 when the build was never moved."""
    configuration: dict[str, Any] = {}
    trigger: dict[str, Any] = {}
    """The `BuildTrigger`; empty if a user started the build."""
    group_id: int | None = None
    matrix: dict[str, str] = {}
    """Combination of the build; empty without a matrix."""
    untrusted: bool = False
    fork: str = ""
    approved_by: str | None = None

    @property
    def awaits_approval(self) -> bool:
        return self.untrusted and self.approved_by is None and self.status == "queued"


class CommentRow(Row, frozen=True):
    table = Table("build_comments", VERSION, indexes=("(build_id)", "(job_id)"))
    id: int
    build_id: int
    job_id: int
    text: str
    author: int
    created_at: datetime


class ExplanationRow(Row, frozen=True):
    """Excerpts of a failed build's log that explain the failure. They have a table of their own, since lists of builds
    do not need them.
    """

    table = Table("build_explanations", VERSION, key=("build_id",), indexes=("(job_id)",))
    build_id: int
    job_id: int
    attempt: Int
    excerpts: list[dict[str, Any]]
    lines: list[list[str]]


def _configuration_column(configuration: Configuration) -> dict[str, Any]:
    """Returns a configuration as JSON, with only the names of its secrets. `command`, `setup`, `env`, `artifacts` and
    `secrets` are always present. Other options are left out if they are not set, since rows of older releases lack
    them, too.
    """
    options: dict[str, Any] = msgspec.to_builtins(configuration)
    always: dict[str, Any] = {"command": "", "setup": [], "env": {}, "artifacts": []}
    return always | options | {"secrets": sorted(configuration.secrets)}


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    event = recorded.event
    if isinstance(event, builds.BuildEvent) and not isinstance(
        event, builds.BuildQueued | builds.BuildCommented | builds.BuildDeleted
    ):
        yield BuildRow, (event.build_id,)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case builds.BuildQueued():
            yield copy_fields(
                BuildRow,
                event,
                id=event.build_id,
                status="queued",
                created_at=event.at,
                created_by=event.actor,
                selected_tests=None if event.test_ids is None else len(event.test_ids),
                configuration=_configuration_column(event.configuration),
                trigger={} if event.trigger is None else msgspec.to_builtins(event.trigger),
            )
        case JobDeleted():
            yield DeleteWhere(BuildRow, "job_id", event.job_id)
            yield DeleteWhere(CommentRow, "job_id", event.job_id)
            yield DeleteWhere(ExplanationRow, "job_id", event.job_id)
        case builds.BuildCommented():
            yield CommentRow(event.comment_id, event.build_id, event.job_id, event.text, event.author, event.at)
        case builds.BuildDeleted():
            yield Delete(BuildRow, event.build_id)
            yield DeleteWhere(CommentRow, "build_id", event.build_id)
            yield Delete(ExplanationRow, event.build_id)
        case builds.BuildExplained():
            if rows.get(BuildRow, event.build_id) is not None:  # None once its job is deleted
                yield copy_fields(ExplanationRow, event, excerpts=msgspec.to_builtins(event.excerpts))
        case builds.BuildEvent():
            build = rows.get(BuildRow, event.build_id)
            if build is not None:  # None once its job is deleted
                yield msgspec.structs.replace(build, **_changes(recorded, event, build))


def _changes(recorded: Recorded, event: builds.BuildEvent, build: BuildRow) -> dict[str, Any]:
    match event:
        case builds.BuildAssigned():
            return {"node_id": event.node_id, "attempt": event.attempt, "assigned_at": event.at}
        case builds.BuildRequeued():
            lost = {"status": "queued", "node_id": None, "assigned_at": None, "started_at": None}
            return lost | dict.fromkeys(COUNTS, 0) | {"reason": event.reason}
        case builds.BuildStarted():
            return {
                "status": "running",
                "reason": None,
                "node_id": event.node_id,
                "attempt": event.attempt,
                "started_at": event.at,
                "commit_sha": event.commit_sha or build.commit_sha,
            }
        case builds.ReportRecorded():
            counts = {name: getattr(build, name) + (getattr(event, name) or 0) for name in COUNTS}
            return counts if event.detail is None else counts | {"detail": event.detail}
        case builds.BuildFinished():
            return {
                "status": event.status,
                "reason": event.reason,
                "detail": event.detail,
                "exit_code": event.exit_code,
                "log_lines": event.log_lines,
                "finished_at": event.at,
            }
        case builds.BuildApproved():
            return {"approved_by": event.actor}
        case builds.BuildMovedToTop():
            return {"moved_to_top": recorded.position}
        case builds.BuildPinned() | builds.BuildUnpinned():
            return {"pinned": isinstance(event, builds.BuildPinned)}
        case _:
            return {}


PROJECTION = Projection(
    "builds", VERSION, (BuildRow, CommentRow, ExplanationRow), keys, apply, handles=(builds.BuildEvent, JobDeleted)
)


class BuildFilters(msgspec.Struct, frozen=True):
    """Conditions on builds: a build must meet all of them. A field that is None sets no condition.

    Lists of past builds (`?as_of=`) have only the columns of `_at` in `projections/build_positions.py`. For these
    lists, `list_builds` refuses filters on other columns.
    """

    projects: list[int] | None = None
    """Ids of the projects that the caller may see; None if the caller may see all."""
    project_id: int | None = None
    job_id: int | None = None
    status: str | None = None
    branch: str | None = None
    commit_sha: str | None = None
    """Beginning of the commit's hash, in lower case."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    group_id: int | None = None
    before_id: int | None = None
    """Limits a page to builds with smaller ids (keyset paging)."""

    def where(self) -> str:
        conditions = {
            "projects": "project_id = ANY (%(projects)s)",
            "project_id": "project_id = %(project_id)s",
            "job_id": "job_id = %(job_id)s",
            "status": "status = %(status)s",
            "branch": "branch = %(branch)s",
            # The upper bound ends with `g`, which sorts after every hexadecimal digit.
            "commit_sha": """lower(commit_sha) COLLATE "C" BETWEEN %(commit_sha)s AND %(commit_sha)s || 'g'""",
            "created_after": "created_at >= %(created_after)s",
            "created_before": "created_at < %(created_before)s",
            "group_id": "group_id = %(group_id)s",
            "before_id": "id < %(before_id)s",
        }
        given = [text for name, text in conditions.items() if getattr(self, name) is not None]
        return " AND ".join(given) or "true"


async def find(source: Source, build_id: int) -> BuildRow | None:
    return await find_row(source, BuildRow, build_id)


async def find_project(source: Source, build_id: int) -> int | None:
    query = f"SELECT project_id FROM {BuildRow.table} WHERE id = %(id)s"
    return next(iter(await fetch_column(source, query, {"id": build_id})), None)


async def find_explanation(source: Source, build_id: int) -> ExplanationRow | None:
    return await find_row(source, ExplanationRow, build_id)


async def fetch_page(source: Source, filters: BuildFilters, limit: int, offset: int) -> list[BuildRow]:
    """Returns a page of builds, newest first."""
    return await fetch_all(
        source,
        BuildRow,
        f"SELECT * FROM {BuildRow.table} WHERE {filters.where()} ORDER BY id DESC LIMIT %(limit)s OFFSET %(offset)s",
        msgspec.structs.asdict(filters) | {"limit": limit, "offset": offset},
    )


class BuildCount(NamedTuple):
    builds: int
    is_lower_bound: bool


async def count(
    source: Source, filters: BuildFilters, table: str = str(BuildRow.table), **parameters: Any
) -> BuildCount:
    """Counts the matching builds. With two or more filters, stops at MAX_COUNT; `projects` does not count as a filter.

    `table` is a table of builds, or a subquery. `parameters` are values for the subquery.
    """
    given = {name for name, value in msgspec.structs.asdict(filters).items() if value is not None}
    limit = MAX_COUNT + 1 if len(given - {"projects"}) > 1 else None
    query = f"SELECT count(*) FROM (SELECT FROM {table} WHERE {filters.where()} LIMIT %(limit)s) found"
    values = msgspec.structs.asdict(filters) | parameters | {"limit": limit}
    count = int(await fetch_value(source, query, values))
    return BuildCount(MAX_COUNT, True) if limit is not None and count == limit else BuildCount(count, False)


class RivalBuild(NamedTuple):
    """A queued build, and the other changes that may have superseded it."""

    build_id: int
    change_id: int
    """Id of the change that started the build."""
    others: list[int]
    """Ids of the other changes of the branch or pull request that started builds of the job. Leaves out an earlier
    change if all its builds were superseded, so that one of its builds cannot end the build of which it was a rival.
    """


async def find_rivals(source: Source, job_ids: Sequence[int]) -> list[RivalBuild]:
    """Returns those queued builds of these jobs that have rivals: builds of the same job that another change of the
    same branch or pull request has started.
    """
    query = (
        "SELECT old.id, (old.trigger->>'change_id')::bigint, array_agg(DISTINCT new.change_id)"
        " FROM unnest(%(jobs)s::bigint[]) AS job(id)"
        f" JOIN {BuildRow.table} old ON old.job_id = job.id AND old.status = 'queued'"
        "  AND old.trigger->>'kind' IN ('push', 'pull_request')"
        " CROSS JOIN LATERAL (SELECT branch, trigger, reason, (trigger->>'change_id')::bigint AS change_id"
        f"  FROM {BuildRow.table} WHERE job_id = job.id ORDER BY id DESC LIMIT {MAX_RIVALS}) new"
        " WHERE new.branch = old.branch AND new.trigger->>'kind' = old.trigger->>'kind'"
        "  AND new.trigger->>'pull_request' IS NOT DISTINCT FROM old.trigger->>'pull_request'"
        "  AND (new.change_id > (old.trigger->>'change_id')::bigint"
        "   OR (new.change_id < (old.trigger->>'change_id')::bigint AND new.reason IS DISTINCT FROM 'superseded'))"
        " GROUP BY 1, 2 ORDER BY 1"
    )
    return [RivalBuild(*row) for row in await fetch_rows(source, query, {"jobs": list(job_ids)})]


async def find_queued_of_pull_request(
    source: Source, project_id: int, pull_request: int, before_change: int, *, only_unapproved: bool
) -> list[tuple[int, int, int]]:
    """Returns (build id, job id, change id) of the queued builds of a pull request that were started by a change older
    than `before_change`. With `only_unapproved`, returns only those that wait for an approval.
    """
    query = (
        f"SELECT id, job_id, (trigger->>'change_id')::bigint FROM {BuildRow.table} WHERE project_id = %(project)s"
        " AND status = 'queued' AND (NOT %(unapproved)s OR (untrusted AND approved_by IS NULL))"
        " AND (trigger->>'pull_request')::bigint = %(pull)s AND (trigger->>'change_id')::bigint < %(before)s"
        " ORDER BY id"
    )
    values = {"project": project_id, "pull": pull_request, "before": before_change, "unapproved": only_unapproved}
    return [(build, job, change) for build, job, change in await fetch_rows(source, query, values)]


async def find_queue_position(source: Source, build_id: int) -> int:
    """Returns the rank of a build in the queue, from 1; 0 if it is not queued, or is already assigned to a node. Builds
    that were moved to the top come first, then builds with higher priority, then older builds.
    """
    query = (
        "SELECT number FROM (SELECT id, row_number() OVER (ORDER BY moved_to_top DESC, priority DESC, id) AS number"
        f" FROM {BuildRow.table} WHERE status = 'queued' AND assigned_at IS NULL) q WHERE id = %(id)s"
    )
    return int(await fetch_value(source, query, {"id": build_id}) or 0)


class CommentView(msgspec.Struct):
    id: int
    build_id: int
    text: str
    author: str
    """Email address of the author."""
    created_at: datetime


async def fetch_comments(source: Source, build_id: int) -> list[CommentView]:
    return await fetch_all(
        source,
        CommentView,
        f"SELECT id, build_id, text, {email_column('c.author')}, created_at"
        f" FROM {CommentRow.table} c WHERE build_id = %(id)s ORDER BY id",
        {"id": build_id},
    )


async def fetch_assigned_ids(source: Source, node_id: int) -> list[int]:
    """Returns the ids of the builds that are assigned to this node, but not started by its agent yet."""
    query = f"SELECT id FROM {BuildRow.table} WHERE node_id = %(node)s AND finished_at IS NULL AND status = 'queued'"
    return await fetch_column(source, query, {"node": node_id})
