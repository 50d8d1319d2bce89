"""One build on this machine: from its assignment to the verdict that the server took."""

from __future__ import annotations

import time
import traceback
from typing import Any

from agent.build import masking
from agent.build.channel import Channel
from agent.build.execution import SETUP_FAILED, Execution, Verdict
from agent.build.log import Log
from agent.build.masking import Masker
from agent.build.steps import GRACE
from agent.build.workspace import Workspace
from agent.console import say
from agent.interrupt import STOPPED
from agent.server import BadToken, GivenUp, Refused
from agent.settings import Settings
from agent.task import Task


class Build(Task):
    def __init__(self, message: dict[str, Any], settings: Settings) -> None:
        super().__init__()
        self.id, self.attempt = int(message["id"]), int(message["attempt"])
        self.bad_token = False
        self._message = message
        self._settings = settings
        self._deadline = time.monotonic() + message["timeout_s"]
        self._channel = Channel(settings.server, self.id, self.attempt, self._pause)

    def stop(self, detail: str) -> None:
        self._interrupt.fire(STOPPED, detail, GRACE)

    def run(self) -> None:
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
                verdict = self._verdict(workspace, masker, log)
                if self._interrupt.dropped and not log.failed:
                    raise GivenUp("the server does not want it any more")
                lines = log.finish()
                self._channel.finished(verdict._asdict(), lines)
            finally:
                log.close()
        finally:
            workspace.remove()

    def _verdict(self, workspace: Workspace, masker: Masker, log: Log) -> Verdict:
        try:
            return self._execute(workspace, masker, log)
        except (BadToken, Refused, GivenUp):
            raise
        except Exception as error:
            # Whatever it is: the server believes that the build runs, and nobody else will ever end it.
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{masker.mask_text(repr(error))} at {place.filename}:{place.lineno}"
            say(f"Build {self.id}, attempt {self.attempt}: {what}")
            return Verdict(None, SETUP_FAILED, f"the agent failed: {what}")

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
