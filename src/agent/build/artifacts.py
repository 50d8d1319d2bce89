"""Which files of a workspace a job's globs mean, and opening them without being led astray."""

from __future__ import annotations

import fnmatch
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

_CHUNK = 1 << 18
_MAGIC = frozenset("*?[")


class Unusable(Exception):
    """Says why a file or pattern is not taken."""


def find(workspace: str, pattern: str) -> list[str]:
    """Paths of files relative to the workspace, sorted. A folder means everything in it."""
    if os.path.isabs(pattern):
        raise Unusable("it must be relative to the workspace")
    segments = [segment for segment in pattern.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise Unusable("it must not contain ..")
    if not segments or "\0" in pattern:
        raise Unusable("it names nothing")
    return sorted(set(_match(workspace, "", segments)))


def open_inside(workspace: str, path: str, owner: int | None) -> BinaryIO:
    """
    A regular file, whatever a build put there: symbolic links may lead only within the workspace, and where
    builds have a user of their own (`owner`) the file must be that user's, so that no link of any kind makes
    the agent read what the build could not.
    """
    root = os.path.realpath(workspace)
    try:
        # Not blocking: the file may be a named pipe.
        fd = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise Unusable(os.strerror(error.errno or 0)) from None
    why_not = _why_not(fd, root, owner)
    if why_not:
        os.close(fd)
        raise Unusable(why_not)
    return os.fdopen(fd, "rb")


class Form:
    """A multipart body that is never whole in memory."""

    def __init__(self, fields: dict[str, str], filename: str, file: BinaryIO) -> None:
        boundary = secrets.token_hex(16)
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        escaped = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{escaped}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = "".join(parts).encode("utf-8", "replace")
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._file = file
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + size(file) + len(self._tail)),
        }

    def body(self) -> Iterator[bytes]:
        yield self._head
        yield from content(self._file)
        yield self._tail


def content(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while True:
        chunk = file.read(_CHUNK)
        if not chunk:
            return
        yield chunk


def size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _why_not(fd: int, root: str, owner: int | None) -> str | None:
    """Asked of what is open, not of its name, which could be made to mean something else meanwhile."""
    found = os.fstat(fd)
    real = os.readlink(f"/proc/self/fd/{fd}")
    if not real.startswith(root + "/") or (owner is not None and found.st_uid != owner):
        return "it leads out of the workspace"
    return None if stat.S_ISREG(found.st_mode) else "it is not a regular file"


def _match(workspace: str, folder: str, segments: list[str]) -> Iterator[str]:
    first, rest = segments[0], segments[1:]
    if first == "**":
        if rest in ([], ["*"]):
            yield from _everything(workspace, folder)
            return
        yield from _match(workspace, folder, rest)
        for name in _entries(workspace, folder):
            inner = os.path.join(workspace, folder, name)
            if os.path.isdir(inner) and not os.path.islink(inner):  # links may lead in circles
                yield from _match(workspace, os.path.join(folder, name), segments)
        return
    names = [first]
    if _MAGIC.intersection(first):
        names = fnmatch.filter(_entries(workspace, folder), first)
    for name in names:
        path = os.path.join(folder, name)
        whole = os.path.join(workspace, path)
        if os.path.isdir(whole) and _is_below(workspace, whole):
            yield from _match(workspace, path, rest or ["**"])
        elif os.path.islink(whole) or (os.path.exists(whole) and not rest):
            yield path  # a link that leads out is named, and refused when it is opened


def _everything(workspace: str, folder: str) -> Iterator[str]:
    for name in _entries(workspace, folder):
        path = os.path.join(folder, name)
        whole = os.path.join(workspace, path)
        if not os.path.isdir(whole):
            yield path
        elif not os.path.islink(whole):
            yield from _everything(workspace, path)


def _entries(workspace: str, folder: str) -> list[str]:
    try:
        names = os.listdir(os.path.join(workspace, folder))
    except OSError:
        return []
    # No pattern means git's own folder unless it names it.
    return [name for name in names if folder or name != ".git"]


def _is_below(workspace: str, path: str) -> bool:
    root = os.path.realpath(workspace)
    return (os.path.realpath(path) + "/").startswith(root + "/")
