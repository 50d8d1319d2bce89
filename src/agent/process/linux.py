"""Reads processes from /proc, sets process attributes with prctl(2), and makes other calls to Linux."""

from __future__ import annotations

import ctypes
import os
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def hide_from_others_of_this_user() -> None:
    """Keep other processes of the same user out of this process: they can neither trace it nor read its environ, mem
    and fd in /proc/<pid>.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Make this process the parent of each of its descendants whose own parent ends, even if the descendant has
    detached itself.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(number: int) -> None:
    """Let the kernel send this process the signal `number` when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def refuse_new_privileges() -> None:
    """Keep programs that this process or a descendant executes from getting more rights by their files: the user of a
    setuid file, the group of a setgid file, or capabilities.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


class Process(NamedTuple):
    pid: int
    state: str
    """One letter of proc(5); Z is a zombie."""
    parent: int
    session: int
    started: int
    """Start time of the process, in clock ticks after the start of the machine. Until the machine is restarted, no
    other process has the same pid and start time.
    """


def list_processes() -> list[Process]:
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def read_process(pid: int) -> Process | None:
    """Return what /proc says about the process, or None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    # The second field is the command in parentheses, which may itself hold spaces and parentheses.
    fields = stat.rpartition(b")")[2].split()
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def read_boot_id() -> str:
    """Return the id that the kernel creates anew at each start of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def list_descendants(root: int) -> list[int]:
    """Return the ids of all processes below `root`, at any depth."""
    children: dict[int, list[int]] = {}
    for process in list_processes():
        children.setdefault(process.parent, []).append(process.pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _prctl(option: int, value: int) -> None:
    call("prctl", ctypes.c_int(option), *(ctypes.c_ulong(number) for number in (value, 0, 0, 0)))


def call(name: str, *arguments: Any) -> None:
    """Call the function `name` of the C library. Raises OSError if the function does not return 0."""
    if ctypes.CDLL(None, use_errno=True)[name](*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name} was refused: {os.strerror(ctypes.get_errno())}")
