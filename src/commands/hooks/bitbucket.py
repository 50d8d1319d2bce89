"""Payloads of the hooks of Bitbucket Cloud and of Bitbucket Data Center. Both leave the changed paths out."""

import re
from typing import Literal

import msgspec

from commands.hooks.message import HookMessage, commit_or_none, first_line
from domain.scm import PUBLIC_HOSTS
from domain.triggers import RepositoryChange, find_skip_marker

CLOUD_PULL_REQUESTS = ("pullrequest:created", "pullrequest:updated")
CLOSED_CLOUD_PULL_REQUESTS = ("pullrequest:fulfilled", "pullrequest:rejected")
FULL_IDS = (40, 64)
"""Numbers of digits of whole commit ids: of SHA-1 and of SHA-256."""
SERVER_PULL_REQUESTS = ("pr:opened", "pr:from_ref_updated", "pr:reopened")
CLOSED_SERVER_PULL_REQUESTS = ("pr:merged", "pr:declined", "pr:deleted")


class CloudRepository(msgspec.Struct):
    full_name: str = ""


class CloudAuthor(msgspec.Struct):
    raw: str = ""
    """Name and email address of the author: `Ann <ann@example.com>`."""


class CloudCommit(msgspec.Struct):
    hash: str
    message: str = ""
    author: CloudAuthor = msgspec.field(default_factory=CloudAuthor)


class CloudReference(msgspec.Struct):
    name: str
    type: str
    target: CloudCommit | None = None


class CloudReferenceChange(msgspec.Struct):
    old: CloudReference | None = None
    new: CloudReference | None = None


class CloudChanges(msgspec.Struct):
    changes: list[CloudReferenceChange]


class CloudPush(msgspec.Struct):
    repository: CloudRepository
    push: CloudChanges


class CloudBranch(msgspec.Struct):
    name: str


class CloudSide(msgspec.Struct):
    branch: CloudBranch
    commit: CloudCommit | None = None
    repository: CloudRepository | None = None
    """Repository of the branch; None if it is a fork that was deleted."""


class CloudPullRequest(msgspec.Struct):
    id: int
    source: CloudSide
    destination: CloudSide
    title: str = ""


class CloudPullRequestAction(msgspec.Struct):
    repository: CloudRepository
    pullrequest: CloudPullRequest


class ServerProject(msgspec.Struct):
    key: str


class ServerRepository(msgspec.Struct):
    slug: str
    project: ServerProject
    id: int = 0

    @property
    def path(self) -> str:
        return f"{self.project.key}/{self.slug}".lower()


class ServerReference(msgspec.Struct, rename="camel"):
    display_id: str
    type: str


class ServerReferenceChange(msgspec.Struct, rename="camel"):
    ref: ServerReference
    from_hash: str
    to_hash: str
    type: Literal["ADD", "UPDATE", "DELETE"]


class ServerCommit(msgspec.Struct):
    id: str
    message: str = ""


class ServerPush(msgspec.Struct, rename="camel"):
    repository: ServerRepository
    changes: list[ServerReferenceChange]
    to_commit: ServerCommit | None = None


class ServerSide(msgspec.Struct, rename="camel"):
    display_id: str
    latest_commit: str
    repository: ServerRepository


class ServerPullRequest(msgspec.Struct, rename="camel"):
    id: int
    from_ref: ServerSide
    to_ref: ServerSide
    title: str = ""


class ServerPullRequestAction(msgspec.Struct, rename="camel"):
    pull_request: ServerPullRequest


class CloudOther(msgspec.Struct):
    repository: CloudRepository | None = None


def read_message(event: str, body: bytes) -> HookMessage:
    """Returns the changes that a hook's body reports. `event` is the type of the event, from the request's header.
    Raises msgspec.MsgspecError if the body does not have the expected form.
    """
    if event == "repo:push":
        return _read_cloud_push(msgspec.json.decode(body, type=CloudPush))
    if event == "repo:refs_changed":
        return _read_server_push(msgspec.json.decode(body, type=ServerPush))
    is_closed = event in (*CLOSED_CLOUD_PULL_REQUESTS, *CLOSED_SERVER_PULL_REQUESTS)
    if event in (*CLOUD_PULL_REQUESTS, *CLOSED_CLOUD_PULL_REQUESTS):
        return _read_cloud_pull_request(msgspec.json.decode(body, type=CloudPullRequestAction), is_closed=is_closed)
    if event in (*SERVER_PULL_REQUESTS, *CLOSED_SERVER_PULL_REQUESTS):
        action = msgspec.json.decode(body, type=ServerPullRequestAction)
        return _read_server_pull_request(action.pull_request, is_closed=is_closed)
    if event == "diagnostics:ping":
        return HookMessage("bitbucket", ignored="The hook reaches this server.", is_ping=True)
    other = msgspec.json.decode(body, type=CloudOther)
    repository = (other.repository or CloudRepository()).full_name.lower()
    return HookMessage("bitbucket", repository, ignored=f"Events of the type {event[:100]} start nothing.")


