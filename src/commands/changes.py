"""Commands on changes of repositories: record the changes, and start the builds that the triggers of jobs ask for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from commands.builds import start_build
from commands.handler import Command, CommandContext, Handler
from commands.projects import must_be_open
from commands.triggers import StartBuildForChange
from domain.builds import BuildQueued
from domain.changes import ChangeReceived, Reporter
from domain.claims import CLAIM
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project
from domain.triggers import BuildTrigger, RepositoryChange
from store.crypto.secrets import Secrets
from store.log.ids import Ids


@dataclass(frozen=True)
class ReceiveChanges(Command):
    """Records the changes of a repository that one message reports. `changes` has (id, change) for each of them."""

    project_id: int
    reporter: Reporter
    changes: Sequence[tuple[int, RepositoryChange]]
    delivery_id: str = ""

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECT.at(self.project_id),)

    def decide(self, project: Project | None) -> Iterable[Event]:
        must_be_open(project, self.project_id)
        for change_id, change in self.changes:
            yield self.event(ChangeReceived, change_id=change_id, change=change)


class StartedBuilds(NamedTuple):
    build_ids: dict[int, list[int]]
    """Job id -> ids of the builds that the change started. If an earlier call started them, only the id of the
    first.
    """
    refused: dict[int, str]
    """Job id -> why no build of the job could be started, although its triggers ask for one."""
    position: int | None
    """Position of the last appended event; None if no event was appended."""


async def start_builds(
    handler: Handler,
    ids: Ids,
    secrets: Secrets,
    received: ChangeReceived,
    job_ids: Iterable[int],
    project_repository: str,
    caller: CommandContext,
) -> StartedBuilds:
    """Starts a build of each job in `job_ids` whose triggers ask for one after this change. However often this function
    is called, a change starts a job only once, and so does a commit of a pull request.

    `project_repository` is the address of the repository of the project's SCM endpoint; empty without one.
    """
    change, build_ids, refused, position = received.change, dict[int, list[int]](), dict[int, str](), None
    for job_id in job_ids:
        claim = secrets.claim("change", f"{_identify(received)} {job_id}")
        command = StartBuildForChange(
            await ids.draw("builds"),
            job_id,
            change.branch,
            change.commit,
            trigger=BuildTrigger(change.kind, received.change_id, change.pull_request),
            project_repository=project_repository,
            claim=claim,
            change=change,
        )
        try:
            receipt = await start_build(partial(handler.execute, caller=caller), ids, command)
        except Conflict as error:
            refused[job_id] = error.detail
            continue
        position = receipt.position or position
        if owner := receipt.state(CLAIM.at(claim)).owner:
            queued = [recorded.event for recorded in receipt.events]
            new_ids = [event.build_id for event in queued if isinstance(event, BuildQueued)]
            build_ids[job_id] = new_ids or [int(owner.removeprefix("build-"))]
    return StartedBuilds(build_ids, refused, position)


def _identify(received: ChangeReceived) -> str:
    """Returns a text that identifies a change. All messages about one commit of a pull request have the same text,
    since hosts send such a message again whenever somebody edits the pull request.
    """
    change = received.change
    if change.kind == "pull_request" and change.commit is not None:
        return f"{received.project_id} {change.repository} {change.pull_request} {change.commit}"
    return str(received.change_id)
