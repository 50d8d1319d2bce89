"""Plans a sync: decides which events make the jobs of a project match its file. No input or output.

A job that the file describes is *managed*, and identified by its name. When the file no longer describes it, the job is
disabled instead of deleted, since its builds would be deleted too. When the file describes the name again, the job is
enabled again, unless a person disabled it.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from domain.core.errors import Conflict
from domain.core.events import Event
from domain.gitops import FILE_NAME, GitopsSynced, SyncedPipelines
from domain.jobs import (
    DEFAULT_TIMEOUT_MINUTES,
    Configuration,
    Job,
    JobConfigured,
    JobCreated,
    JobEvent,
    JobTriggersChanged,
    JobUpdated,
    QuarantineMode,
)
from domain.triggers import Triggers

MAX_DISABLED = 1_000
"""Largest number of jobs that a project remembers as disabled by a sync. Any further job stays disabled even if the
file describes it again.
"""


class PlannedJob(msgspec.Struct, frozen=True):
    """A job as the file describes it, with the id of its pool."""

    title: str
    configuration: Configuration
    """Configuration without the values of secrets."""
    node_pool_id: int | None = None
    pool_labels: dict[str, str] = {}
    required_tags: list[str] = []
    timeout_minutes: int = DEFAULT_TIMEOUT_MINUTES
    max_parallel: int = 1
    repository: str | None = None
    default_branch: str = "main"
    quarantine_mode: QuarantineMode = "run"
    triggers: Triggers = Triggers()
    """Triggers without `needs`, which lists ids of jobs: the ids of new jobs are not known yet."""
    needs: list[str] = []
    """Names of the jobs that must have passed before this job starts."""

    @property
    def settings(self) -> dict[str, object]:
        given = msgspec.structs.asdict(self)
        return {name: value for name, value in given.items() if name not in ("configuration", "triggers", "needs")}


def plan_sync(
    project_id: int,
    branch: str,
    commit: str,
    planned: Sequence[PlannedJob],
    synced: SyncedPipelines,
    stored: Iterable[Job],
    new_ids: Iterator[int],
) -> Iterator[Event]:
    """Yields the events of a sync. Yields none if the last sync succeeded at this commit and the jobs already match the
    file.

    `stored` must have all jobs of the project that have a name from the file or that the last sync knew. Raises
    Conflict if a job with a name from the file is not managed.
    """
    by_id = {job.job_id: job for job in stored if not job.deleted and job.project_id == project_id}
    by_title = {job.title: job for job in by_id.values()}
    _refuse_others(planned, by_id.values())
    jobs: dict[str, int] = {}
    for plan in planned:
        job_id = by_title[plan.title].job_id if plan.title in by_title else next(new_ids, None)
        if job_id is None:
            raise Conflict(f"Job {plan.title!r} was deleted at this moment; try again.")
        jobs[plan.title] = job_id
    disabled: list[int] = []
    events: list[JobEvent] = []
    for plan in planned:
        job, job_id = by_title.get(plan.title), jobs[plan.title]
        triggers = msgspec.structs.replace(plan.triggers, needs=[jobs[name] for name in plan.needs])
        if job is None:
            events.append(JobCreated(job_id=job_id, project_id=project_id, managed=True, **plan.settings))  # type: ignore[arg-type]
            if plan.configuration != Configuration():
                events.append(JobConfigured(job_id=job_id, project_id=project_id, configuration=plan.configuration))
            if triggers != Triggers():
                events.append(JobTriggersChanged(job_id=job_id, project_id=project_id, triggers=triggers))
        else:
            events += _plan_changes(plan, triggers, job, is_back=job_id in synced.disabled)
    for job_id in synced.jobs.values():
        removed = by_id.get(job_id)
        if removed is not None and removed.managed and removed.enabled and job_id not in jobs.values():
            events.append(JobUpdated(job_id=job_id, project_id=project_id, enabled=False))
            disabled.append(job_id)
    is_known = (branch, commit, jobs) == (synced.branch, synced.commit, synced.jobs)
    if not events and is_known and synced.problem is None:
        return
    created, updated, removed_ids = group_changes(events)
    yield from events
    yield GitopsSynced(
        project_id=project_id,
        branch=branch,
        commit=commit,
        jobs=jobs,
        jobs_created=len(created),
        jobs_updated=len(updated),
        jobs_removed=len(removed_ids),
        disabled=[*(job_id for job_id in synced.disabled if job_id not in jobs.values()), *disabled][-MAX_DISABLED:],
    )


def group_changes(events: Iterable[Event]) -> tuple[list[int], list[int], list[int]]:
    """Returns three lists of job ids: the jobs that a sync creates, those that it updates, and those that it
    disables.
    """
    created, updated, removed = dict[int, None](), dict[int, None](), dict[int, None]()
    for event in events:
        match event:
            case JobCreated():
                created[event.job_id] = None
            case JobUpdated(enabled=False):
                removed[event.job_id] = None
            case JobEvent() if event.job_id not in created:
                updated[event.job_id] = None
            case _:
                pass
    return list(created), list(updated), list(removed)


def find_missing_secrets(planned: Iterable[PlannedJob], stored: Iterable[Job]) -> dict[str, list[str]]:
    """Returns job name -> names of the secrets that the job needs and that have no value yet."""
    values = {job.title: job.configuration.secrets for job in stored if not job.deleted}
    missing = {
        job.title: [name for name in job.configuration.needed_secrets if name not in values.get(job.title, {})]
        for job in planned
    }
    return {title: names for title, names in missing.items() if names}


def _plan_changes(plan: PlannedJob, triggers: Triggers, job: Job, *, is_back: bool) -> Iterator[JobEvent]:
    changes = {name: value for name, value in plan.settings.items() if value != getattr(job, name)}
    cleared = tuple(name for name, value in changes.items() if value is None)
    if is_back and not job.enabled:
        changes["enabled"] = True
    if changes:
        yield JobUpdated(job_id=job.job_id, project_id=job.project_id, cleared=cleared, **changes)  # type: ignore[arg-type]
    configuration = msgspec.structs.replace(plan.configuration, secrets=job.configuration.secrets)
    if configuration != job.configuration:
        yield JobConfigured(job_id=job.job_id, project_id=job.project_id, configuration=configuration)
    if triggers != job.triggers:
        yield JobTriggersChanged(job_id=job.job_id, project_id=job.project_id, triggers=triggers)


def _refuse_others(planned: Iterable[PlannedJob], stored: Iterable[Job]) -> None:
    by_title: dict[str, list[Job]] = {}
    for job in stored:
        by_title.setdefault(job.title, []).append(job)
    for plan in planned:
        named = by_title.get(plan.title, [])
        if others := [job.job_id for job in named if not job.managed]:
            raise Conflict(
                f"Job {others[0]} ({plan.title!r}) is not managed by {FILE_NAME}: rename it, or let the file take it"
                f' over by PUT /api/v3/jobs/{others[0]} {{"managed": true}}.'
            )
        if len(named) > 1:
            raise Conflict(
                f"Jobs {named[0].job_id} and {named[1].job_id} are both named {plan.title!r}: delete one of them."
            )
