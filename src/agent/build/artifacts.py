"""Finds the files that match a job's globs, and opens them without following links out of the workspace."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO

_WILDCARDS = frozenset("*?[")
_MAX_FILES = 100_000  # of one pattern; links within the workspace can give one file any number of paths


_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG})
"""Error numbers (errno) of `open` and `stat` which mean that no regular file is at the path."""


class UnusablePath(Exception):
    """A file or pattern cannot be collected; the message says why."""

    def __init__(self, why: str, is_denied: bool = False) -> None:
        super().__init__(why)
        self.is_denied = is_denied
        """Whether there are files, but the agent cannot read them: it has no permission, reading fails, or the pattern
        matches too many.
        """


def find_files(workspace: str, pattern: str, is_over: Callable[[], bool] = lambda: False) -> list[str]:
    """Return the paths of the files that match a pattern, sorted and relative to the workspace. If a folder matches,
    return all files below it. Calls `is_over` for each file and folder. As soon as `is_over` returns True, returns the
    paths found by then.

    Raises `UnusablePath` for a pattern that leads out of the workspace, that no file name can match, or that too many
    files match. Raises OSError if reading a folder fails for another reason than a lack of permission.
    """
    if os.path.isabs(pattern):
        raise UnusablePath("it must be relative to the workspace")
    segments = [segment for segment in pattern.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise UnusablePath("it must not contain ..")
    if not segments or "\0" in pattern:
        raise UnusablePath("it names nothing")
    found = sorted(islice(_Glob(segments).find(os.path.realpath(workspace), is_over), _MAX_FILES + 1))
    if len(found) > _MAX_FILES:
        raise UnusablePath(f"it matches more than {_MAX_FILES} files", is_denied=True)
    return found


def open_inside(workspace: str, path: str, owner: int | None) -> BinaryIO:
    """Open a regular file of the workspace. Raises `UnusablePath` if the file cannot be opened, or if something else is
    at `path`, such as a device or a link out of the workspace.

    `owner` is the id of the user that builds run as, or None if builds run as the agent's user. The file must belong to
    `owner`: otherwise a build could make a hard link to a file that only the agent can read, and let the agent read it.
    """
    root = os.path.realpath(workspace)
    whole = os.path.join(root, path)
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer.
        fd = os.open(whole, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        is_inside = (os.path.realpath(whole) + "/").startswith(root + "/")
        is_denied = is_inside and error.errno not in _NO_FILE
        raise UnusablePath(os.strerror(error.errno or 0), is_denied) from None
    objection = _find_objection(fd, root, owner)
    if objection:
        os.close(fd)
        raise UnusablePath(objection)
    return os.fdopen(fd, "rb")


def _find_objection(fd: int, root: str, owner: int | None) -> str | None:
    """Return the reason to refuse an open file, or None if it may be read. Checks the open file and not its path, since
    the build could put another file at the path between the check and the opening.
    """
    found = os.fstat(fd)
    real = os.readlink(f"/proc/self/fd/{fd}")
    if not real.startswith(root + "/") or (owner is not None and found.st_uid != owner):
        return "it leads out of the workspace"
    return None if stat.S_ISREG(found.st_mode) else "it is not a regular file"


class _Glob:
    """Pattern, split at each `/` into segments. Matching has states: a state is the index of the segment that the next
    name of a path has to match. The last segment is `**`, so every name matches in the last state.
    """

    def __init__(self, segments: list[str]) -> None:
        if segments[-2:] == ["**", "*"]:
            del segments[-1]
        if segments[-1] != "**":
            segments = [*segments, "**"]  # of a folder, all files below it
        self._segments = [one for at, one in enumerate(segments) if segments[at : at + 2] != ["**", "**"]]
        self._expressions = [re.compile(fnmatch.translate(segment)).match for segment in self._segments]
        self._last = len(self._segments) - 1

    def find(self, root: str, is_over: Callable[[], bool]) -> Iterator[str]:
        """Yield the paths of the files below `root` that match. Also yields links that lead out of `root`, and folders
        that cannot be read: opening these paths then reports why. Visits each path only once.
        """
        waiting = [("", {0})]
        while waiting:
            folder, states = waiting.pop()
            # `**` also stands for no folder at all.
            states |= {state + 1 for state in states if self._segments[state] == "**" and state < self._last}
            try:
                names = self._list_names(os.path.join(root, folder), states, is_root=not folder)
            except PermissionError:
                yield folder or "."  # opening this path reports why it cannot be read
                continue
            for name in names:
                if is_over():
                    return
                path = os.path.join(folder, name)
                is_match, inner = self._match(root, path, name, states)
                if is_match:
                    yield path
                if inner:
                    waiting.append((path, inner))

    def _list_names(self, folder: str, states: set[int], is_root: bool) -> set[str]:
        """Return the names of those files and folders in `folder` that may match."""
        segments = [self._segments[state] for state in states]
        names = {segment for segment in segments if not _WILDCARDS.intersection(segment)}
        if len(names) < len(segments):
            with suppress(FileNotFoundError, NotADirectoryError):  # it was removed meanwhile
                # A wildcard does not match the .git folder of the checkout.
                names.update(name for name in os.listdir(folder) if not is_root or name != ".git")
        return names

    def _match(self, root: str, path: str, name: str, states: set[int]) -> tuple[bool, set[int]]:
        """Return two values: whether `path` is a file that matches, and the states for matching the names in `path` if
        it is a folder.
        """
        matched = {state + 1 for state in states if self._segments[state] != "**" and self._expressions[state](name)}
        stays = {state for state in states if self._segments[state] == "**"}
        if not matched and not stays:
            return False, set()
        whole = os.path.join(root, path)
        try:
            mode = os.lstat(whole).st_mode
        except OSError as error:
            # Opening a path that is too long, or in a folder that may not be entered, reports why.
            if error.errno == errno.ENAMETOOLONG:
                return self._last in states, set()
            if error.errno in (*_NO_FILE, errno.EACCES, errno.EPERM):
                return isinstance(error, PermissionError), set()
            raise
        if stat.S_ISDIR(mode):
            return False, matched | stays
        if not stat.S_ISLNK(mode):
            return self._last in matched or self._last in stays, set()
        # Links are followed where a name matches them, not by `**`: they may form a cycle.
        if os.path.isdir(whole):
            is_inside = (os.path.realpath(whole) + "/").startswith(root + "/")
            return (False, matched) if is_inside else (bool(matched), set())
        # Also a link that leads out of the workspace: opening the link reports the refusal.
        return bool(matched) or self._last in stays, set()
