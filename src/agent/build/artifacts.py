"""Finds the files that match a job's globs, and opens them without following links out of the workspace."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

_WILDCARDS = frozenset("*?[")


class UnusablePath(Exception):
    """A file or pattern cannot be collected; the message says why."""


def find_files(workspace: str, pattern: str) -> list[str]:
    """Return the paths of the files that match a pattern, sorted and relative to the workspace. If a folder matches,
    return all files below it.

    Raises `UnusablePath` for a pattern that leads out of the workspace or that no file name can match.
    """
    if os.path.isabs(pattern):
        raise UnusablePath("it must be relative to the workspace")
    segments = [segment for segment in pattern.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise UnusablePath("it must not contain ..")
    if not segments or "\0" in pattern:
        raise UnusablePath("it names nothing")
    return sorted(set(_match(workspace, "", segments)))


def open_inside(workspace: str, path: str, owner: int | None) -> BinaryIO:
    """Open a regular file of the workspace. Raises `UnusablePath` if something else is at this path, such as a device
    or a link out of the workspace.

    `owner` is the id of the user that builds run as, or None if builds run as the agent's user. The file must belong to
    `owner`: otherwise a build could make a hard link to a file that only the agent can read, and let the agent read it.
    """
    root = os.path.realpath(workspace)
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer.
        fd = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UnusablePath(os.strerror(error.errno or 0)) from None
    objection = _find_objection(fd, root, owner)
    if objection:
        os.close(fd)
        raise UnusablePath(objection)
    return os.fdopen(fd, "rb")


def _find_objection(fd: int, root: str, owner: int | None) -> str | None:
    """Return the reason to refuse an open file, or None. Checks the open file and not its path, since the build could
    put another file at the path between check and open.
    """
    found = os.fstat(fd)
    real = os.readlink(f"/proc/self/fd/{fd}")
    if not real.startswith(root + "/") or (owner is not None and found.st_uid != owner):
        return "it leads out of the workspace"
    return None if stat.S_ISREG(found.st_mode) else "it is not a regular file"


def _match(workspace: str, folder: str, segments: list[str]) -> Iterator[str]:
    first, rest = segments[0], segments[1:]
    if first == "**":
        if rest in ([], ["*"]):
            yield from _list_tree(workspace, folder)
            return
        yield from _match(workspace, folder, rest)
        for name in _list_folder(workspace, folder):
            inner = os.path.join(workspace, folder, name)
            if os.path.isdir(inner) and not os.path.islink(inner):  # links may form a cycle
                yield from _match(workspace, os.path.join(folder, name), segments)
        return
    names = [first]
    if _WILDCARDS.intersection(first):
        names = fnmatch.filter(_list_folder(workspace, folder), first)
    for name in names:
        path = os.path.join(folder, name)
        whole = os.path.join(workspace, path)
        if os.path.isdir(whole) and _is_below(workspace, whole):
            yield from _match(workspace, path, rest or ["**"])
        elif os.path.islink(whole) or (os.path.exists(whole) and not rest):
            yield path  # also a link that leads out of the workspace: opening it reports the refusal


def _list_tree(workspace: str, folder: str) -> Iterator[str]:
    for name in _list_folder(workspace, folder):
        path = os.path.join(folder, name)
        whole = os.path.join(workspace, path)
        if not os.path.isdir(whole):
            yield path
        elif not os.path.islink(whole):
            yield from _list_tree(workspace, path)


def _list_folder(workspace: str, folder: str) -> list[str]:
    try:
        names = os.listdir(os.path.join(workspace, folder))
    except OSError:
        return []
    # A wildcard does not match the .git folder of the checkout.
    return [name for name in names if folder or name != ".git"]


def _is_below(workspace: str, path: str) -> bool:
    root = os.path.realpath(workspace)
    return (os.path.realpath(path) + "/").startswith(root + "/")
