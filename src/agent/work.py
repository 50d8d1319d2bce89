"""What the agent was given: builds, and commands of administrators. Each runs in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from agent.build.build import Build
from agent.command import Command, post_result
from agent.console import say
from agent.server import Call, GivenUp, Refused, sleep
from agent.settings import Settings
from agent.task import Task

OK, REFUSED, BAD_TOKEN = 0, 1, 2
RESTART = -1  # no exit code: the process goes on
_REMEMBERED = 1000
_GRACE, _REPORT_WITHIN, _ALL_WITHIN = 1.0, 2.0, 4.0


class Work:
    """`outcome` receives the exit code, once there is one."""

    def __init__(self, settings: Settings, once: bool) -> None:
        self.outcome: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.max_parallel = 0
        self.closing = False
        self._settings = settings
        self._once = once
        self._lock = threading.Lock()
        self._builds: dict[int, Build] = {}
        self._commands: dict[str, Command] = {}
        self._heard: deque[str] = deque(maxlen=_REMEMBERED)  # ids of commands
        self._threads: list[threading.Thread] = []
        self._poll: tuple[Call, int] | None = None  # the open one, and how much room it told of
        self._taken = False  # with `once`: the one build has come
        self._draining = False

    def running(self) -> list[tuple[int, int]]:
        """Builds and their attempts."""
        with self._lock:
            return [(build.id, build.attempt) for build in self._builds.values()]

    def poll_begins(self) -> tuple[Call, int]:
        """How many builds there is room for; the call is cut short when that is no longer true."""
        with self._lock:
            self._poll = Call(), self._free()
            return self._poll

    def poll_ends(self) -> None:
        with self._lock:
            self._poll = None

    def begin_build(self, message: dict[str, Any]) -> None:
        """Also while draining: it was given to this node before the server heard of that."""
        with self._lock:
            other = self._builds.get(message["id"])
            if self.closing or (other and other.attempt >= message["attempt"]):
                return  # the message came twice
            if other:
                other.drop()
            build = self._builds[message["id"]] = Build(message, self._settings)
            self._taken = True
            self._start_thread(self._run, build)

    def stop_build(self, message: dict[str, Any]) -> None:
        with self._lock:
            build = self._builds.get(message["build_id"])
        if build and build.attempt == message["attempt"]:
            build.stop(message["reason"])

    def drop_build(self, build_id: int) -> None:
        with self._lock:
            build = self._builds.get(build_id)
        if build:
            build.drop()

    def begin_command(self, message: dict[str, Any]) -> None:
        command_id = str(message["command_id"])
        with self._lock:
            if self.closing or command_id in self._heard:
                return  # the message came twice
            self._heard.append(command_id)
            if message["type"] == "restart":
                self._start_thread(self._restart, command_id)
            else:
                self._commands[command_id] = Command(message, self._settings)
                self._start_thread(self._run_command, command_id)

    def drain(self) -> None:
        """Take nothing new; `outcome` comes when all that runs has ended and was delivered."""
        with self._lock:
            self._draining = True
            say(f"No more builds; ending when those that run are over: {len(self._builds)}. Signal again to end now.")
            if self._poll and self._poll[1]:
                self._poll[0].cut_short()  # the server hears from the next one that there is no more room
            self._look_whether_over()

    def close(self, report: bool) -> None:
        """End every build; with `report` tell the server, as far as it answers quickly."""
        with self._lock:
            self.closing = True
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

    @property
    def is_over(self) -> bool:
        """Nothing of it runs any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def _free(self) -> int:
        """Under the lock."""
        if self._draining:
            return 0
        if self._once:
            return 0 if self._taken else 1
        return max(self.max_parallel - len(self._builds), 0)

    def _look_whether_over(self) -> None:
        """Under the lock."""
        if self._draining and not self._builds and not self._commands:
            self.outcome.put(OK)

    def _start_thread(self, work: Callable[[Any], None], what: object) -> None:
        """Under the lock."""
        thread = threading.Thread(target=work, args=(what,), name=work.__name__, daemon=True)
        self._threads = [thread, *(old for old in self._threads if old.is_alive())]
        thread.start()

    def _run(self, build: Build) -> None:
        try:
            build.run()
        finally:
            with self._lock:
                if self._builds.get(build.id) is build:
                    del self._builds[build.id]
                if self._poll and not self._poll[1] and self._free():
                    # The server hears only from a new poll that there is room again.
                    self._poll[0].cut_short()
                self._look_whether_over()
        if self._once:
            self.outcome.put(OK)

    def _run_command(self, command_id: str) -> None:
        try:
            self._commands[command_id].run()
        finally:
            with self._lock:
                del self._commands[command_id]
                self._look_whether_over()

    def _restart(self, command_id: str) -> None:
        result = {"exit_code": 0, "stdout": "", "stderr": "", "truncated": False, "timed_out": False}
        try:
            post_result(self._settings, command_id, result, lambda seconds: sleep(seconds) or self.closing)
        except (Refused, GivenUp) as why:
            say(f"Not restarted: {why}")
            return
        say("Restarting, as the server asks.")
        self.outcome.put(RESTART)
