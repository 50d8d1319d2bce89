"""Defines the base class of builds and administrator commands. A task runs in one thread, and other threads can end
it.
"""

from __future__ import annotations

import os
import threading
import time

STOPPED = "stopped"
"""Cause of an interrupt after which the task still reports its end to the server."""
DROPPED = "dropped"
"""Cause of an interrupt after which the task reports nothing, since the server no longer takes its report."""
_CHECK_INTERVAL_S = 0.2
"""Seconds between two checks, during a pause, whether the task's time for reporting is over."""


class Interrupt:
    """Wakes the thread of a task, which waits for `fileno` with select. Stores the cause, so that the thread can read
    it.

    If there are several causes, the first one stays, except that `DROPPED` replaces `STOPPED`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self._write = os.pipe()
        self._dropped = threading.Event()
        self._open = True
        self.cause: str | None = None
        self.detail: str | None = None
        self.grace = 0.0  # seconds from SIGTERM to SIGKILL

    def fire(self, cause: str, detail: str | None, grace: float) -> None:
        with self._lock:
            if self.cause is not None and cause != DROPPED:
                return
            self.cause, self.detail, self.grace = cause, detail, grace
            if cause == DROPPED:
                self._dropped.set()
            if self._open:
                os.write(self._write, b"!")

    @property
    def is_dropped(self) -> bool:
        return self._dropped.is_set()

    def wait_dropped(self, seconds: float) -> bool:
        """Wait until the task is dropped, but for at most `seconds`. Return whether the task was dropped."""
        return self._dropped.wait(seconds)

    def fileno(self) -> int:
        return self._read

    def acknowledge(self) -> None:
        """Empty the pipe behind `fileno`, so that the next select waits again."""
        os.read(self._read, 16)

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._read)
            os.close(self._write)


class Task:
    """Work that runs in one thread. Any other thread may call `drop` and `shut_down` at any time."""

    def __init__(self) -> None:
        self._interrupt = Interrupt()
        self._report_until: float | None = None
        self._why_abandoned = "the agent was shut down, and the server did not answer in time"
        """Reason that the agent prints when a request to the server is given up."""

    def run(self) -> None:
        """Do the work and report its result. When this method returns, no process and no file of the task is left on
        the machine.
        """
        raise NotImplementedError

    def drop(self, why: str) -> None:
        """Kill the task's processes, and report nothing to the server. The agent prints the reason, `why`."""
        self._why_abandoned = why
        self._interrupt.fire(DROPPED, None, 0)

    def shut_down(self, grace: float, report_within: float) -> None:
        """End the task because the agent ends. Its processes get `grace` seconds to end. Then the task has
        `report_within` seconds for its report to the server.
        """
        self._report_until = time.monotonic() + grace + report_within
        self._interrupt.fire(STOPPED, "the agent was shut down", grace)

    def _pause(self, seconds: float) -> bool:
        """Wait between two tries of a request. Return True as soon as the task is dropped or its time for reporting is
        over; otherwise return False.
        """
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if self._interrupt.is_dropped or (self._report_until is not None and now >= self._report_until):
                return True
            if now >= until:
                return False
            self._interrupt.wait_dropped(min(_CHECK_INTERVAL_S, until - now))
