"""Commands on the jobs that a file in a repository describes: sync them, and record that a sync failed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from commands.handler import Command
from commands.jobs import must_serve
from commands.pipelines.planning import PlannedJob, plan_sync
from commands.pipelines.reading import PipelineDocument, read_pipelines
from commands.pipelines.yaml_nodes import InvalidFile
from commands.projects import must_be_open
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from domain.gitops import GITOPS, GitopsSyncFailed, SyncedPipelines, asks_for_sync
from domain.jobs import JOB, Job
from domain.pools import POOL, Pool
from domain.projects import PROJECT, Project
from domain.scm import SCM_ENDPOINT
from domain.templates import overlaid
from domain.triggers import RepositoryChange
from store.log.event_log import EventLog
from store.log.ids import Ids


class SyncOvertaken(Conflict):
    """Another sync of the project has ended since this sync read `.testhide.yml`. The file that this sync has read may
    be outdated, or come from a branch that the project no longer follows.
    """


@dataclass(frozen=True)
class SyncPipelines(Command):
    """Makes the jobs of a project match its file `.testhide.yml`, in one append. From then on the project follows the
    file on `branch`.

    Raises SyncOvertaken if another commit or branch was synced since the file was read.
    """

    project_id: int
    before: SyncedPipelines
    """State of the project's syncs when the file was read."""
    branch: str
    commit: str
    planned: Sequence[PlannedJob]
    found_ids: Sequence[int]
    """Ids of the project's jobs that have a name from the file, as the read model shows them."""
    new_ids: Sequence[int]
    """Ids for the jobs that the file describes and that do not exist yet."""

    def reads(self) -> Sequence[AnyStream]:
        return GITOPS.at(self.project_id), PROJECT.at(self.project_id)

    def then_reads(self, synced: SyncedPipelines, project: Project | None) -> Sequence[AnyStream]:
        jobs = sorted({*self.found_ids, *synced.jobs.values()})
        return *map(JOB.at, jobs), *map(POOL.at, self._pool_ids)

    def decide(self, synced: SyncedPipelines, project: Project | None, *named: Job | Pool | None) -> Iterable[Event]:
        must_be_open(project, self.project_id)
        if (synced.branch, synced.commit) not in ((self.before.branch, self.before.commit), (self.branch, self.commit)):
            raise SyncOvertaken(f"Another sync, of branch {synced.branch}, ended while the file was read; try again.")
        pools = {pool.pool_id: pool for pool in named if isinstance(pool, Pool)}
        for pool_id in self._pool_ids:
            must_serve(pool_id, pools.get(pool_id), self.project_id)
        jobs = [job for job in named if isinstance(job, Job)]
        yield from plan_sync(self.project_id, self.branch, self.commit, self.planned, synced, jobs, iter(self.new_ids))

    @property
    def _pool_ids(self) -> list[int]:
        return sorted({job.node_pool_id for job in self.planned if job.node_pool_id is not None})


@dataclass(frozen=True)
class RecordFailedSync(Command, of=GITOPS):
    project_id: int
    branch: str
    commit: str | None
    problem: str

    def decide(self, synced: SyncedPipelines) -> Iterable[Event]:
        if self.problem != synced.problem:
            yield self.event(GitopsSyncFailed)


async def prepare_sync(
    project_id: int,
    before: SyncedPipelines,
    branch: str,
    commit: str,
    content: bytes,
    *,
    find_pool: Callable[[str], Awaitable[int | None]],
    fetch_jobs: Callable[[list[str]], Awaitable[Mapping[int, str]]],
    ids: Ids | None,
) -> SyncPipelines:
    """Returns the command that syncs a file. Raises InvalidFile for a file with mistakes. `before` is the state of the
    project's syncs when the file was read.

    `find_pool` takes the name of a pool of the project and returns the pool's id; None if there is no such pool.
    `fetch_jobs` takes names and returns id -> name for the project's jobs that have one of these names. Both query the
    read models. `ids` is None for a preview: then new jobs have negative ids, so that no real ids are used up.
    """
    document = await asyncio.to_thread(read_pipelines, content)
    pools = {job.pool: await find_pool(job.pool) for job in document.file.jobs.values() if job.pool is not None}
    planned = plan_jobs(document, {name: pool_id for name, pool_id in pools.items() if pool_id is not None})
    found = await fetch_jobs(list(document.file.jobs))
    count = sum(job.title not in found.values() for job in planned)
    new_ids = [await ids.draw("jobs") for _ in range(count)] if ids is not None else range(-count, 0)
    return SyncPipelines(project_id, before, branch, commit, planned, list(found), new_ids)


def plan_jobs(document: PipelineDocument, pools: Mapping[str, int]) -> list[PlannedJob]:
    """Returns the jobs that a file describes. `pools` maps the names of the project's pools to their ids. Raises
    InvalidFile for a pool that the project does not have.
    """
    file = document.file
    if faults := [
        document.fault("pool", f"{job.pool} is no node pool of the project", "jobs", name)
        for name, job in file.jobs.items()
        if job.pool is not None and job.pool not in pools
    ]:
        raise InvalidFile(faults)
    planned: list[PlannedJob] = []
    for name, job in file.jobs.items():
        template = None if job.template is None else file.templates[job.template]
        configuration = job.configuration if template is None else overlaid(template.configuration, job.configuration)
        needed_secrets = sorted({*job.secrets, *(template.secrets if template is not None else ())})
        planned.append(
            PlannedJob(
                title=name,
                configuration=msgspec.structs.replace(configuration, needed_secrets=needed_secrets),
                node_pool_id=None if job.pool is None else pools[job.pool],
                pool_labels=job.pool_labels,
                required_tags=list(dict.fromkeys(job.required_tags)),
                timeout_minutes=job.timeout_minutes,
                max_parallel=job.max_parallel,
                repository=job.repository,
                default_branch=job.default_branch,
                quarantine_mode=job.quarantine_mode,
                triggers=job.triggers.stored,
                needs=job.needs,
            )
        )
    return planned


async def find_syncing_change(
    log: EventLog, project: Project | None, changes: Iterable[RepositoryChange]
) -> RepositoryChange | None:
    """Returns the first of `changes` after which the project's jobs must be synced with `.testhide.yml`; None if no
    change asks for a sync. `domain.gitops.asks_for_sync` decides about each change.
    """
    if project is None or project.scm_endpoint_id is None:
        return None
    synced = await log.load_state(GITOPS.at(project.project_id))
    endpoint = await log.load_state(SCM_ENDPOINT.at(project.scm_endpoint_id))
    return next((change for change in changes if asks_for_sync(change, synced, endpoint)), None)
