"""One build on this machine: from its assignment to the verdict that the server took."""

from __future__ import annotations

import time
from typing import Any

from agent import masking
from agent.channel import Channel
from agent.execution import Execution, Verdict
from agent.interrupt import DROPPED, STOPPED, Interrupt
from agent.log import Log
from agent.masking import Masker
from agent.say import say
from agent.server import BadToken, GivenUp, Refused
from agent.settings import Settings
from agent.steps import GRACE
from agent.workspace import Workspace

_GLANCE = 0.2


class Build:
    """`stop`, `drop` and `shut_down` may come from any thread and at any time."""

    def __init__(self, message: dict[str, Any], settings: Settings) -> None:
        self.id, self.attempt = int(message["id"]), int(message["attempt"])
        self.bad_token = False
        self._message = message
        self._settings = settings
        self._interrupt = Interrupt()
        self._deadline = time.monotonic() + message["timeout_s"]
        self._report_until: float | None = None
        self._channel = Channel(settings.server, self.id, self.attempt, self._pause)

    def stop(self, detail: str) -> None:
        self._interrupt.fire(STOPPED, detail, GRACE)

    def drop(self) -> None:
        """Nobody wants it any more: end it without a word."""
        self._interrupt.fire(DROPPED, None, 0)

    def shut_down(self, grace: float, report_within: float) -> None:
        self._report_until = time.monotonic() + grace + report_within
        self._interrupt.fire(STOPPED, "the agent was shut down", grace)

    def run(self) -> None:
        """In a thread of its own; when it returns nothing of the build is left here."""
        try:
            self._run()
        except BadToken:
            self.bad_token = True
        except (Refused, GivenUp, OSError) as why:
            say(f"Dropped build {self.id}, attempt {self.attempt}: {why}")
        finally:
            self._interrupt.close()

    def _run(self) -> None:
        workspace = Workspace(self._settings.builds / f"{self.id}-{self.attempt}", self._settings.account)
        try:
            secrets = [
                *self._message["secrets"].values(),
                *masking.credentials(self._message.get("repository") or ""),
            ]
            masker = Masker(secrets)
            log = Log(str(workspace.folder), masker, self._channel.log, self._pause, self.drop)
            try:
                verdict = self._execute(workspace, masker, log)
                if self._interrupt.dropped and not log.failed:
                    raise GivenUp("the server does not want it any more")
                lines = log.finish()
                self._channel.finished(verdict._asdict(), lines)
            finally:
                log.close()
        finally:
            workspace.remove()

    def _execute(self, workspace: Workspace, masker: Masker, log: Log) -> Verdict:
        execution = Execution(
            self._message,
            self._settings,
            self._channel,
            self._interrupt,
            self._deadline,
            workspace,
            masker,
            log,
        )
        return execution.run()

    def _pause(self, seconds: float) -> bool:
        """Between two tries of a call: true when nobody waits for it any more."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if self._interrupt.dropped or (self._report_until is not None and now >= self._report_until):
                return True
            if now >= until:
                return False
            self._interrupt.wait_dropped(min(_GLANCE, until - now))
