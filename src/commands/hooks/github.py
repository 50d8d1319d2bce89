"""Payloads of GitHub's hooks. Gitea and Forgejo send the same payloads. Only fields that the server uses are
declared.
"""

from typing import Any

import msgspec

from commands.hooks.message import HookMessage, collect_paths, commit_or_none, first_line, split_ref
from domain.triggers import RepositoryChange, find_skip_marker

MAX_COMMITS = 2_048
"""Largest number of commits that GitHub lists in a push."""
MAX_FILES = 3_000
"""Largest number of files that GitHub lists in a commit."""
STARTING_ACTIONS = ("opened", "reopened", "synchronize", "synchronized", "ready_for_review")
"""Actions of a pull request that may bring commits for which no build was started. `synchronized` is Gitea's name for
`synchronize`.
"""


class GitHubHookRepository(msgspec.Struct):
    full_name: str = ""


class GitHubAuthor(msgspec.Struct):
    name: str | None = None
    email: str | None = None


class GitHubCommit(msgspec.Struct):
    message: str = ""
    author: GitHubAuthor = msgspec.field(default_factory=GitHubAuthor)
    added: list[str] = []
    removed: list[str] = []
    modified: list[str] = []


class GitHubPush(msgspec.Struct):
    ref: str
    repository: GitHubHookRepository = msgspec.field(default_factory=GitHubHookRepository)
    before: str | None = None
    after: str | None = None
    deleted: bool = False
    forced: bool | None = None
    """Whether the push dropped commits; None from Gitea and Forgejo, which do not say so."""
    commits: list[GitHubCommit] = []
    total_commits: int | None = None
    """Number of pushed commits, from Gitea and Forgejo; None from GitHub. Gitea and Forgejo list only the newest of the
    commits, by default five.
    """
    head_commit: GitHubCommit | None = None


class GitHubCreated(msgspec.Struct):
    ref: str
    ref_type: str
    repository: GitHubHookRepository = msgspec.field(default_factory=GitHubHookRepository)


class GitHubHead(msgspec.Struct):
    ref: str
    sha: str
    repo: GitHubHookRepository | None = None
    """Repository that the head commit is in; None if the fork was deleted."""


class GitHubLogin(msgspec.Struct):
    login: str = ""


class GitHubPullRequest(msgspec.Struct):
    head: GitHubHead
    base: GitHubHead
    title: str = ""
    user: GitHubLogin | None = None


class GitHubPullRequestAction(msgspec.Struct):
    action: str
    number: int
    pull_request: GitHubPullRequest
    repository: GitHubHookRepository = msgspec.field(default_factory=GitHubHookRepository)


class GitHubOther(msgspec.Struct):
    repository: GitHubHookRepository | None = None


def read_message(event: str, body: bytes) -> HookMessage:
    """Returns the changes that a hook's body reports. `event` is the type of the event, from the request's header.
    Raises msgspec.MsgspecError if the body does not have the expected form.
    """
    match event:
        case "push":
            return _read_push(msgspec.json.decode(body, type=GitHubPush))
        case "pull_request":
            return _read_pull_request(msgspec.json.decode(body, type=GitHubPullRequestAction))
        case "create":
            made = msgspec.json.decode(body, type=GitHubCreated)
            ignored = f"The new {made.ref_type} {made.ref} starts builds by the push event that GitHub sends besides."
            return HookMessage("github", made.repository.full_name.lower(), ignored=ignored)
        case _:
            other = msgspec.json.decode(body, type=GitHubOther)
            repository = (other.repository or GitHubHookRepository()).full_name.lower()
            if event == "ping":
                return HookMessage("github", repository, ignored="The hook reaches this server.", is_ping=True)
            return HookMessage("github", repository, ignored=f"Events of the type {event[:100]} start nothing.")


def _read_push(push: GitHubPush) -> HookMessage:
    repository = push.repository.full_name.lower()
    if (split := split_ref(push.ref)) is None:
        return HookMessage("github", repository, ignored=f"{push.ref[:200]} is neither a branch nor a tag.")
    head = push.head_commit or GitHubCommit()
    files = [(*commit.added, *commit.removed, *commit.modified) for commit in push.commits]
    change = RepositoryChange(
        split[0],
        split[1],
        commit_or_none(push.after),
        commit_or_none(push.before),
        first_line(head.message),
        find_skip_marker(head.message),
        first_line(head.author.email or head.author.name),
        collect_paths(files, is_complete=_lists_all_commits(push) and all(len(one) < MAX_FILES for one in files)),
        fast_forward=push.forced is False,
        deleted=push.deleted or _is_zero(push.after),
        repository=repository,
    )
    return HookMessage("github", repository, (change,))


def _lists_all_commits(push: GitHubPush) -> bool:
    if push.forced is not None:
        return not push.forced and len(push.commits) < MAX_COMMITS
    # For a new branch, Gitea and Forgejo list its last ten commits, whichever of them are new.
    is_new = commit_or_none(push.before) is None
    return not is_new and push.total_commits is not None and push.total_commits <= len(push.commits)


def _read_pull_request(received: GitHubPullRequestAction) -> HookMessage:
    repository, pull = received.repository.full_name.lower(), received.pull_request
    is_closed = received.action == "closed"
    if received.action not in STARTING_ACTIONS and not is_closed:
        ignored = f"The action {received.action[:100]} of a pull request starts nothing."
        return HookMessage("github", repository, ignored=ignored)
    is_fork = _is_from_fork(pull.head, repository)
    change = RepositoryChange(
        "pull_request",
        pull.head.ref,
        pull.head.sha,
        message=first_line(pull.title),
        skip_marker=find_skip_marker(pull.title),
        author=first_line(pull.user.login if pull.user else ""),
        pull_request=received.number,
        target=pull.base.ref,
        fork=is_fork,
        fork_repository=pull.head.repo.full_name if is_fork and pull.head.repo else "",
        head_ref=f"refs/pull/{received.number}/head" if is_fork else "",
        deleted=is_closed,
        repository=repository,
    )
    return HookMessage("github", repository, (change,))


def _is_from_fork(head: GitHubHead, repository: str) -> bool:
    """Returns whether a pull request may come from somebody who cannot write to the repository. At Gitea and Forgejo,
    people with read access can open a pull request without a fork, by a push to `refs/for/main`. The head of such a
    pull request is `refs/pull/5/head` of the repository itself, and not a branch.
    """
    from_here = head.repo is not None and head.repo.full_name.lower() == repository
    return not repository or not from_here or head.ref.startswith("refs/")


def _is_zero(commit: Any) -> bool:
    return bool(commit) and not commit.strip("0")
