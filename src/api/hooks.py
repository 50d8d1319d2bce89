"""Receives reports about changes of repositories: from the hooks of source code hosts, and from `git-notify`.

A hook needs no credentials: its message is signed with the webhook secret of the project. The signature is verified
before any other part of the message is used.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from msgspec import Meta

from api.builds import Commit, Ref
from api.http.authentication import PUBLIC
from api.http.bodies import NUL, check_media_type
from api.http.body_limits import MAX_BODY
from api.http.permissions import CAN_BUILD
from api.http.rate_limits import SIGNED
from api.http.request_context import RequestContext
from api.http.response_headers import REQUEST_ID
from api.http.types import MAX_ID, Id
from commands.changes import ChangeStarter, ReceiveChanges
from commands.gitops import find_syncing_change
from commands.handler import CommandContext
from commands.hooks.message import MAX_LINE, HookMessage, commit_or_none, first_line, split_ref
from commands.hooks.reading import find_delivery_id, read_message
from commands.hooks.signatures import find_refusal, is_signed
from commands.scm import find_project_repository
from domain.changes import ChangeReceived
from domain.core.errors import Invalid, TooLarge, Unauthenticated
from domain.core.events import LoadedState
from domain.gitops import FILE_NAME
from domain.projects import PROJECT, Project
from domain.triggers import RepositoryChange, find_skip_marker
from projections import triggers
from store.clock import utcnow
from store.log.append import AlreadyDone, IdempotencyKey, VersionConflict

MAX_PAYLOAD = 5 * 1024**2
"""Largest size of a message in bytes. Hosts send up to 25 MB, but a push of a thousand commits has less than 1 MB."""
MAX_CHANGES = 200
"""Largest number of branches and tags in one push."""
MAX_PROJECTS = 20
"""Largest number of projects with the same repository whose webhook secrets are tried for one message."""
ACTOR = "system:hook"
RECEIVED_BEFORE = "This message was received before, so it starts nothing more."
NOT_SIGNED = "The message is not signed with the webhook secret of the project, or there is no such project."
NOT_FOUND = (
    "No project is known to build this repository and to have the webhook secret that signed the message: name the"
    " project by ?project_id= or use the URL of the project (webhook_url)."
)
HOOK = {
    **PUBLIC,
    MAX_BODY: MAX_PAYLOAD,
    "content": {"application/json": {"type": "object", "description": "Payload of the host, unchanged"}},
    SIGNED: True,
    "problems": (Unauthenticated, Invalid, TooLarge),
}


class HookAnswer(msgspec.Struct):
    accepted: bool
    """Whether the message reports changes."""
    project_id: int
    branch: str | None
    """First branch or tag that the message reports as changed; null if it reports no change."""
    sync_queued: bool
    """Whether the server reads the project's jobs from `.testhide.yml` again, because a push may have changed this
    file.
    """
    detail: str
    """Sentence that says what the server does because of the message, or why it does nothing."""
    changes: int
    """Number of changes that the message reports. The builds that they trigger start shortly after this answer."""


class NewCommit(msgspec.Struct):
    project_id: Id
    branch: Ref
    """Branch that was pushed, or the full name of a branch or tag: `refs/heads/main`, `refs/tags/v1`."""
    commit_sha: Commit
    """Newest commit. All digits are 0 if the branch or tag was deleted, as in git's hooks: then nothing starts."""
    author: Annotated[str, Meta(max_length=500)] = ""
    """Author of the commit."""
    message: Annotated[str, Meta(max_length=65_536)] = ""
    """Message of the commit. If it contains `[skip ci]`, no build starts."""
    paths: Annotated[list[Annotated[str, Meta(min_length=1, max_length=4_096)]], Meta(max_length=3_000)] | None = None
    """Changed paths; null if they are not known. In that case, the globs of paths in triggers count as matching."""


class RefusedJob(msgspec.Struct):
    job_id: int
    why: str
    """Reason why no build of the job can start, as a sentence."""


class WaitingJob(msgspec.Struct):
    job_id: int
    needs: list[int]
    """Ids of the jobs that this job needs."""


