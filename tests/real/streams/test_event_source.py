"""The log of a build, read by a real EventSource: that of Node.js, which follows the HTML standard."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import requests

from tests.support.builders import Shop
from tests.support.server import Server

TIMEOUT_S = 60
READER = """
    setInterval(() => {}, 1000);  // its pause before it connects again does not keep the program alive
    const messages = [], source = new EventSource(process.argv[1]);
    source.onmessage = (event) => messages.push([event.lastEventId, event.data]);
    source.onerror = () => {
        if (source.readyState === EventSource.CLOSED) {
            console.log(JSON.stringify(messages));
            process.exit();
        }
    };
"""


@contextmanager
def signing_proxy(url: str, token: str) -> Iterator[tuple[str, list[str | None]]]:
    """Yields the URL of a server that passes requests on with credentials, which an EventSource cannot send, and the
    `Last-Event-ID` of each request.
    """
    seen: list[str | None] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Last-Event-ID"])
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            headers["Authorization"] = f"Bearer {token}"
            with requests.get(url + self.path, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
                self.send_response(answer.status_code)
                if (kind := answer.headers.get("Content-Type")) is not None:
                    self.send_header("Content-Type", kind)
                self.end_headers()
                for chunk in answer.iter_content(None):
                    self.wfile.write(chunk)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.real("nodejs")
def test_it_reads_each_line_once_and_stops_after_the_end(server: Server) -> None:
    shop = Shop(server)
    agent = shop.new_agent()
    shop.start()
    build = agent.take_up()
    agent.log(build, 0, ["one", "two"]).raise_for_status()
    agent.finished(build).raise_for_status()
    shop.ended(build["id"])
    with signing_proxy(server.url, server.admin.token) as (url, seen):
        command = ["nodejs", "--experimental-eventsource", "-e", READER, f"{url}/api/v3/builds/{build['id']}/stream"]
        read = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    messages = [(last, json.loads(data)) for last, data in json.loads(read.stdout)]
    assert messages == [
        ("1:1", {"type": "log", "data": "[10:00:05] one"}),
        ("1:2", {"type": "log", "data": "[10:00:05] two"}),
        ("1:2", {"type": "status", "data": "passed"}),
        ("1:2:done", {"type": "done"}),
    ]
    assert seen == [None, "1:2:done"], "the second request is answered by 204, which ends an EventSource"
