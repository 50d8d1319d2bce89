"""What a build and a command have in common: other threads may end them early."""

from __future__ import annotations

import time

from agent.interrupt import DROPPED, STOPPED, Interrupt

_GLANCE = 0.2


class Task:
    """`drop` and `shut_down` may come from any thread and at any time."""

    def __init__(self) -> None:
        self._interrupt = Interrupt()
        self._report_until: float | None = None

    def run(self) -> None:
        """In a thread of its own; when it returns nothing of the task is left here."""
        raise NotImplementedError

    def drop(self) -> None:
        """Nobody wants it any more: end it without a word."""
        self._interrupt.fire(DROPPED, None, 0)

    def shut_down(self, grace: float, report_within: float) -> None:
        self._report_until = time.monotonic() + grace + report_within
        self._interrupt.fire(STOPPED, "the agent was shut down", grace)

    def _pause(self, seconds: float) -> bool:
        """Between two tries of a call: true when nobody waits for it any more."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if self._interrupt.dropped or (self._report_until is not None and now >= self._report_until):
                return True
            if now >= until:
                return False
            self._interrupt.wait_dropped(min(_GLANCE, until - now))