class NotifiedBuilds(msgspec.Struct):
    change_id: int
    """Id of the reported change, which `GET /changes/{change_id}` shows."""
    queued: int
    """Number of builds that were queued."""
    build_ids: list[int]
    """Ids of the builds that were queued."""
    sync_queued: bool
    """Whether the server reads the project's jobs from `.testhide.yml` again, because the push may have changed this
    file. Builds start after that, so the answer lists none; `GET /changes/{change_id}` shows them.
    """
    waiting: list[WaitingJob]
    """Jobs that start for the commit as soon as the jobs that they need have passed for it."""
    refused: list[RefusedJob]
    """Jobs whose triggers ask for a build of the commit, but for which no build can start."""
    detail: str
    """Reason why no build starts; empty if a build starts."""


WITHOUT_CHANGES = {202: ResponseSpec(HookAnswer, description="The message reports no change", generate_examples=False)}


class HookController(Controller):
    path = "/gitops/webhook"
    tags = ["Triggers"]

    @post(status_code=200, opt=HOOK, responses=WITHOUT_CHANGES, request_max_body_size=MAX_PAYLOAD)
    async def receive_hook(
        self,
        ctx: RequestContext,
        request: Request[Any, Any, Any],
        project_id: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Project; else the one that builds the repository")
        ] = None,
    ) -> Response[HookAnswer]:
        """Receives the message of a hook of GitHub, GitLab or Bitbucket, signed with the project's webhook secret.
        Answers 202 to a message that reports no change. If the host sends a message again, nothing starts, and the
        answer says so.
        """
        return await receive(ctx, request, project_id)


class ProjectHookController(Controller):
    path = "/webhook/proj/{project_id:int}"
    tags = ["Triggers"]

    @post(status_code=200, opt=HOOK, responses=WITHOUT_CHANGES, request_max_body_size=MAX_PAYLOAD)
    async def receive_project_hook(
        self, ctx: RequestContext, request: Request[Any, Any, Any], project_id: int
    ) -> Response[HookAnswer]:
        """Receives the message of a hook of GitHub, GitLab or Bitbucket, signed with the webhook secret of the project
        in the path. Answers 202 to a message that reports no change. If the host sends a message again, nothing starts,
        and the answer says so.
        """
        return await receive(ctx, request, project_id)


class ChangeController(Controller):
    path = "/builds/git-notify"
    tags = ["Triggers"]

    @post(status_code=200, guards=[CAN_BUILD])
    async def notify_commit(self, ctx: RequestContext, data: NewCommit) -> NotifiedBuilds:
        """Reports a pushed branch or tag, for hosts without hooks. Starts a build of the commit for each job of the
        project whose triggers match. If the push may have changed `.testhide.yml`, the server first updates the jobs
        from the file; then the builds start shortly after this answer.
        """
        await ctx.must_access(data.project_id)
        change = read_change(data)
        services = ctx.services
        await services.waiting_changes.add(data.project_id, 1)
        change_id = await services.ids.draw("changes")
        receipt = await ctx(ReceiveChanges(data.project_id, "git-notify", ((change_id, change),)))
        project = receipt.state(PROJECT.at(data.project_id))
        if await find_syncing_change(ctx.log, project, [change]):  # a worker syncs, and then starts the builds
            detail = find_skip_reason(change) or describe_sync(change, change_id)
            return NotifiedBuilds(change_id, 0, [], True, [], [], detail)
        received = receipt.events[-1].event
        assert isinstance(received, ChangeReceived)
        repository = await find_project_repository(ctx.log, data.project_id)
        plan = await triggers.plan_starts(ctx.source, data.project_id, change, repository)
        caller = CommandContext(ctx.user.actor, ctx.request.scope["state"][REQUEST_ID], receipt.position)
        starter = ChangeStarter(services.handler, services.ids, services.secrets, received, repository, caller)
        started = await starter.start(plan)
        if started.position is not None:
            await ctx.wait_until_shown(started.position)
        build_ids = sorted(build_id for ids in started.build_ids.values() for build_id in ids)
        refused = [RefusedJob(job_id, why) for job_id, why in started.refused.items()]
        detail = "" if build_ids else find_skip_reason(change) or describe_unwanted(change, bool(refused))
        waiting = [WaitingJob(job_id, needs) for job_id, needs in started.waiting.items()]
        return NotifiedBuilds(change_id, len(build_ids), build_ids, False, waiting, refused, detail)


