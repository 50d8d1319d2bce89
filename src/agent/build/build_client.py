"""Sends one build's log, reports, artifacts and verdict to the server (docs/agent-protocol.md)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, BinaryIO

from agent.server_client import ServerClient
from agent.server_request import RetryPause

_CHUNK_BYTES = 1 << 18


@dataclass
class BuildClient:
    """Sends the requests of one attempt of a build. Repeats each request until the server answers it, or until
    `RetryPause` returns True.

    Every method raises `RequestRefused` or `TokenRefused` if the server refuses the request, and `RequestAbandoned` if
    the request is given up.
    """

    _server: ServerClient
    _build_id: int
    _attempt: int
    _pause: RetryPause

    @property
    def _path(self) -> str:
        return f"/api/v3/agent/builds/{self._build_id}"

    def start(self, commit: str | None, pause: RetryPause) -> None:
        """Report that the build is about to run its first command, and that `commit` was checked out."""
        self._post("started", {"commit_sha": commit}, pause)

    def send_log(self, body: bytes) -> int:
        """Send `body`, a JSON document with some lines of the log. Return the number of lines that the server has
        without a gap, counted from the beginning of the log.
        """
        return int(self._post("log", body, self._pause)["acknowledged"])

    def send_report(self, path: str, file: BinaryIO) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/xml", "Content-Length": str(file_size(file))}
        query = {"attempt": self._attempt, "path": path}
        answer: Mapping[str, Any] = self._server.upload(
            f"{self._path}/report", query, lambda: _read_chunks(file), headers, self._pause
        )
        return answer

    def send_missing_report(self, pattern: str, *, is_denied: bool = False) -> None:
        """Report that results are missing. `pattern` is a pattern from the job's artifacts or the path of a file.

        Without `is_denied`, no report is there. With `is_denied`, there are files, but the agent cannot read or send
        them.
        """
        query = {"attempt": self._attempt, "path": pattern, "unreadable" if is_denied else "missing": "true"}
        self._server.upload(f"{self._path}/report", query, lambda: iter(()), {"Content-Length": "0"}, self._pause)

    def send_artifact(self, path: str, file: BinaryIO) -> None:
        folder, name = os.path.split(path)
        fields = {"build_id": str(self._build_id), "path": f"{folder}/" if folder else ""}
        form = _MultipartForm(fields, name, file)
        self._server.upload("/api/v3/artifacts/upload", {}, form.body, form.headers, self._pause)

    def fetch_cache(
        self, name: str, is_fallback: bool, read: Callable[[HTTPResponse], bytes], pause: RetryPause
    ) -> None:
        """Ask the server for the shared cache `name` in the build's cache scope or, with `is_fallback`, in the scope of
        the job's default branch. Calls `read` for each answer of the server. Raises `RequestRefused` if the server has
        no such cache.
        """
        query = {"attempt": self._attempt, **({"fallback": "true"} if is_fallback else {})}
        self._server.download(f"{self._path}/caches/{name}", query, read, pause)

    def send_cache(
        self, name: str, digest: str, body: Callable[[], Iterator[bytes]], size: int, pause: RetryPause
    ) -> None:
        """Send a cache to the server, which shares it with other agents. `digest` is the SHA-256 of the `size` bytes of
        `body`.
        """
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        query = {"attempt": self._attempt, "sha256": digest}
        self._server.upload(f"{self._path}/caches/{name}", query, body, headers, pause, method="PUT")

    def finish(self, verdict: Mapping[str, object], lines: int) -> None:
        self._post("finished", {**verdict, "log_lines": lines}, self._pause)

    def _post(self, call: str, body: object, pause: RetryPause) -> Any:
        return self._server.post(f"{self._path}/{call}", body, pause=pause, attempt=self._attempt)


def file_size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


class _MultipartForm:
    """A multipart/form-data body that is generated in chunks, so that memory never contains the whole file."""

    def __init__(self, fields: dict[str, str], filename: str, file: BinaryIO) -> None:
        boundary = secrets.token_hex(16)
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        escaped = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{escaped}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = "".join(parts).encode("utf-8", "replace")
        self._end = f"\r\n--{boundary}--\r\n".encode()
        self._file = file
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + file_size(file) + len(self._end)),
        }

    def body(self) -> Iterator[bytes]:
        yield self._head
        yield from _read_chunks(self._file)
        yield self._end


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the contents of the whole file in chunks, from its beginning."""
    file.seek(0)
    yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
