"""Ends orphan processes: processes of builds whose agent and supervisor were killed together.

The next agent that uses the work folder finds orphan processes in two ways: by environment variables that point into
the folder, or by their Unix session. The supervisor has recorded the process id and start time of each session leader.
Only root can read the environment of another user's process, and end that process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from agent.console import print_line
from agent.process import linux
from agent.process.linux import Process

RECORD_FILE = "processes"
"""File in a build's folder, one line for each started command: boot id, process id, start time in clock ticks."""
_KILL_TIMEOUT_S = 5.0
_POLL_INTERVAL_S = 0.02
_VARIABLES = (b"HOME", b"TMPDIR", b"TESTHIDE_WORKSPACE")
"""Environment variables whose values are paths in the build's folder. One of them is enough to find a process: a build
may change the others.
"""


def record_process(path: str, pid: int) -> None:
    """Append a process, the leader of a Unix session, to the record file of a build. Do nothing if the process has
    ended.
    """
    process = linux.read_process(pid)
    if process:
        with open(path, "a", encoding="ascii") as file:
            file.write(f"{linux.read_boot_id()} {pid} {process.started}\n")


def end_orphans(builds: Path) -> None:
    """Kill the orphan processes of all builds in the folder `builds`. Stop trying after `_KILL_TIMEOUT_S`."""
    marks = tuple(name + b"=" + os.fsencode(builds) + b"/" for name in _VARIABLES)
    sessions = _read_sessions(builds)
    ended: set[Process] = set()
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while True:
        found = _find_orphans(marks, sessions)
        if not found:
            break
        if time.monotonic() >= deadline:
            print_line(f"{len(found)} processes of earlier builds cannot be ended.")
            break
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
        ended.update(found)
        time.sleep(_POLL_INTERVAL_S)
    if ended:
        print_line(f"Ended {len(ended)} processes that builds of a killed agent had left running.")


def _read_sessions(builds: Path) -> dict[int, int]:
    """Return session id -> start time of the session's leader in clock ticks, for the Unix sessions that were recorded
    since the machine started.
    """
    sessions = {}
    for file in builds.glob(f"*/{RECORD_FILE}"):
        with contextlib.suppress(OSError, ValueError):  # a crash may have cut the last line off
            for line in file.read_text("ascii").splitlines():
                boot, pid, started = line.split()
                if boot == linux.read_boot_id():
                    sessions[int(pid)] = int(started)
    return sessions


def _find_orphans(marks: tuple[bytes, ...], sessions: dict[int, int]) -> list[Process]:
    running = [
        process for process in linux.list_processes() if process.state not in "ZX" and process.pid != os.getpid()
    ]
    started = {process.pid: process.started for process in running}

    def is_recorded(process: Process) -> bool:
        since = sessions.get(process.session)
        # If the leader has another start time, this is a later session with the same id.
        return since is not None and process.started >= since == started.get(process.session, since)

    return [process for process in running if is_recorded(process) or _is_marked(process.pid, marks)]


def _is_marked(pid: int, marks: tuple[bytes, ...]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(variable.startswith(marks) for variable in file.read().split(b"\0"))
    except OSError:
        return False  # the process ended, or belongs to another user
