"""Sets the statuses that source code hosts show next to the commits of builds."""

import re
from collections.abc import Mapping
from datetime import timedelta

import structlog

from commands.scm import find_build_endpoint
from domain.builds import BUILD, AnyBuild, BuildEvent, DeletedBuild, Finished, Reason, Running
from integrations.source_ports import CommitState, CommitStatus, SourceFailure, SourceHosts, SourceUnavailable
from store.clock import utcnow
from store.log.event_log import EventLog
from workers.reactions.host_calls import HostCalls

log = structlog.get_logger()

MAX_AGE = timedelta(hours=6)
"""Age of an event from which its status is given up, so that a host that is gone for good leaves nothing parked."""
FULL_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
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
}


async def set_build_status(
    event: BuildEvent, events: EventLog, hosts: SourceHosts, calls: HostCalls, base_url: str
) -> None:
    """Sets the status of a build's commit to the build's present state. Raises SourceUnavailable if a later try may
    succeed.

    Several calls for one build may run at once. Each reads the build again after it has set a status, so that the last
    status always shows the last state.
    """
    build = await events.load_state(BUILD.at(event.build_id))
    shown = None
    while build is not None and (status := describe_build(build, base_url)) is not None and status != shown:
        commit = build.commit_sha or build.queued.commit_sha or ""
        endpoint = await find_build_endpoint(events, build.queued)
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
        shown, build = status, await events.load_state(BUILD.at(event.build_id))


def describe_build(build: AnyBuild, base_url: str) -> CommitStatus | None:
    """Returns the status that stands for the state of a build; None for a deleted build."""
    state: CommitState
    match build:
        case DeletedBuild():
            return None
        case Running():
            state, description = "running", "Running"
        case Finished():
            state, description = build.status, _describe_end(build)
        case _:
            state, description = "queued", "Waiting for a node"
    queued = build.queued
    link = f"{base_url}/api/v3/builds/{queued.build_id}"
    # A build of some tests has a status of its own: it would turn the failure of all tests green.
    context = f"testhide/{queued.job_title}" + ("" if queued.test_ids is None else " (some tests)")
    return CommitStatus(state, context, f"{description} (build {queued.build_id})", link)


def _describe_end(build: Finished) -> str:
    if build.status == "passed":
        return "Passed"
    if build.reason == "tests_failed" and build.failed:
        return "1 test failed" if build.failed == 1 else f"{build.failed} tests failed"
    return REASONS.get(build.reason, build.status.capitalize())
