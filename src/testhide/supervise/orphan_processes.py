"""Records running processes, and ends those that a killed supervisor left behind."""

import json
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from testhide.supervise.program import send, started_at


def record_running(path: Path, running: Iterable[tuple[str, int]]) -> None:
    """Write the names and pids of the running processes to `path`. Each of the processes leads a Unix session.

    The file need not be synced to disk, since none of the processes runs after a crash of the machine.
    """
    folder = path.parent.stat().st_ino
    entries = [{"name": name, "pid": pid, "started": started_at(pid), "folder": folder} for name, pid in running]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(entries))
    fresh.replace(path)


def end_recorded(path: Path, timeout_s: float = 3.0) -> list[str]:
    """End the recorded processes that still run: those whose pid and start time match. Leaves PostgreSQL to
    `testhide.engines.postgres`. Returns the names of the processes that still ran, including PostgreSQL.

    Ignores a record that was copied from another folder, since its processes may be in use. A copied record names
    another inode than that of its folder. A moved folder keeps its inode.
    """
    try:
        folder = path.parent.stat().st_ino
        entries = [entry for entry in json.loads(path.read_bytes()) if entry["folder"] == folder]
        found = [(str(entry["name"]), int(entry["pid"]), entry["started"]) for entry in entries]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return []
    left = [entry for entry in found if entry[2] is not None and started_at(entry[1]) == entry[2]]
    names = [name for name, _, _ in left]
    for signal_number, wait in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 1.0)):
        for name, pid, _ in left:
            # PostgreSQL would wait for all clients: `engines.postgres.end_orphan_processes` ends it.
            if name != "postgres":
                send(pid, signal_number, group=signal_number == signal.SIGKILL)
        left = [entry for entry in left if entry[0] != "postgres"]
        deadline = time.monotonic() + wait
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [entry for entry in left if started_at(entry[1]) == entry[2]]
    path.unlink(missing_ok=True)
    return names
