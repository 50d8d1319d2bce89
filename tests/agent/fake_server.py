"""Fake server that speaks docs/agent-protocol.md: a test queues its messages and sees what the agent sent."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "agt_0123456789abcdef"
WAIT = 15.0
POLL_S = 0.5

Answer = tuple[int, Any]


class ReceivedBuild:
    """Everything that the agent sent of one attempt of a build."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.times: list[int] = []
        self.arrived: list[float] = []
        self.requests: list[tuple[int, int]] = []  # offset and number of lines of each log request
        self.commit: str | None = None
        self.started = False
        self.reports: dict[str, bytes] = {}
        self.missing_reports: list[str] = []
        self.denied_reports: list[str] = []
        self.artifacts: dict[str, bytes] = {}
        self.finished: dict[str, Any] | None = None

    @property
    def printed(self) -> list[str]:
        """Log lines that the build printed, without the notes of the agent."""
        return [line for line in self.lines if not line.startswith("==> ")]


class FakeServer:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.connects: list[dict[str, Any]] = []
        self.signed_off: list[str] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.polls: list[int] = []
        self.receipts: list[str] = []
        self.builds: dict[tuple[int, int], ReceivedBuild] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.messages: list[dict[str, Any]] = []
        self.lost: list[tuple[int, str]] = []
        self._poll: object = None
        self.max_parallel = 2
        self.token = TOKEN
        self.old_token: str | None = None  # accepted as well
        self.used_tokens: set[str] = set()
        # Called with the last part of the path, query and body. Returns an answer to send instead, "drop" to close the
        # connection, or None.
        self.fault: Callable[[str, dict[str, str], bytes], Answer | str | None] = lambda *_: None
        self.retry_after: str | None = None  # header of every answer that is not a success
        self.closes_connections = False  # after each answer, for a client that ends before the test does
        self.caches: dict[str, bytes] = {}  # by name, of whatever scope
        self.fallback_caches: dict[str, bytes] = {}  # by name, of the fallback scope
        self._ids = iter(range(1, 1000))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator[FakeServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()

    def queue(self, command: str, **other: Any) -> ReceivedBuild:
        """Queue a build; by default it starts with an empty workspace and may take a minute."""
        build: dict[str, Any] = {
            "id": next(self._ids),
            "attempt": 1,
            "job_id": 7,
            "job_name": "tests",
            "project_id": 3,
            "repository": None,
            "branch": None,
            "commit_sha": None,
            "setup": [],
            "command": command,
            "env": {},
            "secrets": {},
            "artifacts": [],
            "timeout_s": 60,
            **other,
        }
        received = ReceivedBuild()
        with self.changed:
            self.builds[build["id"], build["attempt"]] = received
        self.send({"type": "run", "build": build})
        return received

    def send(self, message: dict[str, Any]) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def execute(self, command: str, timeout_s: float = 60) -> str:
        command_id = f"c{next(self._ids)}"
        self.send({"type": "execute", "command_id": command_id, "command": command, "timeout_s": timeout_s})
        return command_id

    def wait_result(self, command_id: str) -> dict[str, Any]:
        self.wait(lambda: command_id in self.results)
        return self.results[command_id]

    def stop(self, received: ReceivedBuild, reason: str = "cancelled") -> None:
        build, attempt = self.key(received)
        self.send({"type": "stop", "build_id": build, "attempt": attempt, "reason": reason})

    def key(self, received: ReceivedBuild) -> tuple[int, int]:
        return next(key for key, value in self.builds.items() if value is received)

    def wait(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT), "the agent did not get that far in time"

    def wait_idle(self, running: Sequence[Sequence[int]] = ()) -> None:
        """Wait for a heartbeat in which no builds run, or only `running`."""
        before = len(self.heartbeats)
        self.wait(lambda: any(state["running"] == list(running) for state in self.heartbeats[before:]))

    def wait_line(self, received: ReceivedBuild, text: str) -> str:
        self.wait(lambda: any(text in line for line in received.printed))
        return next(line for line in received.printed if text in line)

    def wait_finished(self, received: ReceivedBuild) -> dict[str, Any]:
        self.wait(lambda: received.finished is not None)
        assert received.finished is not None
        assert received.finished["log_lines"] == len(received.lines)
        return received.finished

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> Answer | str:
        token = headers["Authorization"].removeprefix("Bearer ")
        self.used_tokens.add(token)
        if token not in (self.token, self.old_token):
            return 401, {"type": "unauthenticated", "title": "Unauthenticated", "status": 401}
        call = path.rpartition("/")[2]
        with self.changed:
            fault = self.fault(call, query, body)
            if fault:
                return fault
            try:
                return self._answer(method, call, path, query, body, headers)
            finally:
                self.changed.notify_all()

    def _answer(self, method: str, call: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> Answer:
        if call == "connect":
            self.connects.append(json.loads(body))
            self._poll = None  # a poll that is still open belongs to a process that is gone
            node = {"node_id": 1, "name": "node-1", "max_parallel": self.max_parallel}
            return 200, {**node, "heartbeat_s": 0.2, "poll_s": POLL_S}
        if call == "next":
            self.receipts.append(query.get("receipt", ""))
            return self._next(int(query["free"]))
        if call == "disconnect":
            self.signed_off.append(json.loads(body)["session"])
            return 200, {}
        if call == "heartbeat":
            self.heartbeats.append(json.loads(body))
            return 200, {"lost": self.lost}
        if call == "upload":
            fields = _form(body, headers["Content-Type"])
            received = self.builds[int(fields["build_id"][1]), 1]
            name, content = fields["file"]
            received.artifacts[fields["path"][1].decode() + name] = content
            return 201, {}
        if "/caches/" in path and method == "PUT":
            assert hashlib.sha256(body).hexdigest() == query["sha256"]
            self.caches[call] = body
            return 204, None
        if "/caches/" in path:
            caches = self.fallback_caches if query.get("fallback") == "true" else self.caches
            return (200, caches[call]) if call in caches else (404, None)
        if call == "result":
            self.results[path.split("/")[-2]] = json.loads(body)
            return 200, {}
        received = self.builds[int(path.split("/")[-2]), int(query["attempt"])]
        if call == "started":
            received.started, received.commit = True, json.loads(body)["commit_sha"]
            return 200, {}
        if call == "report" and query.get("missing") == "true":
            received.missing_reports.append(query["path"])
            return 200, {"recorded": 0, "warnings": ["missing"]}
        if call == "report" and query.get("unreadable") == "true":
            received.denied_reports.append(query["path"])
            return 200, {"recorded": 0, "warnings": ["denied"]}
        if call == "report":
            received.reports[query["path"]] = body
            return 200, {"recorded": body.count(b"<testcase"), "warnings": []}
        if call == "log":
            return self._log(received, json.loads(body))
        assert call == "finished", path
        received.finished = json.loads(body)
        return 200, {"status": "passed"}

    def _next(self, free: int) -> Answer:
        self.polls.append(free)

        poll = self._poll = object()

        def next_message() -> dict[str, Any] | None:
            if poll is not self._poll:
                return None
            return next((message for message in self.messages if free or message["type"] != "run"), None)

        message = self.changed.wait_for(next_message, POLL_S)
        if message is None:
            return 204, None
        self.messages.remove(message)
        return 200, message

    def _log(self, received: ReceivedBuild, body: dict[str, Any]) -> Answer:
        offset, lines = body["offset"], body["lines"]
        received.requests.append((offset, len(lines)))
        if offset <= len(received.lines):
            new = lines[len(received.lines) - offset :]
            received.lines += [text for _, text in new]
            received.times += [at for at, _ in new]
            received.arrived += [time.time()] * len(new)
        return 200, {"acknowledged": len(received.lines)}


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # the agent was killed, or cancelled its poll
                self.close_connection = True

        def do_GET(self) -> None:
            self._respond()

        def do_POST(self) -> None:
            self._respond()

        def do_PUT(self) -> None:
            self._respond()

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            answer = server.answer(self.command, parts.path, query, body, self.headers)
            if isinstance(answer, str):
                self.close_connection = True
                return
            status, content = answer
            data = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            if isinstance(content, bytes):
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            if status >= 300 and server.retry_after is not None:
                self.send_header("Retry-After", server.retry_after)
            if server.closes_connections:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *_: Any) -> None:
            pass

    return Handler


def _form(body: bytes, content_type: str) -> dict[str, tuple[str, bytes]]:
    """Return the file name and content of each field of a multipart form."""
    fields = {}
    for part in body.split(b"--" + content_type.partition("boundary=")[2].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        words = dict(re.findall(r'(\w+)="([^"]*)"', head.decode()))
        fields[words["name"]] = (words.get("filename", ""), content[:-2])
    return fields
