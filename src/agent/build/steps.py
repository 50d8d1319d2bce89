"""Runs the steps of one build in its slot: output to the log, the deadline, and an early end."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from agent.build.lines import LineReader
from agent.interrupt import Interrupt
from agent.process.supervisor import Account, Slot

GRACE = 5.0  # from SIGTERM to SIGKILL
_LAST_WORDS = 2.0  # how long what is left in the pipe may take to read
TIMEOUT = "timeout"


class Sink(Protocol):
    def add(self, lines: list[str]) -> None: ...


class Ended(NamedTuple):
    exit_code: int | None
    cause: str | None = None  # TIMEOUT, STOPPED or DROPPED when it did not end by itself
    refused: str | None = None  # why it could not be started


class Steps:
    def __init__(
        self,
        slot: Slot,
        interrupt: Interrupt,
        deadline: float,
        account: Account | None,
        record: str,
    ) -> None:
        self._slot = slot
        self._interrupt = interrupt
        self._deadline = deadline
        self._account = account
        self._record = record

    def run(self, argv: Sequence[str], cwd: str, env: dict[str, str], reader: LineReader, sink: Sink) -> Ended:
        """Returns when the step's own process has ended; what that left behind runs on until `sweep`."""
        self._slot.run(argv, cwd, env, self._account, self._record)
        with selectors.DefaultSelector() as selector:
            for source in (self._slot.output, self._slot.control, self._interrupt):
                selector.register(source, selectors.EVENT_READ)
            ended = self._follow(selector, reader, sink)
        self._read_rest(reader, sink)
        sink.add(reader.flush())
        return ended

    def sweep(self, reader: LineReader, sink: Sink) -> int:
        """Kill whatever still runs; the number of processes that could not be killed."""
        self._slot.end(0)
        left: int | None = None
        while left is None:
            for answer in self._slot.answers():
                left = self._slot.left(answer)
        self._read_rest(reader, sink)
        sink.add(reader.flush())
        return left

    def _follow(self, selector: selectors.BaseSelector, reader: LineReader, sink: Sink) -> Ended:
        cause: str | None = None
        while True:
            patience = None if cause else max(self._deadline - time.monotonic(), 0)
            ready = [key.fileobj for key, _ in selector.select(patience)]
            if self._slot.output in ready:
                data = self._slot.read_output()
                if data:
                    sink.add(reader.feed(data))
            if self._slot.control in ready:
                for answer in self._slot.answers():
                    ended = self._ended(answer, cause)
                    if ended:
                        return ended
            if self._interrupt in ready:
                self._interrupt.acknowledge()
            # Looked at in every round: it may have come between two steps.
            if self._interrupt.cause and cause != self._interrupt.cause:
                cause = self._interrupt.cause
                self._slot.end(self._interrupt.grace)
            elif not cause and time.monotonic() >= self._deadline:
                cause = TIMEOUT
                self._slot.end(GRACE)

    def _read_rest(self, reader: LineReader, sink: Sink) -> None:
        until = time.monotonic() + _LAST_WORDS
        while time.monotonic() < until:
            data = self._slot.read_output()
            if not data:
                return
            sink.add(reader.feed(data))

    def _ended(self, answer: dict[str, Any], cause: str | None) -> Ended | None:
        if "refused" in answer:
            return Ended(None, cause, refused=answer["refused"])
        if cause is None:
            return Ended(answer["exit"]) if "exit" in answer else None
        # Its own process is often the first to go: the step is over when its whole tree is.
        return None if self._slot.left(answer) is None else Ended(None, cause)
