"""Payloads of GitLab's hooks. Only fields that the server uses are declared."""

import msgspec

from commands.hooks.message import HookMessage, collect_paths, commit_or_none, first_line, split_ref
from domain.triggers import RepositoryChange, find_skip_marker

STARTING_ACTIONS = ("open", "reopen")
CLOSING_ACTIONS = ("close", "merge")


class GitLabProject(msgspec.Struct):
    path_with_namespace: str = ""


class GitLabAuthor(msgspec.Struct):
    name: str | None = None
    email: str | None = None


class GitLabCommit(msgspec.Struct):
    id: str
    message: str = ""
    author: GitLabAuthor = msgspec.field(default_factory=GitLabAuthor)
    added: list[str] = []
    removed: list[str] = []
    modified: list[str] = []


class GitLabPush(msgspec.Struct):
    ref: str
    project: GitLabProject
    before: str | None = None
    after: str | None = None
    checkout_sha: str | None = None
    """Id of the pushed commit. For an annotated tag, `after` is the id of the tag object instead."""
    commits: list[GitLabCommit] = []
    total_commits_count: int = 0


class GitLabMergeRequest(msgspec.Struct):
    iid: int
    source_branch: str
    target_branch: str
    source_project_id: int | None
    target_project_id: int
    last_commit: GitLabCommit
    source: GitLabProject | None = None
    """Project that the merge request comes from; None if this project was deleted."""
    title: str = ""
    action: str | None = None
    oldrev: str | None = None
    """Id of the previous head commit, if the merge request got new commits; otherwise None."""


class GitLabMergeRequestAction(msgspec.Struct):
    project: GitLabProject
    object_attributes: GitLabMergeRequest


class GitLabOther(msgspec.Struct):
    project: GitLabProject | None = None


def read_message(event: str, body: bytes) -> HookMessage:
    """Returns the changes that a hook's body reports. `event` is the type of the event, from the request's header.
    Raises msgspec.MsgspecError if the body does not have the expected form.
    """
    match event:
        case "Push Hook" | "Tag Push Hook":
            return _read_push(msgspec.json.decode(body, type=GitLabPush))
        case "Merge Request Hook":
            return _read_merge_request(msgspec.json.decode(body, type=GitLabMergeRequestAction))
        case _:
            other = msgspec.json.decode(body, type=GitLabOther)
            repository = (other.project or GitLabProject()).path_with_namespace.lower()
            return HookMessage("gitlab", repository, ignored=f"Events of the type {event[:100]} start nothing.")


def _read_push(push: GitLabPush) -> HookMessage:
    repository = push.project.path_with_namespace.lower()
    if (split := split_ref(push.ref)) is None:
        return HookMessage("gitlab", repository, ignored=f"{push.ref[:200]} is neither a branch nor a tag.")
    commit = commit_or_none(push.checkout_sha) or commit_or_none(push.after)
    head = next((one for one in push.commits if one.id == commit), GitLabCommit(""))
    files = [(*one.added, *one.removed, *one.modified) for one in push.commits]
    change = RepositoryChange(
        split[0],
        split[1],
        commit,
        commit_or_none(push.before),
        first_line(head.message),
        find_skip_marker(head.message),
        first_line(head.author.email or head.author.name),
        collect_paths(files, is_complete=push.total_commits_count <= len(files)),
        deleted=commit is None,
        repository=repository,
    )
    return HookMessage("gitlab", repository, (change,))


def _read_merge_request(received: GitLabMergeRequestAction) -> HookMessage:
    repository, request = received.project.path_with_namespace.lower(), received.object_attributes
    is_closed = request.action in CLOSING_ACTIONS
    is_new = request.action in STARTING_ACTIONS or (request.action == "update" and request.oldrev)
    if not is_new and not is_closed:
        ignored = (
            f"The action {(request.action or 'none')[:100]} of a merge request starts nothing without new commits."
        )
        return HookMessage("gitlab", repository, ignored=ignored)
    head, is_fork = request.last_commit, request.source_project_id != request.target_project_id
    change = RepositoryChange(
        "pull_request",
        request.source_branch,
        head.id,
        message=first_line(head.message),
        skip_marker=find_skip_marker(head.message) or find_skip_marker(request.title),
        author=first_line(head.author.email or head.author.name),
        pull_request=request.iid,
        target=request.target_branch,
        fork=is_fork,
        fork_repository=request.source.path_with_namespace if is_fork and request.source else "",
        head_ref=f"refs/merge-requests/{request.iid}/head" if is_fork else "",
        deleted=is_closed,
        repository=repository,
    )
    return HookMessage("gitlab", repository, (change,))
