"""The agent's session with the server: connect, hear what to do, tell how the machine is."""

from __future__ import annotations

import socket
import sys
import threading
import time
from typing import Any

from agent import VERSION, machine, takeover
from agent.console import say
from agent.server import BadToken, GivenUp, Refused, sleep
from agent.settings import Settings
from agent.work import BAD_TOKEN, REFUSED, Work

_CONNECT_AGAIN = 10.0
_ANSWER_LATE = 15.0  # a poll may be answered this much later than it promised
_SHOWN = 50


class Session:
    def __init__(self, settings: Settings, work: Work, once: bool, secret: str) -> None:
        self.secret = secret
        self.id = takeover.session_id(secret)
        self._settings = settings
        self._server = settings.server
        self._work = work
        self._once = once
        self._predecessor = takeover.inherited(settings.workdir)
        self._poll_s = 30.0
        self._heartbeat_s = 0.0
        self._connected = threading.Event()
        self._receipt = ""  # of the last message that arrived

    def start(self) -> None:
        for work in (self._listen, self._beat):
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__, daemon=True).start()

    @property
    def is_connected(self) -> bool:
        """It was the node's at some time."""
        return self._connected.is_set()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BadToken:
            say(f"{self._server.url} does not accept this token: check it, or register the node again.")
            self._work.outcome.put(BAD_TOKEN)
        except Exception:
            self._work.outcome.put(REFUSED)  # a fault of ours: better gone, and seen by the server, than deaf
            raise

    def _listen(self) -> None:
        while not self._work.closing:
            self._connect()
            try:
                while True:
                    self._hear()
            except BadToken:
                raise
            except Refused as refused:
                if refused.status != 409:
                    say(f"The poll was refused: {refused}")
                    time.sleep(_CONNECT_AGAIN)

    def _connect(self) -> None:
        said = ""
        while True:
            about = {
                "session": self.id,
                "version": VERSION,
                "platform": sys.platform,
                "hostname": socket.gethostname(),
                "cpu_cores": machine.cores(),
                "ram_gb": machine.ram_gb(),
                "running": [build_id for build_id, _ in self._work.running()],
                "replaces": self._predecessor,
            }
            try:
                node = self._server.post("/api/v3/agent/connect", about, pause=sleep)
                break
            except BadToken:
                raise
            except Refused as refused:
                if said != str(refused):
                    said = str(refused)
                    say(f"The server refuses this agent: {refused}")
                if self._once:
                    self._work.outcome.put(REFUSED)
                time.sleep(_CONNECT_AGAIN)
        takeover.bequeath(self._settings.workdir, self.secret)
        self._work.max_parallel = int(node["max_parallel"])
        self._poll_s, self._heartbeat_s = float(node["poll_s"]), float(node["heartbeat_s"])
        self._settings.slots.warm()
        self._connected.set()
        say(f"Connected to {self._server.url} as {node['name']}, up to {self._work.max_parallel} builds at once.")

    def _hear(self) -> None:
        call, free = self._work.poll_begins()
        try:
            message = self._server.get(
                "/api/v3/agent/next",
                timeout=self._poll_s + _ANSWER_LATE,
                pause=sleep,
                call=call,
                session=self.id,
                free=free,
                receipt=self._receipt,
            )
        except GivenUp:
            return  # cut short: there is more room for builds than it said, or none any more
        finally:
            self._work.poll_ends()
        if message:
            self._obey(message)
            self._receipt = str(message.get("receipt") or "")

    def _obey(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "run":
            self._work.begin_build(message["build"])
        elif kind == "stop":
            self._work.stop_build(message)
        elif kind in ("execute", "restart"):
            self._work.begin_command(message)
        else:
            say(f"Ignored a message that this version does not know: {str(kind)[:_SHOWN]!r}")

    def _beat(self) -> None:
        self._connected.wait()
        gauge = machine.Gauge(self._settings.workdir)
        while True:
            state = {"session": self.id, **gauge.read(), "running": self._work.running()}
            try:
                answer = self._server.post("/api/v3/agent/heartbeat", state, pause=sleep)
            except BadToken:
                raise
            except Refused:
                answer = None  # not our node's session any more: the poll learns it too, and connects
            for build_id, _ in (answer or {}).get("lost", []):
                self._work.drop_build(build_id)
            time.sleep(self._heartbeat_s)
