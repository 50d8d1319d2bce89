"""What one build says to the server, in the words of the agent protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from agent.build.artifacts import Form, content, size
from agent.server import Pause, Server


class Channel:
    """Every call is tried until it is answered or `pause` gives up; a refusal raises `Refused`."""

    def __init__(self, server: Server, build: int, attempt: int, pause: Pause) -> None:
        self._server = server
        self._build = build
        self._path = f"/api/v3/agent/builds/{build}"
        self._attempt = attempt
        self._pause = pause

    def started(self, commit: str | None, pause: Pause) -> None:
        self._post("started", {"commit_sha": commit}, pause)

    def log(self, body: bytes) -> int:
        return int(self._post("log", body, self._pause)["acknowledged"])

    def report(self, path: str, file: BinaryIO) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/xml", "Content-Length": str(size(file))}
        query = {"attempt": self._attempt, "path": path}
        answer: Mapping[str, Any] = self._server.upload(
            f"{self._path}/report", query, lambda: content(file), headers, self._pause
        )
        return answer

    def artifact(self, path: str, file: BinaryIO) -> None:
        folder, name = os.path.split(path)
        fields = {"build_id": str(self._build), "path": f"{folder}/" if folder else ""}
        form = Form(fields, name, file)
        self._server.upload("/api/v3/artifacts/upload", {}, form.body, form.headers, self._pause)

    def finished(self, verdict: Mapping[str, object], lines: int) -> None:
        self._post("finished", {**verdict, "log_lines": lines}, self._pause)

    def _post(self, call: str, body: object, pause: Pause) -> Any:
        return self._server.post(f"{self._path}/{call}", body, pause=pause, attempt=self._attempt)
