"""Syncs a project's jobs with the file `.testhide.yml` of its repository when a push may have changed this file."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.gitops import RecordFailedSync, SyncOvertaken, prepare_sync
from commands.handler import CommandContext, Handler
from commands.pipelines.yaml_nodes import InvalidFile
from domain.changes import ChangeReceived
from domain.core.errors import Rejection, Unavailable
from domain.gitops import FILE_NAME, GITOPS, asks_for_sync
from domain.projects import PROJECT
from domain.scm import SCM_ENDPOINT
from integrations.source_ports import SourceFailure, SourceHosts, SourceNotFound, SourceUnavailable
from projections import jobs, pools
from store.log.event_log import EventLog
from store.log.ids import Ids

log = structlog.get_logger()


@dataclass(frozen=True)
class PipelineSyncer:
    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    ids: Ids
    hosts: SourceHosts
    wait_reached: Callable[[int], Awaitable[bool]]
    """Waits until the read models have reached a position. Returns False if they do not reach it in time."""

    async def sync(self, received: ChangeReceived) -> None:
        """Syncs the jobs with the file at the head of the branch. Does nothing if the change cannot have changed the
        file, or if the last sync was of the pushed commit. If the sync fails, records why.

        Raises SourceUnavailable if a later try may succeed. Raises Unavailable if the read models are behind the log,
        or if another sync ran at the same time.

        A second call for the same change has no effect. The file is read at the head of the branch, not at the pushed
        commit, so that a late try does not restore an older file.
        """
        project_id, branch = received.project_id, received.change.branch
        synced = await self.event_log.load_state(GITOPS.at(project_id))
        project = await self.event_log.load_state(PROJECT.at(project_id))
        if project is None or project.closed or project.scm_endpoint_id is None:
            return
        endpoint = await self.event_log.load_state(SCM_ENDPOINT.at(project.scm_endpoint_id))
        if endpoint is None or not asks_for_sync(received.change, synced, endpoint):
            return
        if synced.problem is None and synced.commit is not None and synced.commit == received.change.commit:
            return  # for another change of this commit
        if not await self.wait_reached(await self.event_log.read_head()):
            raise Unavailable("The read models are behind the log.")
        caller = CommandContext(received.actor, received.correlation_id)
        try:
            commit, content = await self.hosts.open(endpoint).fetch_file(FILE_NAME, branch)
            command = await prepare_sync(
                project_id,
                synced,
                branch,
                commit,
                content,
                find_pool=partial(pools.find_id_by_name, self.pool, project_id),
                fetch_jobs=partial(jobs.fetch_named, self.pool, project_id),
                ids=self.ids,
            )
            await self.handler.execute(command, caller)
        except SourceNotFound as error:
            if synced.commit is not None or FILE_NAME in (received.change.paths or ()):  # else it has no such file
                await self._record(received, str(error), caller)
        except SourceUnavailable as error:
            await self._record(received, str(error), caller)
            raise
        except (SourceFailure, InvalidFile) as error:
            await self._record(received, str(error), caller)
        except SyncOvertaken as overtaken:
            raise Unavailable(overtaken.detail) from None
        except Rejection as refused:
            await self._record(received, refused.detail, caller)

    async def _record(self, received: ChangeReceived, problem: str, caller: CommandContext) -> None:
        log.warning("the jobs of a project cannot follow its file", project=received.project_id, detail=problem)
        change = received.change
        await self.handler.execute(RecordFailedSync(received.project_id, change.branch, change.commit, problem), caller)
