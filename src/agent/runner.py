"""Runs the builds and administrator commands that the server sends, each in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from agent.admin_command import AdminCommand, post_result
from agent.build.build_task import BuildTask
from agent.console import print_line
from agent.context import AgentContext
from agent.server_client import RequestAbandoned, RequestRefused, TokenRefused, pause_forever
from agent.server_request import Cancellation
from agent.task import Task

EXIT_OK, EXIT_FAILED, EXIT_BAD_TOKEN = 0, 1, 2
RESTART = -1  # in the queue of exit codes: start the program again instead of exiting
_REMEMBERED_COMMANDS = 1000  # ids, to recognize a message that comes twice
_SHUTDOWN_GRACE_S = 1.0
"""Seconds from SIGTERM to SIGKILL for the processes of a task when the agent ends."""
_REPORT_WITHIN_S = 2.0
"""Seconds that the report of a task may take after its processes have ended, when the agent ends."""
_CLOSE_TIMEOUT_S = 4.0
"""Seconds within which all tasks together must end when the agent ends."""


class TaskRunner:
    """Starts and ends tasks, from any thread. A method whose name ends in `_locked` may be called only by a caller that
    holds the lock.
    """

    def __init__(self, context: AgentContext, once: bool) -> None:
        self.exit_codes: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Queue of exit codes. The agent ends with the first one."""
        self.max_parallel = 0
        self.is_closing = False
        self._context = context
        self._once = once
        self._lock = threading.Lock()
        self._builds: dict[int, BuildTask] = {}
        self._commands: dict[str, AdminCommand] = {}
        self._command_ids: deque[str] = deque(maxlen=_REMEMBERED_COMMANDS)
        self._threads: list[threading.Thread] = []
        self._poll: tuple[Cancellation, int] | None = None  # of the open poll, and the free slots that it reported
        self._has_run_one = False
        self._is_draining = False

    def list_builds(self) -> list[tuple[int, int]]:
        """Return the id and the attempt of each build that runs here."""
        with self._lock:
            return [(build.id, build.attempt) for build in self._builds.values()]

    def begin_poll(self) -> tuple[Cancellation, int]:
        """Return a `Cancellation` for the next poll, and the number of free slots that this poll reports.

        The runner cancels the poll when the number that it reported is wrong: slots became free after it reported 0, or
        `drain` has made the number 0.
        """
        with self._lock:
            self._poll = Cancellation(), self._count_free_locked()
            return self._poll

    def end_poll(self) -> None:
        with self._lock:
            self._poll = None

    def start_build(self, message: dict[str, Any]) -> None:
        """Start the build of a `run` message. Starts it even after `drain`: the server assigned the build before it
        knew that there are no free slots.
        """
        with self._lock:
            other = self._builds.get(message["id"])
            if self.is_closing or (other and other.attempt >= message["attempt"]):
                return  # the message came twice
            if other:
                other.drop("the server has given it to this agent again, as another attempt")
            build = self._builds[message["id"]] = BuildTask(message, self._context)
            self._has_run_one = True
            self._start_thread_locked(self._run_build, build)

    def stop_build(self, message: dict[str, Any]) -> None:
        with self._lock:
            build = self._builds.get(message["build_id"])
        if build and build.attempt == message["attempt"]:
            build.stop(message["reason"])

    def drop_build(self, build_id: int, attempt: int, why: str) -> None:
        """Drop an attempt that the server does not want. Leave a later attempt of the build, which the server may have
        sent meanwhile.
        """
        with self._lock:
            build = self._builds.get(build_id)
        if build and build.attempt == attempt:
            build.drop(f"the server does not want it any more ({why})")

    def start_command(self, message: dict[str, Any]) -> None:
        """Start the administrator's command of an `execute` or `restart` message. Ignore a message that was received
        before.
        """
        command_id = str(message["command_id"])
        with self._lock:
            if self.is_closing or command_id in self._command_ids:
                return  # the message came twice
            self._command_ids.append(command_id)
            if message["type"] == "restart":
                self._start_thread_locked(self._restart, command_id)
            else:
                self._commands[command_id] = AdminCommand(message, self._context)
                self._start_thread_locked(self._run_command, command_id)

    def drain(self) -> None:
        """Take no more builds. When all builds and commands that run have ended, put `EXIT_OK` into `exit_codes`."""
        with self._lock:
            self._is_draining = True
            print_line(
                f"No more builds; ending when those that run are over: {len(self._builds)}. Signal again to end now."
            )
            if self._poll and self._poll[1]:
                self._poll[0].cancel()  # the next poll tells the server that there are no free slots
            self._finish_drain_locked()

    def close(self, report: bool) -> None:
        """End every task within `_CLOSE_TIMEOUT_S`. With `report`, each task also reports its end, if the server
        answers within that time.
        """
        with self._lock:
            self.is_closing = True
            tasks: list[Task] = [*self._builds.values(), *self._commands.values()]
            threads = list(self._threads)
        for task in tasks:
            if report:
                task.shut_down(_SHUTDOWN_GRACE_S, _REPORT_WITHIN_S)
            else:
                task.drop("the agent ends because the server refuses it")
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    @property
    def is_idle(self) -> bool:
        """Whether neither a build nor a command runs."""
        return not any(thread.is_alive() for thread in self._threads)

    def _count_free_locked(self) -> int:
        if self._is_draining:
            return 0
        if self._once:
            return 0 if self._has_run_one else 1
        return max(self.max_parallel - len(self._builds), 0)

    def _finish_drain_locked(self) -> None:
        if self._is_draining and not self._builds and not self._commands:
            self.exit_codes.put(EXIT_OK)

    def _start_thread_locked(self, work: Callable[[Any], None], argument: object) -> None:
        thread = threading.Thread(target=work, args=(argument,), name=work.__name__, daemon=True)
        self._threads = [thread, *(old for old in self._threads if old.is_alive())]
        thread.start()

    def _run_build(self, build: BuildTask) -> None:
        try:
            build.run()
        finally:
            with self._lock:
                if self._builds.get(build.id) is build:
                    del self._builds[build.id]
                if self._poll and not self._poll[1] and self._count_free_locked():
                    self._poll[0].cancel()  # only a new poll tells the server that there is a free slot again
                self._finish_drain_locked()
        if self._once:
            self.exit_codes.put(EXIT_OK)

    def _run_command(self, command_id: str) -> None:
        try:
            self._commands[command_id].run()
        finally:
            with self._lock:
                del self._commands[command_id]
                self._finish_drain_locked()

    def _restart(self, command_id: str) -> None:
        result = {"exit_code": 0, "stdout": "", "stderr": "", "truncated": False, "timed_out": False}
        try:
            post_result(self._context, command_id, result, lambda seconds: pause_forever(seconds) or self.is_closing)
        except (RequestRefused, TokenRefused, RequestAbandoned) as why:
            print_line(f"Not restarted: {why}")
            return
        print_line("Restarting, as the server asks.")
        self.exit_codes.put(RESTART)
