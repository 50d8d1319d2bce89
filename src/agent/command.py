"""A shell line of an administrator, outside any build: as the builds' user, in an empty folder."""

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
from agent.console import say
from agent.process.privileges import Account
from agent.process.supervisor import Slot, SlotLost
from agent.server import GivenUp, Pause, Refused
from agent.settings import Settings
from agent.task import Task

KEPT = 256 * 1024
CANNOT_RUN = 126  # as shells say it
_CHUNK = 1 << 16
_LAST_CHUNKS = 64


class Command(Task):
    def __init__(self, message: dict[str, Any], settings: Settings) -> None:
        super().__init__()
        self._id = str(message["command_id"])
        self._line: str = message["command"]
        self._deadline = time.monotonic() + message["timeout_s"]
        self._settings = settings
        self._output, self._errors = Tail(), Tail()
        self._exit_code: int | None = None
        self._timed_out = False

    def run(self) -> None:
        try:
            try:
                self._run()
            except OSError as error:
                self._cannot(str(error))
            post_result(self._settings, self._id, self._result(), self._pause)
        except (Refused, GivenUp, OSError) as why:
            say(f"Dropped the result of command {self._id}: {why}")
        finally:
            self._interrupt.close()

    def _run(self) -> None:
        workspace = Workspace(self._settings.builds / f"command-{secrets.token_hex(8)}", self._settings.account)
        slots = self._settings.slots
        try:
            slot = slots.take()
            try:
                left = self._follow(slot, workspace)
            except BaseException as error:
                slots.discard(slot)
                if isinstance(error, SlotLost):
                    self._errors.add(b"The supervisor process of this command was killed.\n")
                    return
                raise
            (slots.discard if left else slots.give_back)(slot)
        finally:
            workspace.remove()

    def _follow(self, slot: Slot, workspace: Workspace) -> int:
        """Until its last process is gone; the number of those that could not be ended."""
        errors = _Pipe(workspace.folder / "errors", self._settings.account)
        try:
            with selectors.DefaultSelector() as selector:
                for source in (slot.output, errors.fd, slot.control, self._interrupt):
                    selector.register(source, selectors.EVENT_READ)
                argv = ["/bin/sh", "-c", self._line]
                env = workspace.base_environment()
                slot.run(argv, str(workspace.root), env, self._settings.account, workspace.record, str(errors.path))
                left = self._watch(selector, slot, errors)
            for _ in range(_LAST_CHUNKS):
                if not self._read(slot, errors):
                    break
            return left
        finally:
            os.close(errors.fd)

    def _watch(self, selector: selectors.BaseSelector, slot: Slot, errors: _Pipe) -> int:
        ending = False
        while True:
            patience = None if ending else max(self._deadline - time.monotonic(), 0)
            ready = [key.fileobj for key, _ in selector.select(patience)]
            self._read(slot, errors)
            over = False
            for answer in slot.answers() if slot.control in ready else []:
                left = slot.left(answer)
                if left is not None:
                    return left
                if not ending and ("exit" in answer or "refused" in answer):
                    over, self._exit_code = True, answer.get("exit")
                    if "refused" in answer:
                        self._cannot(answer["refused"])
            if self._interrupt in ready:
                self._interrupt.acknowledge()
            if not ending and not over:
                self._timed_out = time.monotonic() >= self._deadline
                over = self._timed_out or self._interrupt.cause is not None
            if over:
                ending = True
                slot.end(0)

    def _read(self, slot: Slot, errors: _Pipe) -> bool:
        """Takes what is there, at most a chunk of each."""
        found = slot.read_output(), errors.read()
        self._output.add(found[0] or b"")
        self._errors.add(found[1])
        return any(found)

    def _cannot(self, why: str) -> None:
        self._exit_code = CANNOT_RUN
        self._errors.add(f"The agent cannot run this command: {why}\n".encode("utf-8", "replace"))

    def _result(self) -> dict[str, object]:
        if self._interrupt.detail:
            self._errors.add(f"Ended early: {self._interrupt.detail}\n".encode())
        return {
            "exit_code": self._exit_code,
            "stdout": self._output.text(),
            "stderr": self._errors.text(),
            "truncated": self._output.cut or self._errors.cut,
            "timed_out": self._timed_out,
        }


class Tail:
    """The end of what is printed, in bounded memory."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.cut = False

    def add(self, data: bytes) -> None:
        self._kept += data
        beyond = len(self._kept) - KEPT
        if beyond > 0:
            self.cut = True
            del self._kept[:beyond]

    def text(self) -> str:
        whole = self._kept
        if self.cut:  # perhaps inside a character, whose rest is at most three bytes
            start = next((at for at, byte in enumerate(whole[:4]) if byte & 0xC0 != 0x80), 0)
            whole = whole[start:]
        return whole.decode("utf-8", "replace")


class _Pipe:
    """Where standard error goes: the slot's own pipe is for standard output."""

    def __init__(self, path: Path, account: Account | None) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        if account:
            os.chown(path, account.uid, account.gid)  # who opens /dev/stderr opens it anew
        # Open for writing too, or it would be at its end, and ready, whenever nobody else writes.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> bytes:
        try:
            return os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return b""


def post_result(settings: Settings, command_id: str, result: Mapping[str, object], pause: Pause) -> None:
    settings.server.post(f"/api/v3/agent/commands/{quote(command_id, '')}/result", result, pause=pause)
