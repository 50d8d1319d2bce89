"""The agent's session with the server: connect, poll for messages, send heartbeats, sign off.

A session's id is the hash of a secret, which is stored in a file of the work folder. Only one agent at a time can use
the folder. So an agent that shows the secret of an earlier session proves that the agent of that session is gone, and
takes over at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import BUILD_ACCOUNTS, FEATURES, VERSION, machine
from agent.console import print_line
from agent.context import AgentContext
from agent.process import linux
from agent.runner import EXIT_BAD_TOKEN, EXIT_FAILED, TaskRunner
from agent.server_client import RequestAbandoned, RequestRefused, TokenRefused, pause_forever

_SECRET_FILE = "session"  # noqa: S105 (a file name)
_RECONNECT_INTERVAL_S = 10.0  # after a refusal, which usually means that another session of this node is alive
_POLL_MARGIN_S = 15.0  # for which a poll may be late: added to the time in which the server promises to answer it
_SIGN_OFF_TIMEOUT_S = 1.0
_SHOWN_CHARACTERS = 50


class Session:
    def __init__(self, context: AgentContext, runner: TaskRunner, once: bool, secret: str) -> None:
        self.secret = secret
        self._id = hashlib.sha256(secret.encode()).hexdigest()
        self._context = context
        self._server = context.server
        self._runner = runner
        self._once = once
        self._replaces_session = read_secret(context.workdir)
        self._poll_s = 30.0
        self._heartbeat_s = 0.0
        self._connected = threading.Event()
        self._receipt = ""  # of the last message, which the next poll acknowledges

    def start(self) -> None:
        """Start two threads: one polls the server, the other sends heartbeats."""
        for work in (self._poll_forever, self._send_heartbeats):
            threading.Thread(target=self._run_thread, args=(work,), name=work.__name__, daemon=True).start()

    def sign_off(self) -> None:
        """Report to the server that the session is over. Try only once, and for at most `_SIGN_OFF_TIMEOUT_S`: the
        server also notices the end without this report, only later.
        """
        if not self._connected.is_set():
            return

        def post() -> None:
            with contextlib.suppress(RequestRefused, TokenRefused, RequestAbandoned):
                self._server.post("/api/v3/agent/disconnect", {"session": self._id}, pause=lambda _: True)

        thread = threading.Thread(target=post, daemon=True)
        thread.start()
        thread.join(_SIGN_OFF_TIMEOUT_S)

    def _run_thread(self, work: Callable[[], None]) -> None:
        try:
            work()
        except TokenRefused:
            print_line(f"{self._server.url} does not accept this token: check it, or register the node again.")
            self._runner.exit_codes.put(EXIT_BAD_TOKEN)
        except Exception:
            # A defect of the agent: end, which the server notices, instead of going on without this thread.
            self._runner.exit_codes.put(EXIT_FAILED)
            raise

    def _poll_forever(self) -> None:
        while not self._runner.is_closing:
            self._connect()
            try:
                while True:
                    self._poll_once()
            except RequestRefused as refused:
                if refused.status != 409:  # 409: the session is no longer the node's
                    print_line(f"The poll was refused: {refused}")
                    time.sleep(_RECONNECT_INTERVAL_S)

    def _connect(self) -> None:
        printed = ""
        while True:
            request = {
                "session": self._id,
                "version": VERSION,
                "platform": sys.platform,
                "hostname": socket.gethostname(),
                "cpu_cores": machine.count_cores(),
                "ram_gb": machine.read_ram_gb(),
                "running": [build_id for build_id, _ in self._runner.list_builds()],
                "replaces": self._replaces_session,
                "features": [*FEATURES, BUILD_ACCOUNTS] if self._context.has_account_for_each_build else FEATURES,
            }
            try:
                node = self._server.post("/api/v3/agent/connect", request, pause=pause_forever)
                break
            except RequestRefused as refused:
                if printed != str(refused):
                    printed = str(refused)
                    print_line(f"The server refuses this agent: {refused}")
                if refused.status == 404:
                    print_line(f"Is {self._server.url} the address of a Testhide server, without /api/v3?")
                if self._once or (refused.status != 409 and not self._connected.is_set()):
                    self._runner.exit_codes.put(EXIT_FAILED)  # a wrong address, say: trying again does not help
                time.sleep(_RECONNECT_INTERVAL_S)
        write_secret(self._context.workdir, self.secret)
        self._runner.max_parallel = int(node["max_parallel"])
        self._poll_s, self._heartbeat_s = float(node["poll_s"]), float(node["heartbeat_s"])
        self._context.supervisors.prestart()
        self._connected.set()
        print_line(
            f"Connected to {self._server.url} as {node['name']}, up to {self._runner.max_parallel} builds at once."
        )

    def _poll_once(self) -> None:
        cancellation, free = self._runner.begin_poll()
        try:
            message = self._server.get(
                "/api/v3/agent/next",
                timeout=self._poll_s + _POLL_MARGIN_S,
                pause=pause_forever,
                cancellation=cancellation,
                session=self._id,
                free=free,
                receipt=self._receipt,
            )
        except RequestAbandoned:
            return  # cancelled, since `free` has changed
        finally:
            self._runner.end_poll()
        if message:
            self._handle(message)
            self._receipt = str(message.get("receipt") or "")

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "run":
            self._runner.start_build(message["build"])
        elif kind == "stop":
            self._runner.stop_build(message)
        elif kind in ("execute", "restart"):
            self._runner.start_command(message)
        else:
            print_line(f"Ignored a message that this version does not know: {str(kind)[:_SHOWN_CHARACTERS]!r}")

    def _send_heartbeats(self) -> None:
        self._connected.wait()
        gauge = machine.MachineGauge(self._context.workdir)
        while True:
            self._server.tokens.reload()
            running = self._runner.list_builds()
            heartbeat = {"session": self._id, **gauge.read(), "running": running}
            try:
                answer = self._server.post("/api/v3/agent/heartbeat", heartbeat, pause=pause_forever)
            except RequestRefused:
                answer = None  # no longer the node's session: the poll is refused too, and connects again
            lost = dict((answer or {}).get("lost", []))
            for build_id, attempt in running:
                if build_id in lost:
                    self._runner.drop_build(build_id, attempt, str(lost[build_id]))
            time.sleep(self._heartbeat_s)


def write_secret(workdir: Path, secret: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the next agent then waits until the server ends this session
        file = os.open(workdir / _SECRET_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(file, "w", encoding="ascii") as opened:
            opened.write(f"{linux.read_boot_id()} {secret}")


def read_secret(workdir: Path) -> str | None:
    """Return the secret of the last session in this folder. Return None if there is none, or if the machine has been
    restarted since.

    The file also holds the boot id of the machine. So a folder that was copied to another machine, for example in a
    machine image, does not let an agent there take over the session.
    """
    try:
        boot_id, secret = (workdir / _SECRET_FILE).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return secret if boot_id == linux.read_boot_id() else None
