"""Read model of jobs and their configurations. It has the names of secrets; their values are only in the job's
stream.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Unpack

import msgspec
from cachetools import LRUCache
from psycopg_pool import AsyncConnectionPool

from domain.build_groups import WORST_FIRST
from domain.builds import VisibleStatus
from domain.core.events import Recorded, copy_fields
from domain.jobs import Configuration, JobConfigured, JobCreated, JobDeleted, JobUpdated, QuarantineMode
from projections.builds import BuildRow
from projections.engine.model import Change, Delete, Projection, Row, Rows, Table, changed_columns, row_of
from projections.engine.queries import Window, fetch_all, fetch_column, fetch_one, find_row
from store.postgres.queries import Source, fetch_rows

VERSION = 3
JOBS_CACHED = 10_000
"""Number of jobs for which a process caches the project."""


class JobRow(Row, frozen=True):
    table = Table("jobs", VERSION, indexes=("(project_id, id)", "(pipeline_template_id)"))
    id: int
    project_id: int
    name: str
    enabled: bool
    node_pool_id: int | None
    timeout_minutes: int
    max_parallel: int
    repository: str | None
    default_branch: str
    pipeline_template_id: int | None
    created_at: datetime
    required_tags: list[str] = []
    pool_labels: dict[str, str] = {}
    quarantine_mode: str = "run"
    managed: bool = False
    """Whether a file in the repository describes the job."""


class ConfigurationRow(Row, frozen=True):
    table = Table("job_configurations", VERSION, key=("job_id",))
    job_id: int
    setup: list[str]
    command: str
    env: dict[str, str]
    artifacts: list[str]
    secrets: list[str]
    """Names of the secrets."""
    updated_at: datetime
    shell: str | None = None
    checkout: dict[str, Any] | None = None
    caches: list[dict[str, Any]] = []
    matrix: dict[str, Any] | None = None


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case JobCreated():
            yield copy_fields(JobRow, event, id=event.job_id, name=event.title, enabled=True, created_at=event.at)
        case JobUpdated():
            job = rows.get(JobRow, event.job_id)
            if job is not None:
                yield msgspec.structs.replace(job, **changed_columns(job, event))
        case JobConfigured():
            yield copy_fields(
                ConfigurationRow,
                event.configuration,
                job_id=event.job_id,
                updated_at=event.at,
                matrix=msgspec.to_builtins(event.configuration.matrix),
                **columns_of_configuration(event.configuration),
            )
        case JobDeleted():
            yield Delete(JobRow, event.job_id)
            yield Delete(ConfigurationRow, event.job_id)


def columns_of_configuration(configuration: Configuration) -> dict[str, Any]:
    """Returns column -> value for the columns that differ from the fields of a configuration: secrets are stored as
    names, structs as JSON.
    """
    checkout, caches = msgspec.to_builtins([configuration.checkout, configuration.caches])
    return {"secrets": sorted(configuration.secrets), "checkout": checkout, "caches": caches}


PROJECTION = Projection(
    "jobs",
    VERSION,
    (JobRow, ConfigurationRow),
    row_of(JobRow, "job_id", JobUpdated),
    apply,
    handles=(JobCreated, JobUpdated, JobConfigured, JobDeleted),
)


class JobDetail(msgspec.Struct, frozen=True):
    """A job and its newest builds."""

    id: int
    name: str
    project_id: int
    enabled: bool
    node_pool_id: int | None
    timeout_minutes: int
    max_parallel: int
    repository: str | None
    default_branch: str
    pipeline_template_id: int | None
    created_at: datetime
    required_tags: list[str]
    pool_labels: dict[str, str]
    quarantine_mode: QuarantineMode
    managed: bool
    """Whether the file `.testhide.yml` of the repository describes the job."""
    last_build_id: int | None = None
    """Id of the newest build."""
    last_build_status: VisibleStatus | None = None
    """Status of the newest build."""
    last_full_build_id: int | None = None
    """Id of the newest build that runs all tests, not only selected ones."""
    last_full_build_status: VisibleStatus | None = None
    """Status of the newest build that runs all tests. If this build is in a group, the status of the group: the worst
    status of its combinations.
    """


async def find(source: Source, job_id: int) -> JobRow | None:
    return await find_row(source, JobRow, job_id)


class ProjectOfJob:
    """Finds the project of a job. Caches the answers, since a job never changes its project."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._known: LRUCache[int, int] = LRUCache(JOBS_CACHED)

    async def __call__(self, job_id: int) -> int | None:
        """Returns the id of the job's project; None for an unknown job. For a deleted job it may still return the
        project from the cache.
        """
        if (project_id := self._known.get(job_id)) is not None:
            return project_id
        job = await find_row(self._pool, JobRow, job_id)
        if job is not None:
            self._known[job_id] = job.project_id
        return None if job is None else job.project_id


