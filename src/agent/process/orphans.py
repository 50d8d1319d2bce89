"""Processes of builds whose agent and supervisor were killed together: the next agent of the folder ends them.

A process is known by what its environment says of the folder, or by its session: the supervisor wrote down which
process it started for which build, and when. The kernel lets only root touch those of other users.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from agent.console import say
from agent.process import linux
from agent.process.linux import Process

RECORD = "processes"
_PATIENCE = 5.0
_LOOK_AGAIN = 0.02
_TELLING = (b"HOME", b"TMPDIR", b"TESTHIDE_WORKSPACE")  # a build may set one of them itself


def record(path: str, pid: int) -> None:
    """A process that was started for a build, and that leads a session."""
    process = linux.process(pid)
    if process:
        with open(path, "a", encoding="ascii") as file:
            file.write(f"{linux.boot()} {pid} {process.started}\n")


def end_all(builds: Path) -> None:
    """Takes some seconds at most."""
    marks = tuple(name + b"=" + os.fsencode(builds) + b"/" for name in _TELLING)
    sessions = _recorded(builds)
    ended: set[Process] = set()
    until = time.monotonic() + _PATIENCE
    while True:
        found = _left(marks, sessions)
        if not found:
            break
        if time.monotonic() >= until:
            say(f"{len(found)} processes of earlier builds cannot be ended.")
            break
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
        ended.update(found)
        time.sleep(_LOOK_AGAIN)
    if ended:
        say(f"Ended what builds of a killed agent had left running: {len(ended)} processes.")


def _recorded(builds: Path) -> dict[int, int]:
    """Sessions of this boot, and when their leaders started."""
    sessions = {}
    for file in builds.glob(f"*/{RECORD}"):
        with contextlib.suppress(OSError, ValueError):  # cut off by a crash, say
            for line in file.read_text("ascii").splitlines():
                boot, pid, started = line.split()
                if boot == linux.boot():
                    sessions[int(pid)] = int(started)
    return sessions


def _left(marks: tuple[bytes, ...], sessions: dict[int, int]) -> list[Process]:
    running = [process for process in linux.processes() if process.state not in "ZX" and process.pid != os.getpid()]
    started = {process.pid: process.started for process in running}

    def is_recorded(process: Process) -> bool:
        since = sessions.get(process.session)
        # A leader that started at another time leads another session of the same number.
        return since is not None and process.started >= since == started.get(process.session, since)

    return [process for process in running if is_recorded(process) or _is_marked(process.pid, marks)]


def _is_marked(pid: int, marks: tuple[bytes, ...]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(variable.startswith(marks) for variable in file.read().split(b"\0"))
    except OSError:
        return False  # it ended, or is another user's
