"""The agent's side of a supervisor process: starts it, sends it messages, reads its answers (see `supervisor`)."""

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

from agent.process.privileges import BuildAccount

STOP_GRACE_S = 5.0  # from SIGTERM to SIGKILL, when a build is stopped or takes too long
_SHUTDOWN_TIMEOUT_S = 0.8  # for a supervisor to end its processes and itself, before it is killed
_INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH")


class SupervisorLost(Exception):
    """The supervisor process has ended, so it is no longer known which processes belong to its build."""


class SupervisorClient:
    """Starts one supervisor process and exchanges messages with it.

    `run`, `end` and `receive` raise `SupervisorLost` if the process has ended.
    """

    def __init__(self, command_line: Sequence[str]) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command_line,
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
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
        account: BuildAccount | None,
        record: str,
        errors: str | None = None,
        output: str | None = None,
    ) -> None:
        """Start a command as the user `account`, or as the agent's user if `account` is None.

        `record` is the file in which the supervisor lists the build's processes (see `orphans`). `errors` is a named
        pipe for standard error, and `output` a file for standard output. Output without such a file or pipe is returned
        by `read_output`.
        """
        options = {"argv": list(argv), "cwd": cwd, "env": env, "account": account, "record": record}
        self._send({"run": {**options, "output": output, "errors": errors}})

    def end(self, grace: float) -> None:
        """Ask the supervisor to end its descendants: it sends them SIGTERM, and SIGKILL `grace` seconds later. With a
        grace of 0 it sends only SIGKILL.
        """
        self._ends += 1
        self._send({"end": grace, "number": self._ends})

    def receive(self) -> list[dict[str, Any]]:
        """Wait for data from the supervisor. Return the answers that are complete by then, which may be none."""
        try:
            data = self.control.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            raise SupervisorLost
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def count_survivors(self, answer: dict[str, Any]) -> int | None:
        """Return how many processes the supervisor could not end, if `answer` is the answer to the last `end`. Return
        None for any other answer.
        """
        return answer["left"] if answer.get("number") == self._ends else None

    def read_output(self) -> bytes | None:
        """Return output that the commands have written since the last call, at most 64 KiB. Return None if there is
        none.
        """
        try:
            return os.read(self.output, 1 << 16) or None
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Make the supervisor kill its descendants and exit. Do not wait until it has done so."""
        self.control.close()

    def wait(self, seconds: float) -> None:
        """Wait until the supervisor has exited. Kill it if that takes more than `seconds`."""
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
            raise SupervisorLost from None


class SupervisorPool:
    """Holds idle supervisors for the next builds, so that the first command of a build need not wait until a supervisor
    has started.
    """

    def __init__(self, command_line: Sequence[str]) -> None:
        self._command_line = command_line
        self._lock = threading.Lock()
        self._idle: list[SupervisorClient] = []
        self._all: list[SupervisorClient] = []

    def prestart(self) -> None:
        """Start a supervisor for the next build, unless one is already idle."""
        with self._lock:
            if not self._idle:
                self._idle.append(self._start())

    def acquire(self) -> SupervisorClient:
        with self._lock:
            return self._idle.pop() if self._idle else self._start()

    def release(self, supervisor: SupervisorClient, survivors: int) -> None:
        """Keep the supervisor for the next build. `survivors` is the number of the last build's processes that still
        run below it. If this is not 0, end the supervisor instead.
        """
        if survivors:
            self.discard(supervisor)
            return
        with self._lock:
            self._idle.append(supervisor)

    def discard(self, supervisor: SupervisorClient) -> None:
        supervisor.close()
        supervisor.wait(_SHUTDOWN_TIMEOUT_S)
        with self._lock, contextlib.suppress(ValueError):
            self._all.remove(supervisor)

    def close(self) -> None:
        """End all supervisors and the processes that run below them."""
        with self._lock:
            for supervisor in self._all:
                supervisor.close()
            deadline = time.monotonic() + _SHUTDOWN_TIMEOUT_S
            for supervisor in self._all:
                supervisor.wait(max(deadline - time.monotonic(), 0))
            self._all.clear()

    def _start(self) -> SupervisorClient:
        supervisor = SupervisorClient(self._command_line)
        self._all.append(supervisor)
        return supervisor
