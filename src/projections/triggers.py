"""Read model of the jobs' triggers. It answers which jobs a change of a repository starts, and which jobs have time
tables.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from domain.core.events import UNSTAMPED, Recorded, copy_fields
from domain.globs import MAX_STEPS, StepBudget
from domain.jobs import JobCreated, JobDeleted, JobTriggersChanged, JobUpdated
from domain.triggers import RepositoryChange, Triggers, evaluate, find_repository_path, may_be_repository
from projections.engine.model import Change, Delete, Projection, Row, Rows, Table, row_of
from projections.engine.queries import fetch_all, find_row
from projections.scm import ScmEndpointRow
from store.postgres.queries import Source, fetch_rows

VERSION = 1
MAX_STEPS_OF_CHANGE = 20 * MAX_STEPS
"""Largest number of steps for comparing one change with the globs of all jobs of its project. After that, globs count
as matching. No wrong build starts, since the command that starts a build compares the globs of its job again.
"""


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
    """Time from which the job's time tables start builds. Earlier times do not count."""

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
            "starts_by_changes": bool(triggers.branches or triggers.tags or triggers.pull_requests),
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


async def find_started_jobs(
    source: Source, project_id: int, change: RepositoryChange, project_repository: str
) -> list[TriggerRow]:
    """Returns the rows of the project's jobs that a change starts. Compares their triggers on a thread, which can take
    some seconds.

    `project_repository` is the address of the repository that jobs use if they name none; empty if the project has
    none.
    """
    query = f"SELECT * FROM {TriggerRow.table} WHERE project_id = %(project)s AND starts_by_changes ORDER BY job_id"
    rows = await fetch_all(source, TriggerRow, query, {"project": project_id})
    return await asyncio.to_thread(_select_started, rows, change, find_repository_path(project_repository))


def _select_started(rows: Sequence[TriggerRow], change: RepositoryChange, project_path: str) -> list[TriggerRow]:
    started, left = list[TriggerRow](), MAX_STEPS_OF_CHANGE
    for row in rows:
        allowed = min(left, MAX_STEPS)
        budget = StepBudget(allowed)
        if row.enabled and evaluate(change, row.settings, row.repository or project_path, budget).starts:
            started.append(row)
        left -= allowed - budget.left
    return started


async def fetch_scheduled(source: Source) -> list[TriggerRow]:
    """Returns the rows of the enabled jobs that have time tables."""
    return await fetch_all(
        source, TriggerRow, f"SELECT * FROM {TriggerRow.table} WHERE enabled AND starts_by_time ORDER BY job_id", {}
    )


async def find_projects_of_repository(source: Source, path: str, limit: int) -> list[int]:
    """Returns the ids of up to `limit` projects that have jobs for the repository with this path, or an SCM endpoint
    for it. Projects in which the path is exactly the same come first.
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
