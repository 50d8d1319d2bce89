"""Runs a build in its workspace (checkout, setup, command), collects its results, and gives the verdict."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.build import injection
from agent.build.build_client import BuildClient
from agent.build.cache_transfer import CacheTransfer
from agent.build.caches import Caches
from agent.build.checkout import Checkout, CheckoutFailed, FetchOptions
from agent.build.collection import Collector, FindTimeout
from agent.build.log import Log
from agent.build.masking import SHORTEST_SECRET, Masker
from agent.build.shell import Shell, ShellRefused
from agent.build.steps import TIMEOUT, AddLines, StepResult, Steps
from agent.build.workspace import Workspace
from agent.context import AgentContext
from agent.process.supervisor_client import SupervisorLost
from agent.server_client import RequestAbandoned
from agent.task import STOPPED, Interrupt

SETUP_FAILED, CHECKOUT_FAILED = "setup_failed", "checkout_failed"
_CHECK_INTERVAL_S = 0.2  # between two checks, during a pause, whether there is an interrupt
_SHOWN_CHARACTERS = 200


class BuildVerdict(NamedTuple):
    """Result of a build's commands, as the `finished` call sends it. The server decides whether the build passed."""

    exit_code: int | None
    reason: str | None = None
    detail: str | None = None


class _BuildEnded(Exception):
    """The build ends before its next step. The only argument of the exception is the `BuildVerdict` of the build."""


