"""Gives each build Linux namespaces of its own, so that no other build sees its processes, its System V and POSIX IPC,
and its temporary folders.

Only root can make namespaces, and not in every container. `find_refusal` returns why namespaces are refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable

from agent.process import linux
from agent.process.privileges import BuildAccount

_NEW_MOUNTS, _NEW_IPC, _NEW_PIDS = 0x00020000, 0x08000000, 0x20000000
_NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
_TEMPORARY_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108 (hidden from builds, not used)
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 (hidden from builds, not used)
AGAIN = 3
"""Exit code by which a function that `run_inside` runs asks to be run again in new namespaces."""


def find_refusal() -> str | None:
    """Return the reason why the kernel refuses namespaces to this process; None if it grants them."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            run_inside(lambda: os.write(write, b"+") * 0)
        except OSError as error:
            os.write(write, str(error).encode("utf-8", "replace"))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return None if answer == b"+" else answer.decode("utf-8", "replace") or "its first process ended"


def run_inside(function: Callable[[], int]) -> int:
    """Run the function in a child process in new namespaces, and return the exit code that the function returns. As
    long as the function returns `AGAIN`, run it again in other new namespaces. Raises OSError if the kernel refuses the
    namespaces.

    The child is the first process of its namespaces. When it ends, the kernel kills all other processes in them.
    """
    read, write = os.pipe()
    code = AGAIN
    parent = os.getpid()
    while code == AGAIN:
        child = os.fork()
        if not child:
            _exit_with(lambda: _unshare_and_run(function, parent, write))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(write)
    with open(read, "rb") as refusals:
        number = refusals.read()
    if number:
        raise OSError(int(number), os.strerror(int(number)))
    return code


def hide_shared_folders(folder: str, account: BuildAccount | None) -> None:
    """Give the build temporary folders and shared memory that no other build sees: mount the subfolder `tmp` of the
    build's folder over /tmp and /var/tmp, and an empty tmpfs over /dev/shm.

    Also mount copies of /etc/passwd and /etc/group that contain the account, if they lack it. ssh does not run for a
    user without a name.
    """
    if account:
        with contextlib.suppress(FileNotFoundError):
            _add_account(folder, account)
    inside = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (folder, os.path.join(folder, "tmp"))]
    kept, temporary = (f"/proc/self/fd/{fd}" for fd in inside)
    for target in filter(os.path.isdir, _TEMPORARY_FOLDERS):
        _mount(temporary, target, _BIND)
    if not os.path.isdir(folder):  # the agent's work folder is below one of them
        os.makedirs(folder)
        _mount(kept, folder, _BIND)
    if os.path.isdir(_SHARED_MEMORY):
        _mount("tmpfs", _SHARED_MEMORY, _NOSUID | _NODEV, "tmpfs", "mode=1777")
    for fd in inside:
        os.close(fd)


def _unshare_and_run(function: Callable[[], int], parent: int, refusals: int) -> int:
    try:
        _end_with_parent(parent)
        linux.call("unshare", _NEW_MOUNTS | _NEW_IPC | _NEW_PIDS)
        _mount("none", "/", _RECURSIVE | _PRIVATE)
        first = os.fork()
        if not first:
            _exit_with(lambda: _begin(function, refusals))
    except OSError as error:
        os.write(refusals, b"%d" % (error.errno or 0))
        return 1
    return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])


def _begin(function: Callable[[], int], refusals: int) -> int:
    try:
        _end_with_parent(0)  # the parent is in another namespace: its id is 0 in this one
        _mount("proc", "/proc", _NOSUID | _NODEV | _NOEXEC, "proc")
    except OSError as error:
        os.write(refusals, b"%d" % (error.errno or 0))
        return 1
    os.close(refusals)
    return function()


def _end_with_parent(parent: int) -> None:
    linux.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # the parent had ended before
        os._exit(1)


def _exit_with(function: Callable[[], int]) -> None:
    """Run the function and exit with the code that it returns. Exits even after an error, so that this child process
    never runs on in code that is the parent's.
    """
    code = 1
    try:
        code = function()
    except BaseException as error:
        sys.stderr.write(f"A supervisor process failed: {error!r}\n")
    os._exit(code if code >= 0 else 1)


def _add_account(folder: str, account: BuildAccount) -> None:
    home = os.path.join(folder, "home")
    name = f"testhide-build-{account.uid}"
    for kind, number, line in (
        ("passwd", account.uid, f"{name}:x:{account.uid}:{account.gid}::{home}:/bin/sh\n"),
        ("group", account.gid, f"{name}:x:{account.gid}:\n"),
    ):
        with open(f"/etc/{kind}", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
        if not any(known.split(":")[2:3] == [str(number)] for known in lines):
            path = os.path.join(folder, kind)
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as copy:
                copy.write("".join(lines).rstrip("\n") + "\n" + line)
            _mount(path, f"/etc/{kind}", _BIND)


def _mount(source: str, target: str, flags: int, kind: str | None = None, data: str | None = None) -> None:
    words = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    linux.call("mount", words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
