"""The message of an inbound hook, in a form that is the same for all hosts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from domain.changes import Reporter
from domain.triggers import ChangeKind, RepositoryChange

NO_COMMIT = "0" * 40
"""Commit id that hosts send where there is no commit: before a branch is created, or after it is deleted."""
MAX_PATHS = 3_000
"""Largest number of changed paths that are stored for a change. With more, the change's paths count as unknown."""
MAX_PATH_LENGTH = 4_096
MAX_LINE = 500
"""Largest number of characters that are stored of a commit message's first line and of an author's name. Also the
largest number of characters in the path of a repository, and in the target branch of a pull request.
"""


@dataclass(frozen=True)
class HookMessage:
    """A decoded message: the changes that it reports, or the reason why it reports none."""

    reporter: Reporter
    repository: str = ""
    """Path of the repository, in small letters; empty if the message names none."""
    changes: Sequence[RepositoryChange] = field(default_factory=tuple)
    ignored: str = ""
    """Why the message has no changes, as a sentence; empty if it has changes."""
    is_ping: bool = False


def first_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[0][:MAX_LINE] if lines else ""


def commit_or_none(commit: str | None) -> str | None:
    return None if not commit or not commit.strip("0") else commit


def collect_paths(groups: Iterable[Iterable[str]], *, is_complete: bool) -> list[str] | None:
    """Returns the distinct paths of all groups. Returns None if the changed paths are unknown: the message does not
    list all of them (`is_complete` is False), there are none or more than MAX_PATHS, or one is too long.
    """
    paths = dict.fromkeys(path for group in groups for path in group)
    if not is_complete or not paths or len(paths) > MAX_PATHS or any(len(path) > MAX_PATH_LENGTH for path in paths):
        return None
    return list(paths)


def split_ref(ref: str) -> tuple[ChangeKind, str] | None:
    """Returns (kind, name) for a full ref name such as refs/heads/main; the kind is `push` or `tag`. Returns None for
    any other ref.
    """
    kinds: dict[str, ChangeKind] = {"refs/heads/": "push", "refs/tags/": "tag"}
    for prefix, kind in kinds.items():
        if ref.startswith(prefix):
            return kind, ref.removeprefix(prefix)
    return None
