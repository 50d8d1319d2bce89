"""The supervisor process: runs the steps of one build at a time and ends all that came of them.

It is the subreaper of what it starts, so a process that was detached with setsid or a double fork is still
found below it, and the processes of two builds are never mixed up. It never holds the token, and when the
agent dies, however hard, it ends its processes and itself.

Control is JSON, one line a message, on the socket at standard input; what a build prints is standard output.

    -> {"run": {"argv", "cwd", "env", "account": null | [uid, gid, [group]], "record": file, "errors": null | pipe}}
                                      <- {"exit": code} or {"refused": why}
    -> {"end": grace, "number": n}    <- {"left": processes that could not be ended, "number": n}
A tree that is being ended may be asked again, with less grace; the last number is the one that is answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from typing import Any

from agent.process import linux, orphans

_LOOK_AGAIN = 0.02
_KILL_PATIENCE = 5.0


def serve() -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # The agent decides when, by closing the socket. Not SIG_IGN, which what we start would inherit.
        signal.signal(number, lambda *_: None)
    linux.hide_from_others_of_this_user()
    linux.adopt_orphans()
    with socket.socket(fileno=os.dup(0)) as control:
        _Slot(control).serve()
    return 0


class _Slot:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._received = b""
        self._agent_gone = False
        self._leader = self._number = 0
        self._kill_at: float | None = None  # set while the tree is being ended
        self._wake, write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def serve(self) -> None:
        while True:
            ending = self._kill_at is not None
            watched: list[Any] = [self._wake] if self._agent_gone else [self._wake, self._control]
            readable, _, _ = select.select(watched, [], [], _LOOK_AGAIN if ending else None)
            if self._wake in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            if self._control in readable:
                self._receive()
            self._reap()
            if self._kill_at is not None:
                self._end_tree(self._kill_at)
            if self._agent_gone and self._kill_at is None:
                return

    def _receive(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._agent_gone = True
            self._begin_end(0)
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "run" in message:
                self._run(**message["run"])
            else:
                self._number = message["number"]
                self._begin_end(message["end"])

    def _run(
        self,
        argv: list[str],
        cwd: str,
        env: dict[str, str],
        account: list[Any] | None,
        record: str,
        errors: str | None,
    ) -> None:
        identity: dict[str, Any] = {}
        if account:
            identity = {"user": account[0], "group": account[1], "extra_groups": account[2]}
        try:
            with open(errors, "wb", buffering=0) if errors else contextlib.nullcontext(subprocess.STDOUT) as stderr:
                process = subprocess.Popen(
                    argv,
                    cwd=cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,
                    **identity,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._answer({"refused": str(error)})
            return
        self._leader = process.pid
        with contextlib.suppress(OSError):  # a full disk: its environment tells, too
            orphans.record(record, process.pid)
        process.returncode = 0  # reaped here, together with the orphans

    def _begin_end(self, grace: float) -> None:
        if self._kill_at is None and grace:
            self._signal_all(signal.SIGTERM)
        kill_at = time.monotonic() + grace
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)

    def _end_tree(self, kill_at: float) -> None:
        left = linux.descendants(os.getpid())
        now = time.monotonic()
        if left and now < kill_at + _KILL_PATIENCE:
            if now >= kill_at:
                self._signal_all(signal.SIGKILL)
            return
        self._kill_at = None
        self._answer({"left": len(left), "number": self._number})

    def _signal_all(self, number: int) -> None:
        for pid in linux.descendants(os.getpid()):
            # Gone meanwhile, or (builds of the agent's own user only) one that has become another user.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._leader:
                self._leader = 0
                code = os.waitstatus_to_exitcode(status)
                self._answer({"exit": code if code >= 0 else 128 - code})  # as a shell counts signals

    def _answer(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the next read says so
            self._control.sendall(json.dumps(message).encode() + b"\n")