async def find_detail(source: Source, job_id: int) -> JobDetail | None:
    newest = f"SELECT id, status, group_id FROM {BuildRow.table} WHERE job_id = j.id"
    of_group = (
        f"SELECT status FROM (SELECT DISTINCT ON (matrix) status FROM {BuildRow.table} WHERE group_id = f.group_id"
        " AND selected_tests IS NULL ORDER BY matrix, id DESC) counting"
        " ORDER BY array_position(%(worst_first)s, status) LIMIT 1"
    )
    return await fetch_one(
        source,
        JobDetail,
        "SELECT j.id, j.name, j.project_id, j.enabled, j.node_pool_id, j.timeout_minutes, j.max_parallel,"
        " j.repository, j.default_branch, j.pipeline_template_id, j.created_at,"
        " j.required_tags, j.pool_labels, j.quarantine_mode, j.managed, b.id, b.status, f.id,"
        f" CASE WHEN f.group_id IS NULL THEN f.status ELSE ({of_group}) END"
        f" FROM {JobRow.table} j LEFT JOIN LATERAL ({newest} ORDER BY id DESC LIMIT 1) b ON true"
        f" LEFT JOIN LATERAL ({newest} AND selected_tests IS NULL ORDER BY id DESC LIMIT 1) f ON true"
        " WHERE j.id = %(id)s",
        {"id": job_id, "worst_first": list(WORST_FIRST)},
    )


async def find_configuration(source: Source, job_id: int) -> ConfigurationRow | None:
    """Returns the job's configuration; None if nobody has configured the job."""
    return await find_row(source, ConfigurationRow, job_id)


async def fetch_named(source: Source, project_id: int, names: Sequence[str]) -> dict[int, str]:
    """Returns id -> name for the project's jobs that have one of these names."""
    query = f"SELECT id, name FROM {JobRow.table} WHERE project_id = %(project)s AND name = ANY (%(names)s)"
    return dict(await fetch_rows(source, query, {"project": project_id, "names": list(names)}))


async def fetch_names(source: Source, job_ids: Sequence[int]) -> dict[int, str]:
    """Returns id -> name of these jobs. Leaves out ids without a job."""
    query = f"SELECT id, name FROM {JobRow.table} WHERE id = ANY (%(ids)s)"
    return dict(await fetch_rows(source, query, {"ids": list(job_ids)}))


async def fetch_ids(source: Source, project_id: int) -> list[int]:
    query = f"SELECT id FROM {JobRow.table} WHERE project_id = %(project)s ORDER BY id"
    return await fetch_column(source, query, {"project": project_id})


async def fetch_page(
    source: Source,
    *,
    projects: Sequence[int] | None,
    project_id: int | None,
    search: str | None,
    enabled: bool | None,
    **window: Unpack[Window],
) -> list[JobRow]:
    """Returns a page of the jobs of `projects` (None: of all projects), ordered by id. `search` limits the page to jobs
    whose name contains this text, ignoring case.
    """
    return await fetch_all(
        source,
        JobRow,
        f"SELECT * FROM {JobRow.table} WHERE id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s::bigint[]))"
        " AND (%(project)s::bigint IS NULL OR project_id = %(project)s)"
        " AND (%(search)s::text IS NULL OR position(lower(%(search)s) IN lower(name)) > 0)"
        " AND (%(enabled)s::bool IS NULL OR enabled = %(enabled)s)"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {
            "projects": None if projects is None else list(projects),
            "project": project_id,
            "search": search,
            "enabled": enabled,
            **window,
        },
    )
