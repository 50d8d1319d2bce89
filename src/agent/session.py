"""The life of the agent beside its builds: connect, hear what to do, tell how the machine is."""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from agent import VERSION, machine
from agent.build import Build
from agent.command import Command, post_result
from agent.say import say
from agent.server import BadToken, Call, GivenUp, Refused, sleep
from agent.settings import Settings
from agent.task import Task

OK, REFUSED, BAD_TOKEN = 0, 1, 2
RESTART = -1  # no exit code: the process goes on
_CONNECT_AGAIN = 10.0
_ANSWER_LATE = 15.0  # a poll may be answered this much later than it promised
_REMEMBERED = 1000
_SHOWN = 50
_GRACE, _REPORT_WITHIN, _ALL_WITHIN = 1.0, 2.0, 4.0


class Session:
    """`outcome` receives the exit code, once there is one."""

    def __init__(self, settings: Settings, once: bool, session_id: str) -> None:
        self.id = session_id
        self.outcome: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._settings = settings
        self._server = settings.server
        self._once = once
        self._max_parallel = 0
        self._poll_s = 30.0
        self._heartbeat_s = 0.0
        self._connected = threading.Event()
        self._lock = threading.Lock()
        self._builds: dict[int, Build] = {}
        self._commands: dict[str, Command] = {}
        self._heard: deque[str] = deque(maxlen=_REMEMBERED)  # ids of commands
        self._threads: list[threading.Thread] = []
        self._full: Call | None = None  # the open poll, when it said that there is no room
        self._taken = False  # with `once`: the one build has come
        self._closing = False

    def start(self) -> None:
        for work in (self._listen, self._beat):
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__, daemon=True).start()

    def close(self, report: bool) -> None:
        """End every build; with `report` tell the server, as far as it answers quickly."""
        with self._lock:
            self._closing = True
            tasks: list[Task] = [*self._builds.values(), *self._commands.values()]
            threads = list(self._threads)
        for task in tasks:
            if report:
                task.shut_down(_GRACE, _REPORT_WITHIN)
            else:
                task.drop()
        until = time.monotonic() + _ALL_WITHIN
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BadToken:
            say(f"{self._server.url} does not accept this token: check it, or register the node again.")
            self.outcome.put(BAD_TOKEN)
        except Exception:
            self.outcome.put(REFUSED)  # a fault of ours: better gone, and seen by the server, than deaf
            raise

    def _listen(self) -> None:
        while True:
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
            with self._lock:
                running = list(self._builds)
            about = {
                "session": self.id,
                "version": VERSION,
                "platform": sys.platform,
                "hostname": socket.gethostname(),
                "cpu_cores": machine.cores(),
                "ram_gb": machine.ram_gb(),
                "running": running,
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
                    self.outcome.put(REFUSED)
                time.sleep(_CONNECT_AGAIN)
        self._max_parallel = int(node["max_parallel"])
        self._poll_s, self._heartbeat_s = float(node["poll_s"]), float(node["heartbeat_s"])
        self._settings.slots.warm()
        self._connected.set()
        say(f"Connected to {self._server.url} as {node['name']}, up to {self._max_parallel} builds at once.")

    def _hear(self) -> None:
        with self._lock:
            free = self._free()
            call = Call()
            self._full = None if free else call
        try:
            message = self._server.get(
                "/api/v3/agent/next",
                timeout=self._poll_s + _ANSWER_LATE,
                pause=sleep,
                call=call,
                session=self.id,
                free=free,
            )
        except GivenUp:
            return  # cut short, since there is room for a build again
        finally:
            with self._lock:
                self._full = None
        if message:
            self._obey(message)

    def _obey(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "run":
            self._begin(message["build"])
        elif kind == "stop":
            with self._lock:
                build = self._builds.get(message["build_id"])
            if build and build.attempt == message["attempt"]:
                build.stop(message["reason"])
        elif kind in ("execute", "restart"):
            self._begin_command(message)
        else:
            say(f"Ignored a message that this version does not know: {str(kind)[:_SHOWN]!r}")

    def _free(self) -> int:
        if self._once:
            return 0 if self._taken else 1
        return max(self._max_parallel - len(self._builds), 0)

    def _begin(self, message: dict[str, Any]) -> None:
        with self._lock:
            other = self._builds.get(message["id"])
            if self._closing or (other and other.attempt >= message["attempt"]):
                return  # the message came twice
            if other:
                other.drop()
            build = self._builds[message["id"]] = Build(message, self._settings)
            self._taken = True
            self._start_thread(self._run, build)

    def _begin_command(self, message: dict[str, Any]) -> None:
        command_id = str(message["command_id"])
        with self._lock:
            if self._closing or command_id in self._heard:
                return  # the message came twice
            self._heard.append(command_id)
            if message["type"] == "restart":
                self._start_thread(self._restart, command_id)
            else:
                self._commands[command_id] = Command(message, self._settings)
                self._start_thread(self._run_command, command_id)

    def _start_thread(self, work: Callable[[Any], None], what: object) -> None:
        """Under the lock."""
        thread = threading.Thread(target=work, args=(what,), name=work.__name__, daemon=True)
        self._threads = [thread, *(old for old in self._threads if old.is_alive())]
        thread.start()

    def _run_command(self, command_id: str) -> None:
        try:
            self._commands[command_id].run()
        finally:
            with self._lock:
                del self._commands[command_id]

    def _restart(self, command_id: str) -> None:
        result = {"exit_code": 0, "stdout": "", "stderr": "", "truncated": False, "timed_out": False}
        try:
            post_result(self._settings, command_id, result, lambda seconds: sleep(seconds) or self._closing)
        except (Refused, GivenUp) as why:
            say(f"Not restarted: {why}")
            return
        say("Restarting, as the server asks.")
        self.outcome.put(RESTART)

    def _run(self, build: Build) -> None:
        try:
            build.run()
        finally:
            with self._lock:
                if self._builds.get(build.id) is build:
                    del self._builds[build.id]
                if self._full and self._free():
                    # The server hears only from a new poll that there is room again.
                    self._full.cut_short()
        if self._once:
            self.outcome.put(OK)

    def _beat(self) -> None:
        self._connected.wait()
        gauge = machine.Gauge(self._settings.workdir)
        while True:
            with self._lock:
                running = [[build.id, build.attempt] for build in self._builds.values()]
            state = {"session": self.id, **gauge.read(), "running": running}
            try:
                answer = self._server.post("/api/v3/agent/heartbeat", state, pause=sleep)
            except BadToken:
                raise
            except Refused:
                answer = None  # not our node's session any more: the poll learns it too, and connects
            for build_id, _ in (answer or {}).get("lost", []):
                with self._lock:
                    build = self._builds.get(build_id)
                if build:
                    build.drop()
            time.sleep(self._heartbeat_s)