@dataclass
class Execution:
    _message: dict[str, Any]
    _context: AgentContext
    _client: BuildClient
    _interrupt: Interrupt
    _deadline: float
    _workspace: Workspace
    _masker: Masker
    _log: Log

    def __post_init__(self) -> None:
        self._supervisor = self._context.supervisors.acquire()
        self._steps = Steps(
            self._supervisor, self._interrupt, self._deadline, self._workspace.account, self._workspace, self._masker
        )
        self._report_path = ""
        self._has_command_begun = False
        self._prepared_ns = 0
        """Time (ns) of the workspace's file system just before the first command; 0 until then. A file that was last
        written before this time is not read as a report of this build.
        """

    def run(self) -> BuildVerdict:
        verdict = self._run_steps()
        if self._prepared_ns and not self._interrupt.cause:
            try:
                self._collect()
            except OSError as error:
                lost = f"reports and artifacts were not all collected: {error}"
                # Exit code 0 becomes None, so that the build does not pass.
                verdict = verdict._replace(exit_code=verdict.exit_code or None, detail=verdict.detail or lost)
            except FindTimeout as why:
                verdict = verdict if verdict.reason else BuildVerdict(None, TIMEOUT, str(why))
        if self._interrupt.cause == STOPPED and verdict.reason != STOPPED:
            verdict = self._decide_early_verdict(STOPPED)  # stopped while collecting
        if verdict.detail:
            verdict = verdict._replace(detail=self._masker.mask_text(verdict.detail))
            self._log.note(f"{(verdict.reason or 'command_failed').replace('_', ' ').capitalize()}: {verdict.detail}")
        return verdict

    def _run_steps(self) -> BuildVerdict:
        supervisors = self._context.supervisors
        try:
            try:
                verdict = self._run_commands(self._prepare())
            except _BuildEnded as ended:
                (verdict,) = ended.args
            except OSError as error:  # for example a full disk
                verdict = BuildVerdict(None, SETUP_FAILED, f"the agent failed: {error}")
            # No process of the build may write while the build's files are read.
            survivors = self._steps.kill_remaining(self._log.add)
        except BaseException as error:
            supervisors.discard(self._supervisor)
            if isinstance(error, SupervisorLost):
                reason = None if self._has_command_begun else SETUP_FAILED
                return BuildVerdict(None, reason, "the supervisor process of this build was killed")
            raise
        if survivors:
            self._log.note(f"{survivors} processes of this build cannot be ended")
        supervisors.release(self._supervisor, survivors)
        return verdict

    def _prepare(self) -> dict[str, str]:
        """Check out the commit, report that the build starts, and return the environment of its commands."""
        message = self._message
        self._log.note(f"Build {message['id']} of {message['job_name']}, attempt {message['attempt']}")
        short = [name for name, value in message["secrets"].items() if 0 < len(value) < SHORTEST_SECRET]
        if short:
            self._log.note(f"Not masked, shorter than {SHORTEST_SECRET} characters: {', '.join(short)}")
        if missing := message.get("missing_secrets"):
            self._log.note(f"Secrets that have no value and are not set: {', '.join(missing)}")
        commit = message.get("commit_sha")
        if message.get("repository"):
            env = self._workspace.base_environment()
            options = FetchOptions(**message.get("checkout", {}))
            credentials, allowed = message.get("repository_credentials"), self._context.allowed_repositories
            checkout = Checkout(self._run_git, env, self._log.note, allowed, options, credentials)
            try:
                commit = checkout.run(message["repository"], message.get("branch"), commit)
            except CheckoutFailed as failed:
                raise _BuildEnded(BuildVerdict(None, CHECKOUT_FAILED, str(failed))) from None
        else:
            self._log.note("Nothing is checked out: the job has no repository, and its project no SCM endpoint")
        try:
            self._client.start(commit, self._pause)
        except RequestAbandoned:
            if self._interrupt.is_dropped:
                raise
            raise _BuildEnded(self._decide_early_verdict(self._interrupt.cause or TIMEOUT)) from None
        env = self._prepare_environment(commit)
        self._prepared_ns = self._workspace.read_clock_ns()
        return env

    def _prepare_environment(self, commit: str | None) -> dict[str, str]:
        message, workspace = self._message, self._workspace
        lists = injection.write_lists(workspace.folder, workspace.root, message, self._workspace.account)
        for note in injection.describe_lists(message):
            self._log.note(note)
        injection.install_plugin(workspace.folder)
        env = injection.add_plugin(workspace.folder, {**lists, **workspace.environment(message, commit)})
        self._report_path = env["TESTHIDE_REPORT_XML"]
        return env

    def _run_commands(self, env: dict[str, str]) -> BuildVerdict:
        try:
            with contextlib.closing(Shell(self._workspace, env, self._message.get("shell", "sh"))) as shell:
                self._log.note(f"Steps run in {shell.program}, in {self._workspace.root}")
                caches = self._make_caches()
                caches.restore()
                verdict = self._run_setup(shell) or self._run_command(shell)
                if verdict.exit_code == 0 and not verdict.reason and caches.are_missing:
                    # No process of the build may change what is saved while it is read.
                    if self._steps.kill_remaining(self._log.add):
                        self._log.note("No caches are saved: not all processes of this build can be ended")
                    else:
                        caches.save()
                return verdict
        except ShellRefused as refused:
            return BuildVerdict(None, SETUP_FAILED, str(refused))

    def _make_caches(self) -> Caches:
        def run(argv: Sequence[str], output: str) -> bool:
            # Without the job's variables: they could replace the program `tar`, or the archive that it reads or writes.
            result = self._steps.run(argv, self._workspace.base_environment(), self._log.add, output or None)
            if result.cause and result.cause != TIMEOUT:
                raise _BuildEnded(self._decide_early_verdict(result.cause))
            return result.exit_code == 0

        message, store = self._message, self._context.caches
        transfer = CacheTransfer(self._client, self._pause, message.get("shared_cache_bytes", 0))
        scope, fallback = message.get("cache_scope", ""), message.get("fallback_cache_scope")
        wanted = message.get("caches", [])
        return Caches(store, transfer, scope, fallback, wanted, self._workspace, run, self._log.note)

    def _run_setup(self, shell: Shell) -> BuildVerdict | None:
        """Run the setup lines. Return the verdict of the build if a setup line fails, and None otherwise."""
        pinned = {name: shell.env[name] for name in injection.PINNED if name in shell.env}
        for number, line in enumerate(self._message["setup"], 1):
            self._log.note(f"Setup: {_shorten(line)}")
            result = self._run_step(shell.write_setup(number, line), shell.env, self._log.add)
            if result.exit_code != 0:
                detail = f"{_shorten(line)} ended with exit code {result.exit_code}"
                return BuildVerdict(result.exit_code, SETUP_FAILED, detail)
            if not shell.carry_over():
                self._log.note("Not carried over: what this line exported, since it ended its shell (exit or exec)")
            shell.env = injection.add_plugin(self._workspace.folder, {**shell.env, **pinned})
        return None

    def _run_command(self, shell: Shell) -> BuildVerdict:
        self._report_path = shell.env.get("TESTHIDE_REPORT_XML", "")
        command = self._message["command"]
        self._log.note(f"Command: {_shorten(command)}")
        self._has_command_begun = True
        result = self._run_step(shell.write_command(command), shell.env, self._log.add)
        self._log.note(f"Exit code {result.exit_code}")
        return BuildVerdict(result.exit_code)

    def _collect(self) -> None:
        account = self._workspace.account
        collector = Collector(self._workspace, account, self._client, self._masker, self._log, self._interrupt)
        report = os.path.relpath(self._report_path or ".", self._workspace.root)
        collector.run(self._message["artifacts"], report, self._prepared_ns)

    def _run_git(self, argv: Sequence[str], env: dict[str, str], is_shown: bool) -> tuple[int, list[str]]:
        output: list[str] = []

        def add_lines(lines: list[str]) -> None:
            output.extend(lines)
            if is_shown:
                self._log.add(lines)

        return self._run_step(argv, env, add_lines).exit_code or 0, output

    def _run_step(self, argv: Sequence[str], env: dict[str, str], add_lines: AddLines) -> StepResult:
        """Run a step and return its result. Raises `_BuildEnded` if the step cannot be started, or if the deadline or
        an interrupt ends it.
        """
        result = self._steps.run(argv, env, add_lines)
        if result.cause:
            raise _BuildEnded(self._decide_early_verdict(result.cause))
        if result.refused:
            raise _BuildEnded(BuildVerdict(None, SETUP_FAILED, f"cannot start {argv[0]}: {result.refused}"))
        return result

    def _decide_early_verdict(self, cause: str) -> BuildVerdict:
        if cause == TIMEOUT:
            return BuildVerdict(None, TIMEOUT, f"it took longer than {self._message['timeout_s']} s")
        return BuildVerdict(None, STOPPED, self._interrupt.detail)

    def _pause(self, seconds: float) -> bool:
        """Wait between two tries of a request. Return True if the request must be given up, because of an interrupt or
        the build's deadline.
        """
        until = min(time.monotonic() + seconds, self._deadline)
        while time.monotonic() < until and not self._interrupt.cause:
            self._interrupt.wait_dropped(min(_CHECK_INTERVAL_S, max(until - time.monotonic(), 0)))
        return self._interrupt.cause is not None or time.monotonic() >= self._deadline


def _shorten(command: str) -> str:
    """Return the first `_SHOWN_CHARACTERS` characters of the command's first line, and ` ...` if there is more."""
    first, *more = command.strip().splitlines() or [""]
    return first[:_SHOWN_CHARACTERS] + (" ..." if more or len(first) > _SHOWN_CHARACTERS else "")
