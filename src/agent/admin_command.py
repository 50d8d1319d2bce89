"""Runs a shell line of an administrator outside any build: as the builds' user, in an empty folder."""

from __future__ import annotations

import os
import secrets
import selectors
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.build.workspace import Workspace
from agent.console import print_line
from agent.context import AgentContext
from agent.process.privileges import BuildAccount
from agent.process.supervisor_client import SupervisorClient, SupervisorLost
from agent.server_client import RequestAbandoned, RequestRefused, TokenRefused
from agent.server_request import RetryPause
from agent.task import Task

MAX_OUTPUT_BYTES = 256 * 1024  # of standard output and of standard error each, as the protocol says
_EXIT_CANNOT_RUN = 126  # exit code of shells for a command that cannot be executed
_CHUNK_BYTES = 1 << 16
_LAST_CHUNKS = 64  # most chunks to read after the last process has ended: 4 MiB, more than a pipe can hold


class AdminCommand(Task):
    def __init__(self, message: dict[str, Any], context: AgentContext) -> None:
        super().__init__()
        self._id = str(message["command_id"])
        self._line: str = message["command"]
        self._deadline = time.monotonic() + message["timeout_s"]
        self._context = context
        self._output, self._errors = OutputTail(), OutputTail()
        self._exit_code: int | None = None
        self._timed_out = False

    def run(self) -> None:
        try:
            try:
                self._run()
            except OSError as error:
                self._fail(str(error))
            post_result(self._context, self._id, self._result(), self._pause)
        except RequestAbandoned:
            print_line(f"Dropped the result of command {self._id}: {self._why_abandoned}")
        except (RequestRefused, TokenRefused, OSError) as why:
            print_line(f"Dropped the result of command {self._id}: {why}")
        finally:
            self._interrupt.close()

    def _run(self) -> None:
        with self._context.lease_account() as account:
            self._run_as(account)

    def _run_as(self, account: BuildAccount | None) -> None:
        workspace = Workspace(self._context.builds / f"command-{secrets.token_hex(8)}", account)
        supervisors = self._context.supervisors
        try:
            supervisor = supervisors.acquire()
            try:
                survivors = self._run_in(supervisor, workspace)
            except BaseException as error:
                supervisors.discard(supervisor)
                if isinstance(error, SupervisorLost):
                    self._errors.add(b"The supervisor process of this command was killed.\n")
                    return
                raise
            supervisors.release(supervisor, survivors)
        finally:
            workspace.remove()

    def _run_in(self, supervisor: SupervisorClient, workspace: Workspace) -> int:
        """Run the shell line, then kill all processes that it has left running. Return the number of processes that
        could not be killed.
        """
        errors = _ErrorPipe(workspace.folder / "errors", workspace.account)
        try:
            with selectors.DefaultSelector() as selector:
                for source in (supervisor.output, errors.fd, supervisor.control, self._interrupt):
                    selector.register(source, selectors.EVENT_READ)
                argv = ["/bin/sh", "-c", self._line]
                env = workspace.base_environment()
                account = workspace.account
                supervisor.run(argv, str(workspace.root), env, account, workspace.record, str(errors.path))
                survivors = self._wait(selector, supervisor, errors)
            for _ in range(_LAST_CHUNKS):
                if not self._read_output(supervisor, errors):
                    break
            return survivors
        finally:
            os.close(errors.fd)

    def _wait(self, selector: selectors.BaseSelector, supervisor: SupervisorClient, errors: _ErrorPipe) -> int:
        is_ending = False
        while True:
            timeout = None if is_ending else max(self._deadline - time.monotonic(), 0)
            ready = [key.fileobj for key, _ in selector.select(timeout)]
            self._read_output(supervisor, errors)
            is_over = False
            for answer in supervisor.receive() if supervisor.control in ready else []:
                survivors = supervisor.count_survivors(answer)
                if survivors is not None:
                    return survivors
                if not is_ending and ("exit" in answer or "refused" in answer):
                    is_over, self._exit_code = True, answer.get("exit")
                    if "refused" in answer:
                        self._fail(answer["refused"])
            if self._interrupt in ready:
                self._interrupt.acknowledge()
            if not is_ending and not is_over:
                self._timed_out = time.monotonic() >= self._deadline
                is_over = self._timed_out or self._interrupt.cause is not None
            if is_over:
                is_ending = True
                supervisor.end(0)

    def _read_output(self, supervisor: SupervisorClient, errors: _ErrorPipe) -> bool:
        """Read at most one chunk of standard output and one of standard error. Return whether there was any output."""
        found = supervisor.read_output(), errors.read()
        self._output.add(found[0] or b"")
        self._errors.add(found[1])
        return any(found)

    def _fail(self, why: str) -> None:
        self._exit_code = _EXIT_CANNOT_RUN
        self._errors.add(f"The agent cannot run this command: {why}\n".encode("utf-8", "replace"))

    def _result(self) -> dict[str, object]:
        if self._interrupt.detail:
            self._errors.add(f"Ended early: {self._interrupt.detail}\n".encode())
        return {
            "exit_code": self._exit_code,
            "stdout": self._output.text(),
            "stderr": self._errors.text(),
            "truncated": self._output.is_cut or self._errors.is_cut,
            "timed_out": self._timed_out,
        }


class OutputTail:
    """Stores the last `MAX_OUTPUT_BYTES` of all output that is added to it."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.is_cut = False

    def add(self, data: bytes) -> None:
        self._bytes += data
        excess = len(self._bytes) - MAX_OUTPUT_BYTES
        if excess > 0:
            self.is_cut = True
            del self._bytes[:excess]

    def text(self) -> str:
        data = self._bytes
        if self.is_cut:  # skip the rest of a character that the cut divided, at most three bytes
            start = next((at for at, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
            data = data[start:]
        return data.decode("utf-8", "replace")


class _ErrorPipe:
    """Named pipe that carries the standard error of the shell line. Standard output goes through the supervisor's own
    pipe.
    """

    def __init__(self, path: Path, account: BuildAccount | None) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        if account:
            os.chown(path, account.uid, account.gid)  # a command that opens /dev/stderr opens this path again
        # Also open for writing: otherwise the pipe is at its end, and always ready, when no process has it open.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> bytes:
        try:
            return os.read(self.fd, _CHUNK_BYTES)
        except BlockingIOError:
            return b""


def post_result(context: AgentContext, command_id: str, result: Mapping[str, object], pause: RetryPause) -> None:
    context.server.post(f"/api/v3/agent/commands/{quote(command_id, '')}/result", result, pause=pause)
