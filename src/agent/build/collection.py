"""Collects the results after the command: sends test reports first, then the artifacts that the job asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

from agent.build.artifacts import UnusablePath, find_files, open_inside
from agent.build.build_client import BuildClient, file_size
from agent.build.log import Log
from agent.build.masking import Masker
from agent.build.report_files import is_report, mask_report
from agent.build.workspace import Workspace
from agent.process.privileges import BuildAccount
from agent.server_client import RequestRefused
from agent.task import Interrupt
from formats.reports import has_report_ending

_OF_BUILD = (404, 409)
"""Statuses with which the server refuses a report because the build is not this agent's any more."""
_MAX_PATH = 1_000
"""Largest number of characters of a path that the server accepts. Of a longer path, the agent sends the end."""
_MAX_SHOWN_WARNINGS = 20
_FIND_TIMEOUT_S = 120.0  # for finding the files of all patterns; a million files take about 10 s


class FindTimeout(Exception):
    """Finding the files took too long; the message says how long."""


@dataclass
class Collector:
    """Sends the reports and artifacts of one build. If the build is interrupted, sends no further file."""

    _workspace: Workspace
    _account: BuildAccount | None
    _client: BuildClient
    _masker: Masker
    _log: Log
    _interrupt: Interrupt
    _find_timeout_s: float = _FIND_TIMEOUT_S

    def run(self, patterns: list[str], report: str, since_ns: int) -> None:
        """Send all reports, then all artifacts. `patterns` are the job's globs. `report` is the path to which the build
        tells its test reporters to write.

        A file that was last written before the time `since_ns` is part of the checkout. It is sent as an artifact, but
        not as a report.

        Raises `FindTimeout`, and sends nothing, if it takes too long to find the files.
        """
        found, denied = self._find_artifacts(patterns)
        paths = dict.fromkeys(path for matched in found.values() for path in matched)
        kinds: dict[str, bool | None] = {}
        for path in sorted([*paths, report], key=_is_twin):
            is_repeated = _is_twin(path) and _has_junit_beside(path, kinds)
            kinds[path] = False if is_repeated else self._send_if_report(path, since_ns)
            if is_repeated:
                self._log.note(f"{show_path(path)}: not read as a report, since JUnit reports beside it were sent")
        for pattern, matched in found.items():
            if self._interrupt.cause or not (pattern in denied or has_report_ending(pattern)):
                continue
            # A folder that may not be read has no file ending, and its reports are not known.
            folders = (path for path in matched if not has_report_ending(path))
            is_denied = pattern in denied or any(map(self._is_denied, folders))
            if is_denied or all(kinds[path] is None for path in matched):
                self._send_missing_report(pattern, is_denied=is_denied)
        for path in paths:
            self._send_artifact(path, is_report=kinds[path] is True)

    def _find_artifacts(self, patterns: list[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Return two values: the paths that each pattern matches, and the patterns whose reports cannot be read, since
        the pattern matches too many files, or reading a folder fails.
        """
        found: dict[str, list[str]] = {}
        denied: list[str] = []
        deadline = time.monotonic() + self._find_timeout_s

        def is_over() -> bool:
            if time.monotonic() >= deadline:
                raise FindTimeout(f"finding reports and artifacts took longer than {self._find_timeout_s:.0f} s")
            return self._interrupt.cause is not None

        for pattern in patterns:
            try:
                paths = find_files(str(self._workspace.root), pattern, is_over)
            except (UnusablePath, OSError) as why:
                self._log.note(f"Artifacts {pattern}: refused, {why}")
                if isinstance(why, OSError) or (why.is_denied and has_report_ending(pattern)):
                    denied.append(pattern)
                found[pattern] = []
                continue
            if not paths and not self._interrupt.cause:
                self._log.note(f"Artifacts {pattern}: no such file")
            found[pattern] = paths
        return found, denied

    def _send_if_report(self, path: str, since_ns: int) -> bool | None:
        """Send the file if it is a report of this build. Return True if it was sent, or if an error kept it from being
        sent. Return False if it has the file ending of a report but is no report or cannot be opened. Return None if
        the file does not count as a report: it has another ending, it is missing or older than the first command, or
        the build was interrupted.
        """
        if not has_report_ending(path) or self._interrupt.cause:
            return None
        try:
            return self._read_report(path, since_ns)
        except OSError as error:  # for example, the disk is too full for a masked copy
            self._log.note(f"{show_path(path)}: not sent as a report, {error}")
            self._send_missing_report(path, is_denied=True)
            return True  # so that it is not sent as an artifact without a mask

    def _read_report(self, path: str, since_ns: int) -> bool | None:
        """Send a file that has the file ending of a report, if it is a report of this build. Return True if it was
        sent, False if it is no report or cannot be opened, and None if it is missing or older than the first command.
        Raises OSError if reading or copying the file fails.
        """
        try:
            file = self._open(path)
        except UnusablePath as why:  # logged when it is sent as an artifact
            if self._is_older(path, since_ns):
                return None
            self._send_missing_report(path, is_denied=why.is_denied)
            return False
        with file:
            if not is_report(path, file):
                self._log.note(f"{show_path(path)}: XML of another kind, not read as a test report")
                return False
            if os.fstat(file.fileno()).st_mtime_ns < since_ns:
                self._log.note(
                    f"{show_path(path)}: not a report of this build, since the file is older than its first command"
                )
                return None
            with mask_report(file, self._masker, self._workspace.folder) as masked:
                self._send_report(path, masked)
        return True

    def _is_older(self, path: str, since_ns: int) -> bool:
        """Return True if there is no file at `path`, or if the file was last written before the time `since_ns`."""
        try:
            return os.lstat(self._workspace.root / path).st_mtime_ns < since_ns
        except PermissionError:
            return False
        except OSError:
            return True

    def _is_denied(self, path: str) -> bool:
        """Return True if there is a file or folder at `path` that the agent cannot read."""
        try:
            self._open(path).close()
        except UnusablePath as why:
            return why.is_denied
        return False

    def _send_missing_report(self, pattern: str, *, is_denied: bool = False) -> None:
        """Report to the server that results are missing. If the build has too many reports, the server refuses this
        one. That refusal is ignored: the last report that the server accepted already keeps the build from passing.
        """
        try:
            self._client.send_missing_report(pattern[-_MAX_PATH:], is_denied=is_denied)
        except RequestRefused as refused:
            if refused.status in _OF_BUILD:
                raise

    def _send_report(self, path: str, file: BinaryIO) -> None:
        try:
            answer = self._client.send_report(path, file)
        except RequestRefused as refused:
            if refused.status in _OF_BUILD:
                raise
            self._log.note(f"{show_path(path)}: not taken, {refused}")
            self._send_missing_report(path, is_denied=True)
        else:
            self._log_report(path, answer)

    def _log_report(self, path: str, answer: Mapping[str, Any]) -> None:
        self._log.note(f"{show_path(path)}: {answer['recorded']} results")
        warnings = answer.get("warnings") or []
        for warning in warnings[:_MAX_SHOWN_WARNINGS]:
            self._log.note(f"{show_path(path)}: {warning}")
        if len(warnings) > _MAX_SHOWN_WARNINGS:
            self._log.note(f"{show_path(path)}: {len(warnings) - _MAX_SHOWN_WARNINGS} more warnings")

    def _send_artifact(self, path: str, is_report: bool) -> None:
        if self._interrupt.cause:
            return
        try:
            with ExitStack() as opened:
                file = opened.enter_context(self._open(path))
                if is_report:  # a report is masked as an artifact too; any other file is sent byte for byte
                    file = opened.enter_context(mask_report(file, self._masker, self._workspace.folder))
                self._client.send_artifact(path, file)
                size = file_size(file)
        except (UnusablePath, OSError, RequestRefused) as why:
            # Any status, also 409 for a path that exists: only the build's own calls decide whether the build goes on.
            self._log.note(f"{show_path(path)}: not taken, {why}")
            return
        self._log.note(f"{show_path(path)}: kept, {size} bytes")

    def _open(self, path: str) -> BinaryIO:
        owner = self._account.uid if self._account else None
        return open_inside(str(self._workspace.root), path, owner)


def _is_twin(path: str) -> bool:
    """Return whether the file is named like a report of TestNG or of Open Test Reporting. The server cannot read these
    formats, but the programs that write them usually write the same results as JUnit XML too.
    """
    name = os.path.basename(path)
    return name in ("testng-results.xml", "open-test-report.xml") or name.startswith("junit-platform-events-")


def _has_junit_beside(path: str, kinds: Mapping[str, bool | None]) -> bool:
    """Return whether a report was sent from the folder of `path`, or from the folder `junitreports` in it, in which
    TestNG writes JUnit XML.
    """
    folder = os.path.dirname(path)
    folders = (folder, os.path.join(folder, "junitreports"))
    return any(is_sent and os.path.dirname(other) in folders for other, is_sent in kinds.items())


def show_path(path: str) -> str:
    """Return the path on one line: a file name may have line breaks, and what follows them would look like a message of
    the agent.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path)
