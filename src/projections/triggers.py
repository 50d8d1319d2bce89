"""Read model of jobs' triggers. Queries find the jobs that a change of a repository starts, and the jobs that have time
tables.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from domain.core.events import UNSTAMPED, Recorded, copy_fields
from domain.jobs import JobCreated, JobDeleted, JobTriggersChanged, JobUpdated
from domain.needs import StartPlan, decide_starts, evaluate_jobs
from domain.triggers import RepositoryChange, Triggers, find_repository_path, may_be_repository
from projections.engine.model import Change, Delete, Projection, Row, Rows, Table, row_of
from projections.engine.queries import fetch_all, fetch_column, find_row
from projections.scm import ScmEndpointRow
from store.postgres.queries import Source, fetch_rows

VERSION = 1


class TriggerRow(Row, frozen=True):
    table = Table(
        "job_triggers",
        VERSION,
        key=("job_id",),
        indexes=(
            "(project_id) WHERE starts_by_changes",
            "(job_id) WHERE enabled AND starts_by_time",
            "(repository_name) WHERE repository_name <> ''",
        ),
    )
    job_id: int
    project_id: int
    enabled: bool
    repository: str
    """Path of the repository as its host names it, in lower case (`acme/web`); empty for a job without a repository."""
    repository_name: str
    """Last part of the path in `repository` (`web`)."""
    triggers: dict[str, Any] = {}
    starts_by_changes: bool = False
    starts_by_time: bool = False
    scheduled_since: datetime = UNSTAMPED
    """Last time at which the job was enabled or got other triggers. The job's time tables start no builds for earlier
    times.
    """

    @property
    def settings(self) -> Triggers:
        return msgspec.convert(self.triggers, Triggers)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case JobCreated():
            yield copy_fields(TriggerRow, event, enabled=True, **_repository_columns(event.repository))
        case JobDeleted():
            yield Delete(TriggerRow, event.job_id)
        case JobUpdated() | JobTriggersChanged():
            job = rows.get(TriggerRow, event.job_id)
            if job is not None:
                yield msgspec.structs.replace(job, **_changes(event))


def _changes(event: JobUpdated | JobTriggersChanged) -> dict[str, Any]:
    if isinstance(event, JobTriggersChanged):
        triggers = event.triggers
        return {
            "triggers": msgspec.to_builtins(triggers),
            "starts_by_changes": triggers.starts_by_changes,
            "starts_by_time": bool(triggers.cron),
            "scheduled_since": event.at,
        }
    changes: dict[str, Any] = {}
    if event.enabled is not None:
        changes["enabled"] = event.enabled
    if event.enabled:
        changes["scheduled_since"] = event.at
    if event.repository is not None or "repository" in event.cleared:
        changes |= _repository_columns(event.repository)
    return changes


def _repository_columns(repository: str | None) -> dict[str, str]:
    path = find_repository_path(repository or "")
    return {"repository": path, "repository_name": path.rpartition("/")[2]}


PROJECTION = Projection(
    "triggers",
    VERSION,
    (TriggerRow,),
    row_of(TriggerRow, "job_id", JobUpdated, JobTriggersChanged),
    apply,
    handles=(JobCreated, JobUpdated, JobTriggersChanged, JobDeleted),
)


async def find(source: Source, job_id: int) -> TriggerRow | None:
    return await find_row(source, TriggerRow, job_id)


async def plan_starts(
    source: Source,
    project_id: int,
    change: RepositoryChange,
    project_repository: str,
    unchanged_since: datetime | None = None,
) -> StartPlan:
    """Returns which of the project's jobs a change starts. Compares the change with the jobs' triggers on a thread,
    since this can take some seconds.

    `project_repository` is the address of the project's repository, which is used for jobs that name no repository. It
    is empty if the project has none. With `unchanged_since`, leaves out jobs that were enabled or got other triggers
    after this time.
    """
    query = f"SELECT * FROM {TriggerRow.table} WHERE project_id = %(project)s AND starts_by_changes ORDER BY job_id"
    rows = await fetch_all(source, TriggerRow, query, {"project": project_id})
    if unchanged_since is not None:
        rows = [row for row in rows if row.scheduled_since <= unchanged_since]
    return await asyncio.to_thread(_plan_starts, rows, change, find_repository_path(project_repository))


def _plan_starts(rows: Sequence[TriggerRow], change: RepositoryChange, project_path: str) -> StartPlan:
    jobs = {row.job_id: (row.settings, row.repository or project_path) for row in rows if row.enabled}
    candidates = evaluate_jobs(change, jobs)
    decided = decide_starts(candidates)
    started = {job_id: triggers for job_id, (triggers, _) in jobs.items() if decided[job_id].starts}

    def is_expected(job_id: int) -> bool:
        # If the change starts none of the jobs that a job follows, the job has nothing to do with the change.
        triggers, _ = jobs[job_id]
        is_asked_for = not triggers.only_follows or not started.keys().isdisjoint(triggers.needs)
        return is_asked_for and candidates[job_id].evaluation.starts

    return StartPlan(
        at_once=[job_id for job_id, triggers in started.items() if not triggers.needs],
        deferred={job_id: triggers.needs for job_id, triggers in started.items() if triggers.needs},
        left_out={
            job_id: f"The job {decided[job_id].why}."
            for job_id in jobs
            if job_id not in started and is_expected(job_id)
        },
        superseding=frozenset(job_id for job_id, triggers in started.items() if triggers.cancel_superseded),
    )


async def find_dependents(source: Source, project_id: int, job_id: int) -> list[int]:
    """Returns the ids of the project's jobs that have the job `job_id` in their `needs`."""
    query = (
        f"SELECT job_id FROM {TriggerRow.table} WHERE project_id = %(project)s AND starts_by_changes"
        " AND triggers->'needs' @> %(job)s ORDER BY job_id"
    )
    return await fetch_column(source, query, {"project": project_id, "job": Jsonb([job_id])})


async def fetch_scheduled(source: Source) -> list[TriggerRow]:
    """Returns the rows of enabled jobs that have time tables."""
    return await fetch_all(
        source, TriggerRow, f"SELECT * FROM {TriggerRow.table} WHERE enabled AND starts_by_time ORDER BY job_id", {}
    )


async def find_projects_of_repository(source: Source, path: str, limit: int) -> list[int]:
    """Returns the ids of up to `limit` projects that have jobs or an SCM endpoint for the repository with this path.
    Projects whose jobs or endpoint have exactly this path come first.
    """
    name = path.rpartition("/")[2]
    if not name:
        return []
    query = (
        f"SELECT project_id, repository FROM {TriggerRow.table} WHERE repository_name = %(name)s"
        f" UNION SELECT project_id, repo FROM {ScmEndpointRow.table} WHERE position(%(name)s IN lower(repo)) > 0"
    )
    rows = await fetch_rows(source, query, {"name": name})
    paths = [(project_id, find_repository_path(repo)) for project_id, repo in rows]
    found = sorted((found != path, project_id) for project_id, found in paths if may_be_repository(found, path))
    return list(dict.fromkeys(project_id for _, project_id in found))[:limit]
