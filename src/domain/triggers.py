"""Triggers: the changes of a repository, and the times, that start builds of a job.

`evaluate` says whether a change starts a job, and why. It is pure, so that the explanation that users ask for and the
decision that starts builds are the same.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from domain.globs import StepBudget, TooManySteps, find_match

ChangeKind = Literal["push", "tag", "pull_request"]
TriggerKind = Literal["push", "tag", "pull_request", "schedule"]
SKIP_MARKER = re.compile(r"\[(?:skip ci|ci skip|no ci)\]", re.IGNORECASE)
FORK = "the pull request comes from a fork, and the job's triggers have no fork_pull_requests"
MAX_NAMED = 5
"""Largest number of globs that one sentence lists."""


class CronTrigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """A time table: a cron expression, the time zone in which it is read, and the branch to build."""

    expression: str
    timezone: str = "UTC"
    branch: str | None = None
    """Branch to build; None for the job's default branch."""


class Triggers(msgspec.Struct, frozen=True, omit_defaults=True):
    branches: list[str] = []
    """Globs of the branches whose pushes start the job."""
    tags: list[str] = []
    """Globs of the tags that start the job."""
    paths: list[str] = []
    """Globs of paths. A push or pull request starts the job only if it changes a path that the globs select. If there
    are no globs, the changed paths do not matter.
    """
    pull_requests: bool = False
    """Whether pull requests from branches of the repository start the job."""
    fork_pull_requests: bool = False
    """Whether pull requests from forks start the job."""
    cron: list[CronTrigger] = []
    cancel_superseded: bool = False
    """Whether a new change of a branch ends the queued builds of older changes of this branch."""
    needs: list[int] = []
    """Ids of the jobs that must have passed for a change before the job's build of this change starts."""

    @property
    def names_changes(self) -> bool:
        return bool(self.branches or self.tags or self.pull_requests or self.fork_pull_requests)

    @property
    def starts_by_changes(self) -> bool:
        return self.names_changes or bool(self.needs)

    @property
    def only_follows(self) -> bool:
        """Whether the job needs other jobs and has no triggers for changes itself. Every change that starts all these
        other jobs then also starts this job, after them.
        """
        return bool(self.needs) and not self.names_changes


class RepositoryChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of a repository: a pushed branch, a tag, or the commits of a pull request."""

    kind: ChangeKind = "push"
    branch: str = ""
    """Branch or tag; for a pull request, the branch that it comes from."""
    commit: str | None = None
    """The newest commit; None if it was not reported."""
    before: str | None = None
    """The commit before the change; None for a new branch."""
    message: str = ""
    """First line of the newest commit's message."""
    skip_marker: str = ""
    """Text in the message that asks for no builds, such as `[skip ci]`."""
    author: str = ""
    paths: list[str] | None = None
    """Changed paths; None if not all changed paths are known."""
    paths_unknown: str = ""
    """If the reported paths were dropped, so that `paths` is None: a sentence that says why. Empty if no paths were
    dropped.
    """
    fast_forward: bool = False
    """Whether the report says that the push has dropped no commit of the branch. If False, `paths` may lack files that
    dropped commits had changed.
    """
    pull_request: int | None = None
    target: str = ""
    """Branch into which the pull request is to be merged."""
    fork: bool = False
    """Whether anybody may have written the commits: the pull request comes from another repository, or from a ref to
    which readers may push.
    """
    fork_repository: str = ""
    """Path of the repository that a pull request from a fork comes from; empty if the host does not say it."""
    head_ref: str = ""
    """Full name of the ref from which to fetch the commits of a pull request from a fork."""
    fork_url: str = ""
    """Address of the repository that has `head_ref`; empty if this is the repository that the pull request is for."""
    deleted: bool = False
    """Whether the branch or tag was deleted, or the pull request closed or merged."""
    repository: str = ""
    """Path of the repository, as `find_repository_path` returns it; empty if it is not known."""

    @property
    def may_lack_paths(self) -> bool:
        """Whether `paths` may lack files that dropped commits had changed, since the report does not say if commits
        were dropped. False for a new branch, which had no commits before.
        """
        return self.paths is not None and not self.fast_forward and self.before is not None

    @property
    def end(self) -> str:
        """Sentence without a full stop that says how a change with `deleted` ended: `branch main was deleted`."""
        if self.kind == "pull_request":
            return f"pull request {self.pull_request} was closed"
        return f"{_kind_of_ref(self)} {self.branch} was deleted"

    @property
    def skipping_text(self) -> str:
        """Description of the text that contained `skip_marker`, such as "commit message"."""
        return "pull request's title or commit message" if self.kind == "pull_request" else "commit message"


def without_paths(change: RepositoryChange, why: str) -> RepositoryChange:
    """Returns the change with unknown paths, for the reason `why`."""
    return msgspec.structs.replace(change, paths=None, paths_unknown=why)