def read_change(data: NewCommit) -> RepositoryChange:
    """Returns the change that a request reports. Raises Invalid if `branch` is not a valid name of a branch or tag."""
    kind, name = split_ref(data.branch) or ("push", data.branch)
    if name.startswith("refs/") or not is_ref(name):
        raise Invalid.field("branch", "is no branch or tag: send a name such as main, refs/heads/main or refs/tags/v1")
    commit = commit_or_none(data.commit_sha)
    return RepositoryChange(
        kind,
        name,
        commit,
        message=first_line(data.message),
        skip_marker=find_skip_marker(data.message),
        author=data.author,
        paths=data.paths,
        fast_forward=data.paths is not None,
        deleted=commit is None,
    )


def is_ref(name: str) -> bool:
    try:
        msgspec.convert(name, Ref)
    except msgspec.ValidationError:
        return False
    return True


async def receive(ctx: RequestContext, request: Request[Any, Any, Any], project_id: int | None) -> Response[HookAnswer]:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if refusal := find_refusal(headers):
        raise Unauthenticated(refusal)
    check_media_type(headers.get("content-type"))
    body = await request.body()
    loaded = await find_signer(ctx, headers, body, project_id)
    project = loaded.state
    await ctx.services.rate_limits.count_verified(request, project.project_id)
    message = read_message(headers, body)
    if not message.changes:
        answer = HookAnswer(False, project.project_id, None, False, message.ignored, 0)
        return Response(answer, status_code=200 if message.is_ping else 202)
    check_changes(message, body)
    await ctx.services.waiting_changes.add(project.project_id, len(message.changes))
    numbered = [(await ctx.services.ids.draw("changes"), change) for change in message.changes]
    delivery_id = find_delivery_id(headers)
    once = make_key(project.project_id, message.reporter, delivery_id) if delivery_id else None
    command = ReceiveChanges(project.project_id, message.reporter, numbered, delivery_id, loaded)
    syncing, detail = None, RECEIVED_BEFORE
    try:
        try:
            receipt = await ctx.execute_unseen(command, actor=ACTOR, once=once)
        except VersionConflict:  # the project has changed since it was loaded
            receipt = await ctx.execute_unseen(dataclasses.replace(command, loaded=None), actor=ACTOR, once=once)
        position = receipt.position
        syncing = await find_syncing_change(ctx.log, receipt.state(PROJECT.at(project.project_id)), message.changes)
        detail = describe_changes(numbered, syncing)
    except AlreadyDone:  # the host did not get the first answer, or somebody asked it to send the message again
        position = await ctx.services.log.read_head()
    request.state.position = position
    first, count = message.changes[0], len(message.changes)
    return Response(HookAnswer(True, project.project_id, first.branch, syncing is not None, detail, count))


async def find_signer(
    ctx: RequestContext, headers: Mapping[str, str], body: bytes, project_id: int | None
) -> LoadedState[Project]:
    """Returns the project whose webhook secret signed the message. Without `project_id`, tries at most MAX_PROJECTS
    projects that build the repository named in the message. Raises Unauthenticated if the message is not signed with
    the secret of one of these projects.
    """
    if project_id is not None:
        project_ids = [project_id]
    else:
        repository = read_message(headers, body).repository
        project_ids = (
            await triggers.find_projects_of_repository(ctx.source, repository, MAX_PROJECTS) if repository else []
        )
    now = utcnow()
    for candidate in project_ids:
        # Read from the log, since read models may lag behind a rotation, which ends the old secret at once.
        loaded = await ctx.log.load_at_version(PROJECT.at(candidate))
        project = loaded.state
        if project is not None and not project.deleted and project.sealed_webhook_secret:
            secret = ctx.services.secrets.unseal(project.sealed_webhook_secret)
            if is_signed(headers, body, secret, now):
                return LoadedState(loaded.stream, loaded.version, project, loaded.position)
    raise Unauthenticated(NOT_SIGNED if project_id is not None else NOT_FOUND)


