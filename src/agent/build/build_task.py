"""Runs one attempt of a build, from its assignment until the server has the verdict."""

from __future__ import annotations

import time
import traceback
from typing import Any

from agent.build.build_client import BuildClient
from agent.build.execution import SETUP_FAILED, BuildVerdict, Execution
from agent.build.log import Log
from agent.build.masking import Masker, find_secrets
from agent.build.workspace import Workspace
from agent.console import print_line
from agent.context import AgentContext
from agent.process.privileges import BuildAccount
from agent.process.supervisor_client import STOP_GRACE_S
from agent.server_client import RequestAbandoned, RequestRefused, TokenRefused
from agent.task import STOPPED, Task


class BuildTask(Task):
    def __init__(self, message: dict[str, Any], context: AgentContext) -> None:
        super().__init__()
        self.id, self.attempt = int(message["id"]), int(message["attempt"])
        self._message = message
        self._context = context
        self._deadline = time.monotonic() + message["timeout_s"]
        self._client = BuildClient(context.server, self.id, self.attempt, self._pause)

    def stop(self, detail: str) -> None:
        """End the build because the server asks for it, and report that it was stopped. `detail` is the reason that the
        server gives.
        """
        self._interrupt.fire(STOPPED, detail, STOP_GRACE_S)

    def run(self) -> None:
        try:
            self._run()
        except TokenRefused:
            pass  # the session's next request is refused too, and ends the agent
        except RequestAbandoned:
            print_line(f"Dropped build {self.id}, attempt {self.attempt}: {self._why_abandoned}")
        except (RequestRefused, OSError) as why:
            print_line(f"Dropped build {self.id}, attempt {self.attempt}: {why}")
        finally:
            self._interrupt.close()

    def _drop_for(self, error: Exception) -> None:
        """Drop the build because its log could not be sent."""
        self.drop(self._why_abandoned if isinstance(error, RequestAbandoned) else str(error))

    def _run(self) -> None:
        with self._context.lease_account() as account:
            self._run_as(account)

    def _run_as(self, account: BuildAccount | None) -> None:
        workspace = Workspace(self._context.builds / f"{self.id}-{self.attempt}", account)
        try:
            masker = Masker(find_secrets(self._message))
            log = Log(str(workspace.folder), masker, self._client.send_log, self._pause, self._drop_for)
            try:
                verdict = self._execute(workspace, masker, log)
                if self._interrupt.is_dropped and not log.has_failed:
                    raise RequestAbandoned
                lines = log.finish()
                self._client.finish(verdict._asdict(), lines)
            finally:
                log.close()
        finally:
            workspace.remove()

    def _execute(self, workspace: Workspace, masker: Masker, log: Log) -> BuildVerdict:
        try:
            return Execution(
                self._message, self._context, self._client, self._interrupt, self._deadline, workspace, masker, log
            ).run()
        except (RequestRefused, TokenRefused, RequestAbandoned):
            raise
        except Exception as error:
            # After any defect of the agent the build must end: the server believes that the build runs.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{masker.mask_text(repr(error))} at {frame.filename}:{frame.lineno}"
            print_line(f"Build {self.id}, attempt {self.attempt}: {what}")
            return BuildVerdict(None, SETUP_FAILED, f"the agent failed: {what}")
