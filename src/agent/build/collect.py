"""After the command: finds what the job asked to keep, sends reports first, then artifacts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import BinaryIO

from agent.build import artifacts, reports
from agent.build.channel import Channel
from agent.build.log import Log
from agent.build.masking import Masker
from agent.build.workspace import Workspace
from agent.process.privileges import Account
from agent.server import BadToken, Refused

_WARNINGS_SHOWN = 20


class Collector:
    def __init__(
        self,
        workspace: Workspace,
        account: Account | None,
        channel: Channel,
        masker: Masker,
        log: Log,
        interrupted: Callable[[], bool],
    ) -> None:
        self._folder = str(workspace.folder)
        self._root = str(workspace.root)
        self._owner = account.uid if account else None
        self._channel = channel
        self._masker = masker
        self._log = log
        self._interrupted = interrupted

    def run(self, patterns: list[str], report: str, since: int) -> None:
        """`report`: where reporters were told to write; `since`: what is older is no result of this build."""
        wanted = self._find(patterns)
        sent = {path for path in dict.fromkeys([*wanted, report]) if self._send_if_report(path, since)}
        for path in wanted:
            self._send_artifact(path, is_report=path in sent)

    def _find(self, patterns: list[str]) -> list[str]:
        found: dict[str, None] = {}
        for pattern in patterns:
            try:
                paths = artifacts.find(self._root, pattern)
            except artifacts.Unusable as why:
                self._log.say(f"Artifacts {pattern}: refused, {why}")
                continue
            if not paths:
                self._log.say(f"Artifacts {pattern}: no such file")
            found.update(dict.fromkeys(paths))
        return list(found)

    def _send_if_report(self, path: str, since: int) -> bool:
        if not path.endswith(reports.ENDINGS) or self._interrupted():
            return False
        try:
            file = self._open(path)
        except artifacts.Unusable:
            return False  # said where it was asked for as an artifact
        with file:
            if not reports.is_report(path, file, since):
                return False
            with reports.masked(file, self._masker, self._folder) as masked:
                self._send_report(path, masked)
        return True

    def _send_report(self, path: str, file: BinaryIO) -> None:
        try:
            answer = self._channel.report(path, file)
        except BadToken:
            raise
        except Refused as refused:
            if refused.status in (404, 409):
                raise
            self._log.say(f"{path}: not taken, {refused}")
            return
        self._log.say(f"{path}: {answer['recorded']} results")
        warnings = answer.get("warnings") or []
        for warning in warnings[:_WARNINGS_SHOWN]:
            self._log.say(f"{path}: {warning}")
        if len(warnings) > _WARNINGS_SHOWN:
            self._log.say(f"{path}: {len(warnings) - _WARNINGS_SHOWN} more warnings")

    def _send_artifact(self, path: str, is_report: bool) -> None:
        if self._interrupted():
            return
        try:
            with ExitStack() as opened:
                file = opened.enter_context(self._open(path))
                if is_report:  # masked wherever it goes; any other file is kept byte for byte
                    file = opened.enter_context(reports.masked(file, self._masker, self._folder))
                self._channel.artifact(path, file)
                size = artifacts.size(file)
        except BadToken:
            raise
        except (artifacts.Unusable, Refused) as why:
            # Also what seems to be there already: whether the build goes on is said by its own calls.
            self._log.say(f"{path}: not taken, {why}")
            return
        self._log.say(f"{path}: kept, {size} bytes")

    def _open(self, path: str) -> BinaryIO:
        return artifacts.open_inside(self._root, path, self._owner)
