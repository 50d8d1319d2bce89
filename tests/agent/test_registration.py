"""The agent exchanges a registration token for a token of its node."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent import registration
from agent.credentials import NoToken
from agent.server_client import TokenRefused


@contextmanager
def serve(*statuses: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Answers one request with each status. Yields the URL and the bodies that came."""
    bodies: list[dict[str, Any]] = []
    left = list(statuses)

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body | {"path": self.path, "authorization": self.headers["Authorization"]})
            answer = json.dumps({"node_id": 7, "name": "da-1"}).encode()
            self.send_response(left.pop(0))
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    file = tmp_path / "registration"
    file.write_text("da-1.r.mac")
    file.chmod(0o400)
    return file


def test_a_lost_answer_is_asked_for_again_with_the_same_tokens(file: Path) -> None:
    with serve(503, 200) as (url, bodies):
        token = registration.register(url, str(file))
    assert not file.exists(), "builds must not find it"
    assert (
        bodies[0]
        == bodies[1]
        == {
            "path": "/api/v3/agent/register",
            "authorization": None,
            "registration_token": "da-1.r.mac",
            "agent_token": token,
        }
    )
    assert token.startswith("agt_")
    assert len(token) == 36


def test_a_used_token_ends_the_agent(file: Path) -> None:
    with serve(401) as (url, _), pytest.raises(TokenRefused):
        registration.register(url, str(file))


def test_a_token_that_everybody_reads_is_refused(file: Path) -> None:
    file.chmod(0o444)
    with pytest.raises(NoToken, match="every user"):
        registration.register("http://127.0.0.1:9", str(file))
    assert file.exists()
