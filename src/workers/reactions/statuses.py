"""Sets the statuses that source code hosts show next to the commits of builds."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.scm import find_build_endpoint, find_project_endpoint
from domain.build_groups import find_worst
from domain.build_reasons import Reason
from domain.builds import (
    BUILD,
    AnyBuild,
    BuildEvent,
    BuildQueued,
    DeletedBuild,
    Finished,
    Running,
    VisibleStatus,
    status_of,
)
from domain.core.errors import Unavailable
from domain.core.events import Recorded
from integrations.source_ports import CommitState, CommitStatus, SourceFailure, SourceHosts, SourceUnavailable
from projections import build_groups
from store.clock import utcnow
from store.log.event_log import EventLog
from workers.reactions.host_calls import HostCalls

log = structlog.get_logger()

MAX_AGE = timedelta(hours=6)
"""Age of an event at which setting the commit status of its build is given up, so that a host that is gone for good
leaves no parked reactions.
"""
FULL_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
WAITS_FOR_APPROVAL = "Waiting for approval: the pull request is from a fork"
REASONS: Mapping[Reason | None, str] = {
    "tests_failed": "Tests failed",
    "reports_unreadable": "A test report cannot be read",
    "selected_tests_not_run": "Selected tests did not run",
    "command_failed": "The command failed",
    "setup_failed": "The setup failed",
    "checkout_failed": "The checkout failed",
    "timeout": "The build took too long",
    "agent_lost": "The agent was lost",
    "not_acknowledged": "No agent took the build",
    "stopped_by_user": "Stopped",
    "agent_stopped": "The agent was stopped",
    "node_removed": "The node was removed",
    "job_deleted": "The job was deleted",
    "pull_request_closed": "The pull request was closed",
}


class LoadedBuild(NamedTuple):
    build: AnyBuild
    group: Sequence[AnyBuild] = ()
    """All builds that count for the status of the build's group; empty for a build that has a separate status."""


@dataclass(frozen=True)
class BuildStates:
    """Loads a build together with all builds that count for the status of its group."""

    events: EventLog
    pool: AsyncConnectionPool
    wait_reached: Callable[[int], Awaitable[bool]]
    """Waits until the read models have reached a position. Returns False if they do not reach it in time."""

    async def load(self, build_id: int) -> LoadedBuild | None:
        """Returns the build with its group; None for an unknown build. Raises Unavailable if the read models are behind
        the log.
        """
        build = await self.events.load_state(BUILD.at(build_id))
        if build is None:
            return None
        queued = build.queued
        if queued.group_id is None or queued.test_ids is not None:
            return LoadedBuild(build)
        if not await self.wait_reached(await self.events.read_head()):
            raise Unavailable("The read models are behind the log.")
        ids = [row.id for row in await build_groups.fetch_counting(self.pool, queued.group_id)]
        states = [await self.events.load_state(BUILD.at(number)) for number in ids]
        return LoadedBuild(build, [state for state in states if state is not None])


async def select_of_repositories(events: Sequence[Recorded], event_log: EventLog) -> list[Recorded]:
    """Returns the events for which there may be statuses to set: events of builds whose projects have an SCM endpoint.
    Also returns events that cannot be read, so that they are parked instead of skipped.
    """
    projects = {recorded.event.project_id for recorded in events if isinstance(recorded.event, BuildEvent)}
    endpoints = await asyncio.gather(*(find_project_endpoint(event_log, project_id) for project_id in projects))
    without = {project_id for project_id, endpoint in zip(projects, endpoints, strict=True) if endpoint is None}
    return [one for one in events if not isinstance(one.event, BuildEvent) or one.event.project_id not in without]


async def set_build_status(
    event: BuildEvent, states: BuildStates, hosts: SourceHosts, calls: HostCalls, base_url: str
) -> None:
    """Sets the status of a build's commit to the current state of the build, or of its group. Raises SourceUnavailable
    or Unavailable if a later try may succeed.

    Several calls may run at once for one build or group. Each call loads the builds again after it has set a status,
    and sets another status if the builds have changed. So the last status that is set always shows the last state.
    """
    if isinstance(event, BuildQueued) and event.group_id not in (None, event.build_id) and event.restarted_from is None:
        return  # the first build of a group speaks for those that were queued with it
    loaded = await states.load(event.build_id)
    shown = None
    while loaded is not None and (status := describe(loaded, base_url)) is not None and status != shown:
        build = loaded.build
        commit = build.commit_sha or build.queued.commit_sha or ""
        endpoint = await find_build_endpoint(states.events, build.queued)
        if endpoint is None or not FULL_ID.fullmatch(commit):
            return
        about = {"build": event.build_id, "scm_endpoint": endpoint.scm_endpoint_id}
        try:
            with calls.call(endpoint.shown_host):
                await hosts.open(endpoint).set_status(commit, status)
        except SourceUnavailable as error:
            if utcnow() - event.at < MAX_AGE:
                raise
            log.warning("the status of a commit is given up", **about, error=str(error))
            return
        except SourceFailure as error:
            log.warning("the status of a commit is refused", **about, error=str(error))
            return
        shown, loaded = status, await states.load(event.build_id)


def describe(loaded: LoadedBuild, base_url: str) -> CommitStatus | None:
    """Returns the commit status for a build or its group; None for a deleted build."""
    queued = loaded.build.queued
    statuses: list[VisibleStatus] = [status for build in loaded.group if (status := status_of(build)) != "deleted"]
    if not statuses or isinstance(loaded.build, DeletedBuild):
        return describe_build(loaded.build, base_url)
    worst = find_worst(statuses)
    what = f"{statuses.count(worst)} of {len(statuses)} builds {worst}"
    if worst == "queued" and any(build.awaits_approval for build in loaded.group):
        what = WAITS_FOR_APPROVAL
    description = f"{what} (group {queued.group_id})"
    link = f"{base_url}/api/v3/build-groups/{queued.group_id}"
    return CommitStatus(worst, name_context(queued), description, link)


def describe_build(build: AnyBuild, base_url: str) -> CommitStatus | None:
    """Returns the commit status for the state of a build; None for a deleted build."""
    state: CommitState
    match build:
        case DeletedBuild():
            return None
        case Running():
            state, description = "running", "Running"
        case Finished():
            state, description = build.status, _describe_end(build)
        case _:
            state, description = "queued", WAITS_FOR_APPROVAL if build.awaits_approval else "Waiting for a node"
    queued = build.queued
    link = f"{base_url}/api/v3/builds/{queued.build_id}"
    return CommitStatus(state, name_context(queued), f"{description} (build {queued.build_id})", link)


def name_context(queued: BuildQueued) -> str:
    """Returns the name of the commit status of a build. The name contains the job's id, since several jobs with one
    repository can have the same title.
    """
    # Separate statuses: otherwise a green build of some tests, or of a fork's pull request with the same commit, could
    # replace the red status of a build of all tests.
    parts = [
        what for what, applies in (("fork", queued.untrusted), ("some tests", queued.test_ids is not None)) if applies
    ]
    return f"testhide/{queued.job_title} #{queued.job_id}" + (f" ({', '.join(parts)})" if parts else "")


def _describe_end(build: Finished) -> str:
    if build.status == "passed":
        return "Passed"
    if build.reason == "tests_failed" and build.failed:
        return "1 test failed" if build.failed == 1 else f"{build.failed} tests failed"
    return REASONS.get(build.reason, build.status.capitalize())
