"""Starts builds for the changes that repositories report, and ends queued builds of older changes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import structlog
from psycopg_pool import AsyncConnectionPool

from commands.build_actions import SupersedeBuild
from commands.changes import ChangeStarter, DropPaths
from commands.gitops import find_syncing_change
from commands.handler import CommandContext, Handler
from commands.scm import find_project_endpoint, find_project_repository
from domain.builds import BUILD, BuildFinished
from domain.changes import CHANGE, ChangeReceived, find_overtaking, is_newer
from domain.core.errors import Unavailable
from domain.core.events import Recorded
from domain.jobs import JOB
from domain.needs import StartPlan
from domain.projects import PROJECT
from domain.triggers import find_repository_path, may_be_repository, without_paths
from integrations.source_ports import SourceFailure, SourceHosts
from projections import build_groups, builds, triggers
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.log.ids import Ids

log = structlog.get_logger()

MAX_LOOKED_AT = 100
"""Number of the newest commits of a branch among which the worker looks for the head that the branch had before a push.
A longer search would gain nothing: a host lists some 20 commits of a push at most, so the changed paths of a push with
more commits are unknown anyway.
"""

MAX_DETAIL = 300
"""Largest number of characters of a host's error message that are stored with a change."""

LOOKED_UP_AT_ONCE = 1_000
"""Number of changes that one query looks up in the search for newer changes of a pull request."""

ORDERED_CHANGES = 1_000
"""Number of the newest changes of all projects among which the worker finds out that the message about a push came
late. Of changes that are older, the one received later counts as newer.
"""
ORDERED_BYTES = 8 * 1024 * 1024
"""Size in bytes of these changes at which the worker reads no more of them. A few pushes may list very many paths."""


