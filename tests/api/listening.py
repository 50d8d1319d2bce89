"""A receiver of webhooks on a thread, and a server that may call it."""

import asyncio
import contextlib
import dataclasses
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo

from testhide.engines import Engines
from testhide.processes import create_first_admin
from tests.conftest import Server, running_server


@dataclass(frozen=True)
class Request:
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Listening:
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    statuses: deque[tuple[int, bytes]] = field(default_factory=deque)
    """How the next ones are answered; then 200."""
    hold: threading.Event | None = None
    """Nothing is answered before it is set."""


@contextlib.contextmanager
def listening() -> Iterator[Listening]:
    receiver = Listening()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append(Request(dict(self.headers.items()), body))
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


@contextlib.contextmanager
def opened_server(engines: Engines, data: Path) -> Iterator[Server]:
    """With workers, which may call this machine; on a database of its own."""
    name = f"opened_{uuid4().hex}"
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    own = dataclasses.replace(engines, database_url=make_conninfo(engines.database_url, dbname=name))
    with running_server(own, data, "serve", "project", "work", outgoing_allow="127.0.0.0/8") as server:
        asyncio.run(create_first_admin(server.settings))
        server.settle()
        yield server
