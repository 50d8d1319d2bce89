"""Describes programs to start, and identifies running processes. Uses only the standard library."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Account:
    """Account without privileges that the engines run as when the server runs as root."""

    name: str
    uid: int
    gid: int


def popen_options(account: Account | None) -> dict[str, Any]:
    """Return the arguments of Popen that start a program as this account; none if `account` is None."""
    return {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}


@dataclass(frozen=True)
class Program:
    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None  # the whole environment; None for that of this process
    cwd: Path | None = None
    account: Account | None = None
    stop_signal: int = signal.SIGTERM
    abort_signal: int = signal.SIGKILL  # sent when the program does not stop in time; SIGKILL follows
    # Runs before every start, also before a restart; may block for some seconds and may raise Fault.
    prepare: Callable[[], None] = lambda: None
    nice: int = 0  # 1 to 19 give it a smaller share of busy processors

    def start(
        self, stdout: int | IO[bytes] | None = None, stderr: int | IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start the program in a Unix session of its own. So Ctrl-C reaches only the supervisor, which then stops the
        processes in order.
        """
        process = subprocess.Popen[bytes](
            self.argv,
            env=None if self.env is None else dict(self.env),
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            **popen_options(self.account),
        )
        if self.nice:
            lower_priority(process.pid, self.nice)
        return process


def lower_priority(pid: int, nice: int) -> None:
    """Lower the priority of a process that leads its Unix session. Children that the process starts later inherit the
    priority. Does nothing if the process has ended, or if its priority may not be changed.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + nice)
        # Where Linux shares the processors among sessions, the value above counts only within the session.
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def started_at(pid: int) -> str | None:
    """Return the start time of a process, or None if it does not run. The text is only good for comparing: since pids
    are reused, only pid and start time together identify a process.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if os.path.isdir("/proc/self") else _started_by_ps(pid)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started_by_ps(pid: int) -> str | None:
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def send(pid: int, signal_number: int, *, group: bool = False) -> bool:
    """Send a signal to a process or to its group. Returns False if no process could get the signal."""
    try:
        (os.killpg if group else os.kill)(pid, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def local_url(host: str, port: int) -> str:
    """Return the URL by which programs on this machine reach a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return http_url(host, port)


def http_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
