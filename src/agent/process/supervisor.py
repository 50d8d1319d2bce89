"""The supervisor process: runs the commands of one build at a time and ends every process that they started.

It is the subreaper of its descendants: a process that detaches itself with setsid or a double fork stays a descendant
of the supervisor, so processes of two builds are never mixed up. The supervisor never gets the node's token. When the
agent ends in any way, even by SIGKILL, the supervisor kills its descendants and exits.

The agent (`supervisor_client`) sends JSON messages, one a line, through the socket at standard input. The commands'
output goes to standard output.

    -> {"run": {"argv", "cwd", "env", "account": null | [uid, gid, [group]], "record": file, "output": null | file,
               "errors": null | pipe}}
                                      <- {"exit": code} or {"refused": why it cannot be started}
    -> {"end": grace, "number": n}    <- {"left": number of processes that could not be ended, "number": n}

`grace` is the time in seconds from SIGTERM to SIGKILL. Before `end` is answered, it may be sent again, with a higher
number and less grace. Then only the last `end` is answered.
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

from agent.process import keyrings, linux, namespaces, orphans
from agent.process.privileges import SLOT_UIDS, BuildAccount

_POLL_INTERVAL_S = 0.02  # between two checks whether the processes that are being ended are gone
_KILL_TIMEOUT_S = 5.0  # from the first SIGKILL until the remaining processes are reported as impossible to end


def serve(isolated: bool) -> int:
    """Carry out the agent's messages until it closes the socket. Return the exit code.

    With `isolated`, each build has namespaces of its own. They end when `end` is answered; the next build gets new
    ones.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Only the closed socket ends this process. A handler instead of SIG_IGN, which commands would inherit.
        signal.signal(number, lambda *_: None)
    linux.hide_from_others_of_this_user()
    return namespaces.run_inside(lambda: _serve(isolated=True)) if isolated else _serve(isolated=False)


def _serve(isolated: bool) -> int:
    linux.adopt_orphans()
    with socket.socket(fileno=os.dup(0)) as control:
        supervisor = _ProcessSupervisor(control, isolated)
        supervisor.serve()
        return 0 if supervisor.is_agent_gone else namespaces.AGAIN


class _ProcessSupervisor:
    def __init__(self, control: socket.socket, isolated: bool) -> None:
        self._control = control
        self._isolated = isolated
        self._has_begun = False  # has run the first command of a build
        self._received = b""
        self.is_agent_gone = False
        self._leader = 0  # process id of the command that runs
        self._number = 0  # of the last `end` message
        self._kill_at: float | None = None  # monotonic time of the first SIGKILL, while processes are being ended
        self._wake, write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def serve(self) -> None:
        while True:
            ending = self._kill_at is not None
            watched: list[Any] = [self._wake] if self.is_agent_gone else [self._wake, self._control]
            readable, _, _ = select.select(watched, [], [], _POLL_INTERVAL_S if ending else None)
            if self._wake in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            if self._control in readable:
                self._receive()
            self._reap()
            if self._kill_at is not None and self._continue_ending(self._kill_at) and self._isolated:
                return
            if self.is_agent_gone and self._kill_at is None:
                return

    def _receive(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self.is_agent_gone = True
            self._begin_ending(0)
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "run" in message:
                self._run(**message["run"])
            else:
                self._number = message["number"]
                self._begin_ending(message["end"])

    def _run(
        self,
        argv: list[str],
        cwd: str,
        env: dict[str, str],
        account: list[Any] | None,
        record: str,
        output: str | None,
        errors: str | None,
    ) -> None:
        is_first = not self._has_begun
        identity: dict[str, Any] = {}
        if account:
            identity = {"user": account[0], "group": account[1], "extra_groups": account[2]}
            identity["preexec_fn"] = lambda: _restrict(has_user_of_its_own=account[0] in SLOT_UIDS, is_first=is_first)
        try:
            if is_first:
                keyrings.begin_session()
            if is_first and self._isolated:
                # The record is in the build's folder.
                namespaces.hide_shared_folders(os.path.dirname(record), BuildAccount(*account) if account else None)
            self._has_begun = True
            with _open(output) as stdout, _open(errors) as stderr:
                process = subprocess.Popen(
                    argv,
                    cwd=cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                    **identity,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._answer({"refused": str(error)})
            return
        self._leader = process.pid
        with contextlib.suppress(OSError):  # a full disk: the next agent can still find the process by its environment
            orphans.record_process(record, process.pid)
        process.returncode = 0  # keeps Popen from waiting for the process: `_reap` waits for all descendants

    def _begin_ending(self, grace: float) -> None:
        if self._kill_at is None and grace:
            self._signal_all(signal.SIGTERM)
        kill_at = time.monotonic() + grace
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)

    def _continue_ending(self, kill_at: float) -> bool:
        """Kill the descendants when the time `kill_at` has come. Answer the `end` message when no descendant is left,
        or when `_KILL_TIMEOUT_S` have passed since `kill_at`. Return whether this call has sent the answer.
        """
        left = linux.list_descendants(os.getpid())
        now = time.monotonic()
        if left and now < kill_at + _KILL_TIMEOUT_S:
            if now >= kill_at:
                self._signal_all(signal.SIGKILL)
            return False
        self._kill_at = None
        self._has_begun = False
        self._answer({"left": len(left), "number": self._number})
        return True

    def _signal_all(self, number: int) -> None:
        for pid in linux.list_descendants(os.getpid()):
            # The process ended meanwhile, or, where builds run as the agent's own user, became another user.
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
                self._answer({"exit": code if code >= 0 else 128 - code})  # 128 + signal, like a shell

    def _answer(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the agent is gone: the next `recv` reports it
            self._control.sendall(json.dumps(message).encode() + b"\n")


def _open(path: str | None) -> contextlib.AbstractContextManager[Any]:
    """Open the file to which a command's output goes. If `path` is None, the output goes to this process's standard
    output.
    """
    return open(path, "wb", buffering=0) if path else contextlib.nullcontext(1)


def _restrict(has_user_of_its_own: bool, is_first: bool) -> None:
    """Keep this process from using files and keys of other builds. Call it when the process already runs as the user of
    its build. `is_first` marks the first process of a build.
    """
    # Otherwise it could run a file that another build has made setuid, and would get that build's user.
    linux.refuse_new_privileges()
    if has_user_of_its_own and is_first:
        keyrings.clear_user_rings()