@dataclass(frozen=True)
class ChangeEvaluator:
    """Evaluates a change of a project's repository: starts the builds of the jobs that the change triggers. Evaluating
    the same change again starts no second build.
    """

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    ids: Ids
    secrets: Secrets
    hosts: SourceHosts
    wait_reached: Callable[[int], Awaitable[bool]]
    """Waits until the read models have reached a position. Returns False if they do not reach it in time."""

    async def evaluate(self, received: ChangeReceived) -> None:
        # Triggers that were set before the change count, and those that the sync before this call has just set.
        await self._wait(await self.event_log.read_head())
        change = received.change
        starter, plan = await self._plan(received)
        started = await starter.start(plan)
        for job_id, why in started.refused.items():
            log.warning("a change cannot start a build", change=received.change_id, job=job_id, detail=why)
        superseding = [job_id for job_id in plan.superseding if job_id in started.build_ids]
        # Nobody needs to approve an older commit of a fork any more.
        outdating = [job_id for job_id in started.build_ids if received.change.fork and job_id not in superseding]
        if superseding or change.fork or started.waiting:
            # Of two processes that start builds at once, the one that appends later sees both builds.
            await self._wait(await self.event_log.read_head())
        await self._supersede(superseding, starter.caller)
        await self._supersede(outdating, starter.caller, only_unapproved=True)
        # The needed jobs may have passed before, for an earlier message about the same commit of a pull request.
        await self._start_ready(starter, started.waiting)
        await self._end_older(received)

    async def select(self, events: Sequence[Recorded]) -> list[Recorded]:
        """Returns the events after which deferred jobs may start: ends of passed builds that a change started. Also
        returns events that cannot be read, so that they are parked instead of skipped.
        """
        # All at once, so that few queries load their builds.
        changes = await asyncio.gather(
            *(self._find_change(one.event) for one in events if isinstance(one.event, BuildFinished))
        )
        found = iter(changes)
        return [one for one in events if not isinstance(one.event, BuildFinished) or next(found) is not None]

    async def continue_after(self, finished: BuildFinished) -> None:
        """Starts the deferred jobs that waited for the job of a passed build. A deferred job starts only when all other
        jobs that it needs have passed for the change too. Calling this again starts no second build.
        """
        change_id = await self._find_change(finished)
        received = None if change_id is None else await self.event_log.load_state(CHANGE.at(change_id))
        if received is None:
            return
        starter = await self._starter(received)
        deferrals = await starter.load_deferrals(self.event_log)
        waiting = {job_id: needs for job_id, needs in deferrals.needs.items() if finished.job_id in needs}
        if waiting:
            await self._wait(await self.event_log.read_head())
            await self._start_ready(starter, waiting)
            await self._end_older(received)

    async def _plan(self, received: ChangeReceived) -> tuple[ChangeStarter, StartPlan]:
        """Returns the starter for the builds of a change, and the plan, which says which jobs the change starts. If a
        push may have dropped commits, the files of these commits are unknown, so all globs of paths count as matching.
        """
        starter, project_id, change = await self._starter(received), received.project_id, received.change
        # The request that reported the change has started its builds, unless it left them to the sync, or was cut off.
        is_evaluated = received.reporter == "git-notify" and not await find_syncing_change(
            self.event_log, await self.event_log.load_state(PROJECT.at(project_id)), [change]
        )
        since = received.at if is_evaluated else None
        plan = await triggers.plan_starts(self.pool, project_id, change, starter.project_repository, since)
        if change.may_lack_paths:
            unknown = without_paths(change, "")
            wider = await triggers.plan_starts(self.pool, project_id, unknown, starter.project_repository, since)
            if wider != plan and (why := await self._find_doubt(received)):
                await self.handler.execute(DropPaths(received.change_id, why), starter.caller)
                return replace(starter, received=msgspec.structs.replace(received, change=unknown)), wider
        return starter, plan

    async def _find_doubt(self, received: ChangeReceived) -> str:
        """Asks the host whether a pushed branch still contains the commit that was its head before the push. Returns an
        empty text if it does; otherwise a sentence that says why the push may have dropped commits.
        """
        change = received.change
        endpoint = await find_project_endpoint(self.event_log, received.project_id)
        if endpoint is None or not may_be_repository(find_repository_path(endpoint.repo), change.repository):
            return "No SCM endpoint of the project says whether the push has dropped commits."
        try:
            commits = await self.hosts.open(endpoint).fetch_commits(change.branch, MAX_LOOKED_AT)
        except SourceFailure as error:
            log.warning("no host says whether a push has dropped commits", change=received.change_id, detail=str(error))
            return f"The host does not say whether the push has dropped commits: {str(error)[:MAX_DETAIL]}"
        newest_first = [commit.sha for commit in commits]
        # The branch may have moved on since this push.
        at = newest_first.index(change.commit) if change.commit in newest_first else len(newest_first)
        if change.before in newest_first[at:]:
            return ""
        return (
            f"The commit before the push, {change.before}, is not among the newest {MAX_LOOKED_AT} of the branch, so"
            " the push may have dropped commits."
        )

    async def _find_change(self, finished: BuildFinished) -> int | None:
        """Returns the id of the change that started a build which has passed. For a restart, this is the change of the
        original build. Returns None if the build has not passed or ran only some tests, or if no change started it.
        """
        found = await self.event_log.load_state(BUILD.at(finished.build_id)) if finished.status == "passed" else None
        if found is not None and found.queued.test_ids is not None:
            return None
        while found is not None and found.queued.restarted_from is not None:
            found = await self.event_log.load_state(BUILD.at(found.queued.restarted_from))
        trigger = None if found is None else found.queued.trigger
        return None if trigger is None else trigger.change_id

    async def _start_ready(self, starter: ChangeStarter, waiting: Mapping[int, Sequence[int]]) -> None:
        for job_id, needs in waiting.items():
            after: list[int] = []
            commit = None
            for need in needs:
                first_id = await starter.find_first_build(self.event_log, need)
                rows = [] if first_id is None else await build_groups.fetch_last_runs(self.pool, first_id)
                if not rows or any(row.status != "passed" for row in rows):
                    break
                after += [row.id for row in rows]
                commit = commit or rows[0].commit_sha
            else:
                await starter.start_deferred(job_id, after, commit)
                job = await self.event_log.load_state(JOB.at(job_id))
                is_cancelling = job is not None and job.triggers.cancel_superseded
                if is_cancelling or starter.received.change.fork:
                    await self._wait(await self.event_log.read_head())
                    await self._supersede([job_id], starter.caller, only_unapproved=not is_cancelling)

    async def _supersede(
        self, job_ids: Sequence[int], caller: CommandContext, *, only_unapproved: bool = False
    ) -> None:
        """Ends each queued build of these jobs if a newer change of its branch has started another build of its job.
        With `only_unapproved`, ends only builds that wait for an approval.
        """
        rivals = await builds.find_rivals(self.pool, job_ids) if job_ids else []
        if not rivals:
            return
        overtaking = find_overtaking(await self._read_newest())
        for build in rivals:
            if newer := [other for other in build.others if is_newer(other, build.change_id, overtaking)]:
                await self.handler.execute(SupersedeBuild(build.build_id, max(newer), only_unapproved), caller)

    async def _read_newest(self) -> list[ChangeReceived]:
        """Returns the newest changes of all projects in the log: ORDERED_CHANGES of them, or fewer if these have more
        than ORDERED_BYTES.
        """
        last, head = await self.ids.find_last("changes"), await self.event_log.read_head()
        streams = [CHANGE.at(change_id).name for change_id in range(max(1, last - ORDERED_CHANGES + 1), last + 1)]
        positions = await self.event_log.find_positions(streams, head, [ChangeReceived.name])
        found, size = list[ChangeReceived](), 0
        async for piece in self.event_log.read_pieces(sorted(positions, reverse=True)):
            found += [recorded.event for recorded in piece.events if isinstance(recorded.event, ChangeReceived)]
            size += sum(piece.sizes)
            if size >= ORDERED_BYTES:
                break
        return found

    async def _end_older(self, received: ChangeReceived) -> None:
        """Ends the queued builds that the newest change of the same pull request makes useless. The newest change may
        have been evaluated before the change `received` started its builds, so that the evaluation could not end them.
        """
        newest = await self._find_newest(received)
        if newest.change_id != received.change_id:
            # A change that comes after this look at the log finds the builds when it is evaluated itself.
            await self._wait(await self.event_log.read_head())
        await self._end_unapproved(newest)
        await self._end_closed(newest)

    async def _find_newest(self, received: ChangeReceived) -> ChangeReceived:
        """Returns the newest change in the log that is of the same pull request as `received`. Returns `received`
        itself if it is of no pull request.
        """
        if received.change.pull_request is None:
            return received
        pull_request, head = _identify_pull_request(received), await self.event_log.read_head()
        newer = range(await self.ids.find_last("changes"), received.change_id, -1)
        for start in range(0, len(newer), LOOKED_UP_AT_ONCE):
            streams = [CHANGE.at(change_id).name for change_id in newer[start : start + LOOKED_UP_AT_ONCE]]
            found: list[ChangeReceived] = []
            positions = await self.event_log.find_positions(streams, head, [ChangeReceived.name])
            async for piece in self.event_log.read_pieces(positions):
                events = [recorded.event for recorded in piece.events]
                changes = [event for event in events if isinstance(event, ChangeReceived)]
                found += [change for change in changes if _identify_pull_request(change) == pull_request]
            if found:
                return max(found, key=lambda change: change.change_id)
        return received

    async def _end_unapproved(self, newest: ChangeReceived) -> None:
        """Ends builds that wait for an approval, if they are of older commits of a fork's pull request. Does so even if
        the newest commit starts no build: somebody who has read the newest commit must not approve an older one by
        mistake.
        """
        change = newest.change
        if not change.fork or change.deleted:
            return
        caller = CommandContext(newest.actor, newest.correlation_id)
        for build_id, _, older in await self._find_queued(newest, only_unapproved=True):
            if older.change.commit != change.commit:
                await self.handler.execute(SupersedeBuild(build_id, newest.change_id, only_unapproved=True), caller)

    async def _end_closed(self, newest: ChangeReceived) -> None:
        """Ends those builds of a closed pull request that are still queued."""
        if newest.change.deleted:
            for build_id, job_id, older in await self._find_queued(newest, only_unapproved=False):
                await (await self._starter(older)).end_build(build_id, job_id, newest.change_id)

    async def _find_queued(
        self, newest: ChangeReceived, *, only_unapproved: bool
    ) -> list[tuple[int, int, ChangeReceived]]:
        """Returns (build id, job id, change) of the queued builds that older changes of the pull request started. With
        `only_unapproved`, returns only builds that wait for an approval.
        """
        found: list[tuple[int, int, ChangeReceived]] = []
        if newest.change.pull_request is not None:
            pull_request = (newest.project_id, newest.change.pull_request, newest.change_id)
            for build_id, job_id, change_id in await builds.find_queued_of_pull_request(
                self.pool, *pull_request, only_unapproved=only_unapproved
            ):
                older = await self.event_log.load_state(CHANGE.at(change_id))
                if older is not None and _identify_pull_request(older) == _identify_pull_request(newest):
                    found.append((build_id, job_id, older))
        return found

    async def _starter(self, received: ChangeReceived) -> ChangeStarter:
        repository = await find_project_repository(self.event_log, received.project_id)
        caller = CommandContext(received.actor, received.correlation_id)
        return ChangeStarter(self.handler, self.ids, self.secrets, received, repository, caller)

    async def _wait(self, position: int) -> None:
        """Waits until the read models have reached a position. Raises Unavailable if they do not reach it in time."""
        if not await self.wait_reached(position):
            raise Unavailable("The read models are behind the log.")


def _identify_pull_request(received: ChangeReceived) -> tuple[int, str, int | None]:
    return received.project_id, received.change.repository, received.change.pull_request
