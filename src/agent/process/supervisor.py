"""The agent's side of a slot (see `slot`): starts the supervisor process and talks to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from agent.process.entry import command_line

Account = Sequence[Any]
_PATIENCE = 0.8  # for a supervisor to end its processes and itself
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH")


class SlotLost(Exception):
    """The supervisor process is gone, and with it what we knew about its build's processes."""


class Slot:
    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*command_line(), "slot"],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                cwd="/",
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        os.set_blocking(self.output, False)
        self._received = b""
        self._ends = 0

    def run(
        self,
        argv: Sequence[str],
        cwd: str,
        env: dict[str, str],
        account: Account | None,
        record: str,
        errors: str | None = None,
    ) -> None:
        """`record`: where the process is written down, see `orphans`. `errors`: a named pipe for standard error, which
        otherwise goes where standard output does.
        """
        about = {"argv": list(argv), "cwd": cwd, "env": env, "account": account, "record": record, "errors": errors}
        self._send({"run": about})

    def end(self, grace: float) -> None:
        self._ends += 1
        self._send({"end": grace, "number": self._ends})

    def answers(self) -> list[dict[str, Any]]:
        """Blocks until the supervisor says something."""
        try:
            data = self.control.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            raise SlotLost
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def left(self, answer: dict[str, Any]) -> int | None:
        """How many processes outlived the last `end`, when this answers it."""
        return answer["left"] if answer.get("number") == self._ends else None

    def read_output(self) -> bytes | None:
        """What was printed and not yet read; None when there is nothing now."""
        try:
            return os.read(self.output, 1 << 16) or None
        except BlockingIOError:
            return None

    def close(self) -> None:
        """The supervisor ends its processes, then itself."""
        self.control.close()

    def wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise SlotLost from None


class Slots:
    """Slots are started ahead and used again: a build's first command does not wait for a process to load."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Slot] = []
        self._all: list[Slot] = []

    def warm(self) -> None:
        with self._lock:
            if not self._idle:
                self._idle.append(self._start())

    def take(self) -> Slot:
        with self._lock:
            return self._idle.pop() if self._idle else self._start()

    def give_back(self, slot: Slot) -> None:
        with self._lock:
            self._idle.append(slot)

    def discard(self, slot: Slot) -> None:
        slot.close()
        slot.wait(_PATIENCE)
        with self._lock, contextlib.suppress(ValueError):
            self._all.remove(slot)

    def close(self) -> None:
        with self._lock:
            for slot in self._all:
                slot.close()
            until = time.monotonic() + _PATIENCE
            for slot in self._all:
                slot.wait(max(until - time.monotonic(), 0))
            self._all.clear()

    def _start(self) -> Slot:
        slot = Slot()
        self._all.append(slot)
        return slot
