"""How another thread asks a build to end early."""

from __future__ import annotations

import os
import threading

STOPPED = "stopped"
DROPPED = "dropped"  # the server no longer wants to hear of it


class Interrupt:
    """The first cause stays, except that a dropped build is dropped whatever it was before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self._write = os.pipe()
        self._dropped = threading.Event()
        self._open = True
        self.cause: str | None = None
        self.detail: str | None = None
        self.grace = 0.0

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
    def dropped(self) -> bool:
        return self._dropped.is_set()

    def wait_dropped(self, seconds: float) -> bool:
        return self._dropped.wait(seconds)

    def fileno(self) -> int:
        return self._read

    def acknowledge(self) -> None:
        """Take the wake-up off the pipe, so that select waits again."""
        os.read(self._read, 16)

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._read)
            os.close(self._write)
