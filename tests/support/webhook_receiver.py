"""A receiver of webhooks on a separate thread."""

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class ReceivedRequest:
    headers: Mapping[str, str]
    body: bytes
    path: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class WebhookReceiver:
    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    statuses: deque[tuple[int, bytes]] = field(default_factory=deque)
    """Answers to the next requests. When none is left, the answer is 200."""
    hold: threading.Event | None = None
    """Event until which no request is answered; None to answer at once."""


@contextlib.contextmanager
def receive_webhooks() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append(ReceivedRequest(dict(self.headers.items()), body, self.path))
            if receiver.hold is not None:
                receiver.hold.wait(20)
            status, text = receiver.statuses.popleft() if receiver.statuses else (200, b"")
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{http.server_address[1]}/hook"
    try:
        yield receiver
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