def check_changes(message: HookMessage, body: bytes) -> None:
    """Raises Invalid if the message has too many changes, or a name that git does not allow. Also raises Invalid for a
    text that is too long to be stored with each change.
    """
    if b"\\u0000" in body:
        raise Invalid.field("body", NUL)
    if len(message.changes) > MAX_CHANGES:
        raise Invalid(
            f"The push changes more than {MAX_CHANGES} branches and tags: report those to build by git-notify."
        )
    for change in message.changes:
        if change.branch.startswith("refs/") and not change.fork:  # git could take it for another reference
            raise Invalid(f"The branch or tag {change.branch[:100]!r} must not begin with refs/: rename it.")
        if change.pull_request is not None and not 0 < change.pull_request <= MAX_ID:
            raise Invalid("The number of the pull request is out of range.")
        if any(len(text) > MAX_LINE for text in (change.repository, change.fork_repository, change.target)):
            raise Invalid(
                f"The path of a repository, or the target of a pull request, has more than {MAX_LINE} characters."
            )
        try:
            msgspec.convert(change.branch, Ref)
            for commit in (change.commit, change.before):
                if commit is not None:
                    msgspec.convert(commit, Commit)
        except msgspec.ValidationError:
            raise Invalid(
                f"The branch, tag or commit {change.branch[:100]!r} has a name that git does not allow."
            ) from None


def find_skip_reason(change: RepositoryChange) -> str | None:
    """Returns a sentence that says why a change starts no build, such as a deleted branch. Returns None if the
    project's triggers decide whether it starts one.
    """
    if change.deleted:
        if change.kind == "pull_request":
            return f"{change.end.capitalize()}, so nothing starts, and its queued builds end."
        return f"{change.branch} was deleted, so nothing starts."
    if change.skip_marker:
        return f"The {change.skipping_text} says {change.skip_marker}, so nothing starts."
    return None


def describe_unwanted(change: RepositoryChange, is_refused: bool) -> str:
    if is_refused:
        return "The jobs that should have a build can have none: see `refused`."
    kind = "tag" if change.kind == "tag" else "branch"
    return f"No enabled job of the project has triggers that want a build of {kind} {change.branch}."


def describe_changes(numbered: Sequence[tuple[int, RepositoryChange]], syncing: RepositoryChange | None) -> str:
    """Returns a sentence that says what the server does because of the changes in `numbered`, each of which comes with
    its id. `syncing` is the change that makes the server read the project's jobs again; None if there is none.
    """
    (first_id, first), *more = numbered
    if not (first.deleted and more) and (reason := find_skip_reason(first)) is not None:
        return reason
    if first.fork:
        return "The pull request comes from a fork. Builds of jobs with `fork_pull_requests` wait for an approval."
    if syncing is not None:
        return describe_sync(syncing, next(change_id for change_id, change in numbered if change is syncing))
    which = "these changes start" if more else "it starts"
    return f"The triggers of the project's jobs decide which builds {which}: see GET /changes/{first_id}."


def describe_sync(change: RepositoryChange, change_id: int) -> str:
    return (
        f"The push may have changed {FILE_NAME}, so the jobs of the project are synced with it first. Builds are queued"
        f" when the sync of {change.branch} has ended: see GET /changes/{change_id}."
    )


def make_key(project_id: int, reporter: str, delivery_id: str) -> IdempotencyKey:
    """Returns the idempotency key of a message, which is stored with the message's events. The key does not depend on
    the body, because a host may send the same message again with another body.
    """
    scope = hashlib.sha256(f"hook\0{project_id}\0{reporter}\0{delivery_id}".encode()).digest()
    return IdempotencyKey(scope, scope)