class BuildTrigger(msgspec.Struct, frozen=True):
    """The change or the scheduled time that started a build."""

    kind: TriggerKind
    """Kind of the change, or `schedule` for a time table."""
    change_id: int | None = None
    """Id of the change that started the build; None if a time table started it."""
    pull_request: int | None = None
    """Number of the pull request whose commit is built; None for other kinds."""
    scheduled_at: datetime | None = None
    """Time at which a time table was to start the build; None if a change started it."""
    fork: bool = False
    """Whether the pull request comes from a fork."""
    after: list[int] = []
    """Ids of the builds that had to pass first: for the same change, the builds of the jobs that this job needs."""

    @property
    def is_change(self) -> bool:
        return self.kind != "schedule"


class Evaluation(NamedTuple):
    starts: bool
    why: str
    """The reason as a sentence that begins with a small letter and has no full stop."""


def find_skip_marker(message: str) -> str:
    """Returns the text in a commit message that asks for no builds, such as `[skip ci]`; empty if the message has no
    such text.
    """
    found = SKIP_MARKER.search(message)
    return found[0] if found else ""


def find_repository_path(address: str) -> str:
    """Returns the path in a repository's address, in small letters: `acme/web` for https://github.com/acme/web.git."""
    without_host = re.sub(r"^[A-Za-z+]+://[^/]*/|^[^/@]+@[^/:]+:", "", address.strip())
    return without_host.strip("/").removesuffix(".git").removeprefix("scm/").lower()


def may_be_repository(address_path: str, path: str) -> bool:
    """Returns whether an address with the path `address_path` may lead to the repository that a host calls `path`.
    `address_path` may have folders before `path`, since some hosts serve their repositories below a folder. True if one
    of the two paths is empty, that is, unknown.
    """
    return not path or not address_path or f"/{address_path}".endswith(f"/{path}")


def evaluate(
    change: RepositoryChange, triggers: Triggers, repository: str = "", budget: StepBudget | None = None
) -> Evaluation:
    """Returns whether the change starts a job with these triggers, and why. The jobs that the job needs are considered
    by `domain.needs`, not here. `repository` is the path of the job's repository; empty if the job has none. `budget`
    limits the comparisons of paths; None for a new budget.
    """
    budget = budget or StepBudget()
    if not may_be_repository(repository, change.repository):
        return _refuse(f"the job builds {repository}, not {change.repository}")
    if change.deleted:
        return _refuse(change.end)
    if change.skip_marker:
        return Evaluation(False, f"skipped: the {change.skipping_text} says {change.skip_marker}")
    if triggers.only_follows:
        return _refuse(FORK) if change.fork else _start("it follows the jobs that it needs")
    if change.kind == "pull_request":
        return _evaluate_pull_request(change, triggers, budget)
    is_tag = change.kind == "tag"
    globs, kind = (triggers.tags, "tag") if is_tag else (triggers.branches, "branch")
    if not globs:
        return _refuse(f"the job has no globs of {'tags' if is_tag else 'branches'}")
    if (matching := find_match(globs, change.branch)) is None:
        return _refuse(f"{kind} {change.branch} matches {_none_of(globs)}")
    because = f"{kind} {change.branch} matches {matching}"
    # A tag names a commit that was pushed before, so nobody says which paths it changed.
    return _start(because) if is_tag else _evaluate_paths(change, triggers, because, budget)


def _evaluate_pull_request(change: RepositoryChange, triggers: Triggers, budget: StepBudget) -> Evaluation:
    if not change.fork:
        if not triggers.pull_requests:
            return _refuse("the job's triggers leave pull requests out")
        return _evaluate_paths(change, triggers, f"pull request {change.pull_request} changed", budget)
    if not triggers.fork_pull_requests:
        return _refuse(FORK)
    found = _evaluate_paths(change, triggers, f"pull request {change.pull_request} from a fork changed", budget)
    return found._replace(why=f"{found.why}; the build waits for an approval") if found.starts else found


def _evaluate_paths(change: RepositoryChange, triggers: Triggers, because: str, budget: StepBudget) -> Evaluation:
    if not triggers.paths:
        return _start(because)
    if change.paths is None:
        return _start(
            f"{because}, and the changed paths are not all known, so that the globs of paths count as matching"
        )
    try:
        for path in change.paths:
            if (matching := find_match(triggers.paths, path, budget)) is not None:
                return _start(f"{because} and path {path} matches {matching}")
    except TooManySteps:
        return _start(
            f"{because}, and the changed paths are too many to compare them with the globs of paths, so that these"
            " count as matching"
        )
    return _refuse(f"no changed path matches {_any_of(triggers.paths)}")


def _start(because: str) -> Evaluation:
    return Evaluation(True, f"would start because {because}")


def _refuse(why: str) -> Evaluation:
    return Evaluation(False, f"does not start: {why}")


def _kind_of_ref(change: RepositoryChange) -> str:
    return "tag" if change.kind == "tag" else "branch"


def _none_of(globs: Sequence[str]) -> str:
    return f"{'none of ' if len(globs) > 1 else 'not '}{_listed(globs)}"


def _any_of(globs: Sequence[str]) -> str:
    return f"{'any of ' if len(globs) > 1 else ''}{_listed(globs)}"


def _listed(globs: Sequence[str]) -> str:
    more = f" and {len(globs) - MAX_NAMED} more" if len(globs) > MAX_NAMED else ""
    return ", ".join(globs[:MAX_NAMED]) + more
