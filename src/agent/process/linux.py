"""What Linux knows about processes, and two switches of prctl(2)."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def hide_from_others_of_this_user() -> None:
    """Close /proc/<pid>/environ, mem and fd of this process to its own user, and with them ptrace."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, however it was detached."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


class Process(NamedTuple):
    pid: int
    state: str
    """One letter; Z is a zombie."""
    parent: int
    session: int
    started: int
    """In ticks since the machine started: with the pid it names one process of this boot."""


def processes() -> list[Process]:
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None]


def process(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None  # it ended meanwhile
    # The command in parentheses may itself hold spaces and parentheses.
    fields = stat.rpartition(b")")[2].split()
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def boot() -> str:
    """Names the time since the machine started."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for one in processes():
        children.setdefault(one.parent, []).append(one.pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    rest = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    if libc.prctl(ctypes.c_int(option), *rest) != 0:
        raise OSError(ctypes.get_errno(), "prctl was refused")
