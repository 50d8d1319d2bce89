"""What happens in a build's workspace: checkout, setup, command, collection; and the verdict of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from agent.build import injection
from agent.build.channel import Channel
from agent.build.checkout import Checkout, CheckoutFailed
from agent.build.collect import Collector
from agent.build.lines import LineReader
from agent.build.log import Log
from agent.build.masking import SHORTEST, Masker
from agent.build.steps import TIMEOUT, Ended, Sink, Steps
from agent.build.workspace import Workspace
from agent.interrupt import STOPPED, Interrupt
from agent.process.supervisor import SlotLost
from agent.server import GivenUp
from agent.settings import Settings

SETUP_FAILED, CHECKOUT_FAILED = "setup_failed", "checkout_failed"
_GLANCE = 0.2
_SHOWN = 200


class Verdict(NamedTuple):
    """As the server is told; what an exit code means beside a report is the server's to decide."""

    exit_code: int | None
    reason: str | None = None
    detail: str | None = None


class _Over(Exception):
    """No further step is run."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict


class Execution:
    def __init__(
        self,
        message: dict[str, Any],
        settings: Settings,
        channel: Channel,
        interrupt: Interrupt,
        deadline: float,
        workspace: Workspace,
        masker: Masker,
        log: Log,
    ) -> None:
        self._message = message
        self._settings = settings
        self._channel = channel
        self._interrupt = interrupt
        self._deadline = deadline
        self._workspace = workspace
        self._masker = masker
        self._log = log
        self._slot = settings.slots.take()
        self._steps = Steps(self._slot, interrupt, deadline, settings.account, workspace.record)
        self._environment: dict[str, str] = {}
        self._since = 0

    def run(self) -> Verdict:
        verdict = self._run_steps()
        if self._since and not self._interrupt.cause:
            try:
                self._collect()
            except OSError as error:
                self._log.say(f"Reports and artifacts were not all collected: {error}")
        if self._interrupt.cause == STOPPED and verdict.reason != STOPPED:
            verdict = self._early(STOPPED)  # while it was collecting
        if verdict.detail:
            verdict = verdict._replace(detail=self._masker.mask_text(verdict.detail))
            self._log.say(f"{(verdict.reason or '').replace('_', ' ').capitalize()}: {verdict.detail}")
        return verdict

    def _run_steps(self) -> Verdict:
        slots = self._settings.slots
        try:
            try:
                verdict = self._run_commands(self._prepare())
            except _Over as over:
                verdict = over.verdict
            except OSError as error:  # a full disk, say: not the build's fault, but it has no result
                verdict = Verdict(None, SETUP_FAILED, f"the agent failed: {error}")
            # Nothing of the build may still write while its files are read.
            left = self._steps.sweep(LineReader(self._masker), self._log)
        except BaseException as error:
            slots.discard(self._slot)
            if isinstance(error, SlotLost):
                return Verdict(None, SETUP_FAILED, "the supervisor process of this build was killed")
            raise
        if left:
            self._log.say(f"{left} processes of this build cannot be ended")
            slots.discard(self._slot)
        else:
            slots.give_back(self._slot)
        return verdict

    def _prepare(self) -> dict[str, str]:
        """Checkout and acknowledgement; the environment of what follows."""
        message = self._message
        self._log.say(f"Build {message['id']} of {message['job_name']}, attempt {message['attempt']}")
        short = [name for name, value in message["secrets"].items() if 0 < len(value) < SHORTEST]
        if short:
            self._log.say(f"Not masked, shorter than {SHORTEST} characters: {', '.join(short)}")
        commit = message.get("commit_sha")
        if message.get("repository"):
            env = self._workspace.base_environment()
            local = self._settings.allow_local_repositories
            try:
                commit = Checkout(self._git, env, self._log.say, local).run(
                    message["repository"], message.get("branch"), commit
                )
            except CheckoutFailed as failed:
                raise _Over(Verdict(None, CHECKOUT_FAILED, str(failed))) from None
        try:
            self._channel.started(commit, self._pause)
        except GivenUp:
            if self._interrupt.dropped:
                raise
            raise _Over(self._early(self._interrupt.cause or TIMEOUT)) from None
        env = self._environment_of_steps(commit)
        self._since = self._workspace.now()  # nothing is collected of a build that found no room for what it needs
        return env

    def _environment_of_steps(self, commit: str | None) -> dict[str, str]:
        message, workspace = self._message, self._workspace
        lists = injection.variables(workspace.folder, workspace.root, message, self._settings.account)
        if message.get("test_ids") is not None:
            self._log.say(f"Only these tests are wanted: {len(message['test_ids'])}, named in $TESTHIDE_TEST_IDS_FILE")
        return injection.with_plugin(workspace.folder, {**lists, **workspace.environment(message, commit)})

    def _run_commands(self, env: dict[str, str]) -> Verdict:
        self._environment = env
        for line in self._message["setup"]:
            self._log.say(f"Setup: {_shown(line)}")
            ended = self._step(["/bin/sh", "-e", "-c", line], env)
            if ended.exit_code != 0:
                detail = f"{_shown(line)} ended with exit code {ended.exit_code}"
                return Verdict(ended.exit_code, SETUP_FAILED, detail)
        command = self._message["command"]
        self._log.say(f"Command: {_shown(command)}")
        ended = self._step(["/bin/sh", "-c", command], env)
        self._log.say(f"Exit code {ended.exit_code}")
        return Verdict(ended.exit_code)

    def _collect(self) -> None:
        collector = Collector(
            self._workspace,
            self._settings.account,
            self._channel,
            self._masker,
            self._log,
            lambda: self._interrupt.cause is not None,
        )
        report = os.path.relpath(self._environment["TESTHIDE_REPORT_XML"] or ".", self._workspace.root)
        collector.run(self._message["artifacts"], report, self._since)

    def _git(self, argv: Sequence[str], env: dict[str, str], shown: bool) -> tuple[int, list[str]]:
        output = _Output(self._log if shown else None)
        ended = self._step(argv, env, output)
        return ended.exit_code or 0, output.lines

    def _step(self, argv: Sequence[str], env: dict[str, str], sink: Sink | None = None) -> Ended:
        """One that ended by itself; with whatever exit code."""
        reader = LineReader(self._masker)
        ended = self._steps.run(argv, str(self._workspace.root), env, reader, sink or self._log)
        if ended.cause:
            raise _Over(self._early(ended.cause))
        if ended.refused:
            raise _Over(Verdict(None, SETUP_FAILED, f"cannot start {argv[0]}: {ended.refused}"))
        return ended

    def _early(self, cause: str) -> Verdict:
        if cause == TIMEOUT:
            return Verdict(None, TIMEOUT, f"it took longer than {self._message['timeout_s']} s")
        return Verdict(None, STOPPED, self._interrupt.detail)

    def _pause(self, seconds: float) -> bool:
        """While the server is away before the first command."""
        until = min(time.monotonic() + seconds, self._deadline)
        while time.monotonic() < until and not self._interrupt.cause:
            self._interrupt.wait_dropped(min(_GLANCE, max(until - time.monotonic(), 0)))
        return self._interrupt.cause is not None or time.monotonic() >= self._deadline


class _Output:
    """What git says is kept, and shown where it is meant for people."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self.lines: list[str] = []

    def add(self, lines: list[str]) -> None:
        if self._log:
            self._log.add(lines)
        self.lines += lines


def _shown(line: str) -> str:
    first, *more = line.strip().splitlines() or [""]
    return first[:_SHOWN] + (" ..." if more or len(first) > _SHOWN else "")
