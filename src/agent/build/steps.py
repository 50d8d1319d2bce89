"""Runs the steps of one build in its supervisor: reads their output, and ends them at a deadline or an interrupt."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.build.lines import LineReader
from agent.build.masking import Masker
from agent.build.workspace import Workspace
from agent.process.privileges import BuildAccount
from agent.process.supervisor_client import STOP_GRACE_S, SupervisorClient
from agent.task import Interrupt

_REST_TIMEOUT_S = 2.0
"""Seconds for which the rest of the output is read after a step has ended. The time is limited, because a process that
still runs may write for ever.
"""
TIMEOUT = "timeout"

AddLines = Callable[[list[str]], None]
"""Function that is called with the masked lines that a step has printed."""


class StepResult(NamedTuple):
    exit_code: int | None
    cause: str | None = None  # TIMEOUT, STOPPED or DROPPED, if the step was ended early
    refused: str | None = None  # why the step could not be started


@dataclass
class Steps:
    """Runs the steps of a build one after the other, each in the workspace as the user `_account`. Ends a step that
    still runs at `_deadline`, a time of the monotonic clock.
    """

    _supervisor: SupervisorClient
    _interrupt: Interrupt
    _deadline: float
    _account: BuildAccount | None
    _workspace: Workspace
    _masker: Masker

    def run(
        self, argv: Sequence[str], env: dict[str, str], add_lines: AddLines, output: str | None = None
    ) -> StepResult:
        """Run a step and return its result when its first process ends. Other processes that the step started run on
        until `kill_remaining`. If `output` names a file, the step's standard output goes there.
        """
        reader = LineReader(self._masker)
        self._supervisor.run(argv, str(self._workspace.root), env, self._account, self._workspace.record, output=output)
        with selectors.DefaultSelector() as selector:
            for source in (self._supervisor.output, self._supervisor.control, self._interrupt):
                selector.register(source, selectors.EVENT_READ)
            result = self._wait(selector, reader, add_lines)
        self._read_rest(reader, add_lines)
        return result

    def kill_remaining(self, add_lines: AddLines) -> int:
        """Kill every process of the build that still runs. Return how many could not be killed."""
        self._supervisor.end(0)
        survivors: int | None = None
        while survivors is None:
            for answer in self._supervisor.receive():
                survivors = self._supervisor.count_survivors(answer)
        self._read_rest(LineReader(self._masker), add_lines)
        return survivors

    def _wait(self, selector: selectors.BaseSelector, reader: LineReader, add_lines: AddLines) -> StepResult:
        cause: str | None = None
        while True:
            timeout = None if cause else max(self._deadline - time.monotonic(), 0)
            ready = [key.fileobj for key, _ in selector.select(timeout)]
            if self._supervisor.output in ready:
                data = self._supervisor.read_output()
                if data:
                    add_lines(reader.feed(data))
            if self._supervisor.control in ready:
                for answer in self._supervisor.receive():
                    result = self._read_result(answer, cause)
                    if result:
                        return result
            if self._interrupt in ready:
                self._interrupt.acknowledge()
            # Checked in every round, not only when select reports it: an interrupt may have come between two steps.
            if self._interrupt.cause and cause != self._interrupt.cause:
                cause = self._interrupt.cause
                self._supervisor.end(self._interrupt.grace)
            elif not cause and time.monotonic() >= self._deadline:
                cause = TIMEOUT
                self._supervisor.end(STOP_GRACE_S)

    def _read_rest(self, reader: LineReader, add_lines: AddLines) -> None:
        deadline = time.monotonic() + _REST_TIMEOUT_S
        while time.monotonic() < deadline:
            data = self._supervisor.read_output()
            if not data:
                break
            add_lines(reader.feed(data))
        add_lines(reader.flush())

    def _read_result(self, answer: dict[str, Any], cause: str | None) -> StepResult | None:
        if "refused" in answer:
            return StepResult(None, cause, refused=answer["refused"])
        if cause is None:
            return StepResult(answer["exit"]) if "exit" in answer else None
        # The first process often ends before its children: a step that is ended early is over when all have ended.
        return None if self._supervisor.count_survivors(answer) is None else StepResult(None, cause)
