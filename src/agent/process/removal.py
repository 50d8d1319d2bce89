"""Removes the folders of builds, however deep they are, and without following links."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REMAINS = "removed-"
"""Prefix for the names of temporary folders. `remove_tree` moves the folder that is to be removed into a temporary
folder, and empties it there.
"""


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it. If something cannot be removed, remove the rest, move what is left to
    another folder in the same parent, and raise OSError. In both cases, `folder` no longer exists afterwards.
    """
    if not os.path.lexists(folder):
        return
    _make_writable(str(folder), None)
    remains = tempfile.mkdtemp(prefix=_REMAINS, dir=folder.parent)
    try:
        os.rename(folder, os.path.join(remains, folder.name))
        _empty(remains)
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            os.rmdir(remains)


def remove_remains(parent: Path) -> None:
    """Remove the remains that `remove_tree` left in `parent`. Raises OSError if something still cannot be removed."""
    for remains in parent.glob(f"{_REMAINS}*"):
        _empty(str(remains))
        remains.rmdir()


def _empty(top: str) -> None:
    """Remove all folders in `top`. If something cannot be removed, remove the rest, then raise the first error."""
    first: OSError | None = None
    with _opened(top, None) as top_fd:
        waiting, prefix = os.listdir(top_fd), secrets.token_hex(8)
        moved = (f"{prefix}-{number}" for number in itertools.count())
        while waiting:
            name = waiting.pop()
            try:
                with _opened(name, top_fd) as folder_fd:
                    waiting += _empty_folder(folder_fd, top_fd, moved)
                os.rmdir(name, dir_fd=top_fd)
            except OSError as error:
                first = first or error
    if first:
        raise first


def _empty_folder(folder_fd: int, top_fd: int, moved: Iterator[str]) -> Iterator[str]:
    """Remove the files of a folder. Move each of its subfolders into the folder `top_fd` under a new name from `moved`,
    and yield that name. So at most two folders are open at a time and no path has more than one component, however deep
    the folders were.

    Leaves what cannot be removed or moved: removing the folder then fails.
    """
    with os.scandir(folder_fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        with contextlib.suppress(OSError):
            if not is_folder:
                os.unlink(name, dir_fd=folder_fd)
                continue
            _make_writable(name, folder_fd)
            new_name = next(moved)
            os.rename(name, new_name, src_dir_fd=folder_fd, dst_dir_fd=top_fd)
            yield new_name


@contextmanager
def _opened(folder: str, parent_fd: int | None) -> Iterator[int]:
    _make_writable(folder, parent_fd)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _make_writable(folder: str, parent_fd: int | None) -> None:
    """Let this process list, empty and move a folder that belongs to its user. Does nothing for root, who can do all
    this anyway.
    """
    if os.geteuid() != 0:
        with contextlib.suppress(OSError):  # a folder of another user: what follows fails, and says why
            os.chmod(folder, 0o700, dir_fd=parent_fd)