def _read_cloud_push(received: CloudPush) -> HookMessage:
    repository, changes = received.repository.full_name.lower(), list[RepositoryChange]()
    for moved in received.push.changes:
        reference = moved.new or moved.old
        if reference is None or reference.type not in ("branch", "tag"):  # deleted, or a named branch of Mercurial
            continue
        head = (moved.new.target if moved.new else None) or CloudCommit("")
        old = moved.old.target if moved.old else None
        changes.append(
            RepositoryChange(
                "tag" if reference.type == "tag" else "push",
                reference.name,
                commit_or_none(head.hash),
                None if old is None else old.hash,
                first_line(head.message),
                find_skip_marker(head.message),
                first_line(_find_email(head.author.raw)),
                deleted=moved.new is None,
                repository=repository,
            )
        )
    return HookMessage("bitbucket", repository, changes, "" if changes else "The push has no branch or tag.")


def _read_cloud_pull_request(received: CloudPullRequestAction, *, is_closed: bool) -> HookMessage:
    repository, pull = received.repository.full_name.lower(), received.pullrequest
    source, commit = pull.source.repository, pull.source.commit
    is_fork = not repository or source is None or source.full_name.lower() != repository
    if is_fork and not is_closed and (source is None or commit is None):
        ignored = f"The message does not say which commit of which fork pull request {pull.id} is about."
        return HookMessage("bitbucket", repository, ignored=ignored)
    if is_fork and not is_closed and commit is not None and len(commit.hash) not in FULL_IDS:
        # The commit is fetched from the fork, whose owner can make another commit whose id begins alike.
        ignored = (
            f"The message has only {len(commit.hash)} digits of the commit of pull request {pull.id}, which is from a"
            " fork. That does not say for sure which commit is approved."
        )
        return HookMessage("bitbucket", repository, ignored=ignored)
    change = RepositoryChange(
        "pull_request",
        pull.source.branch.name,
        None if commit is None else commit.hash,
        message=first_line(pull.title),
        skip_marker=find_skip_marker(pull.title),
        pull_request=pull.id,
        target=pull.destination.branch.name,
        fork=is_fork,
        fork_repository=source.full_name if is_fork and source else "",
        # Bitbucket Cloud has no refs of pull requests, so the commits are in the fork only.
        head_ref=f"refs/heads/{pull.source.branch.name}" if is_fork else "",
        fork_url=f"https://{PUBLIC_HOSTS['bitbucket']}/{source.full_name}.git" if is_fork and source else "",
        deleted=is_closed,
        repository=repository,
    )
    return HookMessage("bitbucket", repository, (change,))


def _read_server_push(received: ServerPush) -> HookMessage:
    repository, changes = received.repository.path, list[RepositoryChange]()
    for moved in received.changes:
        head = received.to_commit
        message = head.message if head is not None and head.id == moved.to_hash else ""
        changes.append(
            RepositoryChange(
                "tag" if moved.ref.type == "TAG" else "push",
                moved.ref.display_id,
                commit_or_none(moved.to_hash),
                commit_or_none(moved.from_hash),
                first_line(message),
                find_skip_marker(message),
                deleted=moved.type == "DELETE",
                repository=repository,
            )
        )
    return HookMessage("bitbucket", repository, changes, "" if changes else "The push has no branch or tag.")


def _read_server_pull_request(pull: ServerPullRequest, *, is_closed: bool) -> HookMessage:
    repository = pull.to_ref.repository.path
    is_fork = pull.from_ref.repository.path != repository
    change = RepositoryChange(
        "pull_request",
        pull.from_ref.display_id,
        pull.from_ref.latest_commit,
        message=first_line(pull.title),
        skip_marker=find_skip_marker(pull.title),
        pull_request=pull.id,
        target=pull.to_ref.display_id,
        fork=is_fork,
        fork_repository=pull.from_ref.repository.path if is_fork else "",
        head_ref=f"refs/pull-requests/{pull.id}/from" if is_fork else "",
        deleted=is_closed,
        repository=repository,
    )
    return HookMessage("bitbucket", repository, (change,))


def _find_email(raw: str) -> str:
    found = re.search(r"<([^<>]*)>\s*\Z", raw)
    return found[1] if found else raw
