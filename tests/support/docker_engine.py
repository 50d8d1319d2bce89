"""A Docker engine that has one container with a log, for tests that need no real one."""

import json
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

STANDARD_OUTPUT = 1
MAX_FRAME = 16_384
"""Largest number of bytes of a frame. An engine divides longer lines."""


class _Engine(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, socket: str, lines: Sequence[str]) -> None:
        super().__init__(socket, _Handler)
        entries = [f"2026-05-20T10:00:05.123456789Z {line}\n".encode() for line in lines]
        parts = (entry[start : start + MAX_FRAME] for entry in entries for start in range(0, len(entry), MAX_FRAME))
        self.log = b"".join(struct.pack(">BxxxI", STANDARD_OUTPUT, len(part)) + part for part in parts)
        self.stopped = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.endswith("/logs"):
            self.send_response(200)
            self.end_headers()
            assert isinstance(self.server, _Engine)
            self.wfile.write(self.server.log)
            self.wfile.flush()
            if "follow=1" in query:
                self.server.stopped.wait()
        elif path.endswith("/version"):
            self._answer({"ApiVersion": "1.43"})
        elif path.endswith("/containers/json"):
            self._answer([{"Id": "c1", "Labels": {}}])
        else:
            self._answer({"Id": "c1", "Config": {"Tty": False}})

    def _answer(self, body: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def address_string(self) -> str:
        return "a client"

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def fake_engine(folder: Path, lines: Sequence[str]) -> Iterator[str]:
    """Yields the URL of an engine. Whoever follows the log of its container waits after these lines until the end of
    the block.
    """
    socket = str(folder / "docker.sock")
    with _Engine(socket, lines) as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        try:
            yield f"unix://{socket}"
        finally:
            engine.stopped.set()
            engine.shutdown()
