"""A whole stack for a benchmark: `testhide up` on a data folder and a port of its own, gone afterwards."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from testhide.engines.folder import read_record
from testhide.settings import Settings, load_settings

ADMIN = ("admin@example.com", "correct horse battery")


class StackFailed(Exception):
    """It did not become ready, with what it said."""


@dataclass
class Stack:
    url: str
    data: Path
    process: subprocess.Popen[str]
    token: str = ""

    @property
    def settings(self) -> Settings:
        return load_settings({"TESTHIDE_SETTINGS": str(self.data / "run" / "settings.json")})

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pids(self) -> dict[str, int]:
        """What the supervisor runs right now, by name."""
        return {
            entry["name"]: entry["pid"] for entry in json.loads((self.data / "run" / "processes.json").read_bytes())
        }

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request as the administrator; the decoded answer. Raises urllib.error.HTTPError."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.url}{path}", data, headers, method=method), timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def job(self, name: str, command: str, **settings: object) -> int:
        """A job in a project of its own; its id."""
        project = self.call("POST", "/api/v3/projects", {"name": name})
        body = {"name": name, "project_id": project["id"], **settings}
        job: int = self.call("POST", "/api/v3/jobs", body)["id"]
        configuration = {"command": command, "setup": [], "env": {}, "artifacts": []}
        self.call("PUT", f"/api/v3/jobs/{job}/configuration", configuration)
        return job

    def kill(self, name: str) -> None:
        """SIGKILL; the supervisor starts it again."""
        os.kill(self.pids[name], signal.SIGKILL)


@contextlib.contextmanager
def running_stack(*, agent: bool, python: str | Path = sys.executable) -> Iterator[Stack]:
    """Raises StackFailed."""
    data = Path(tempfile.mkdtemp(prefix="testhide-bench-"))
    data.chmod(0o711)  # as root: the engines' account must get through
    port = _free_port()
    command = [str(python), "-P", "-m", "testhide", "up", "--port", str(port), "--data", str(data)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    process = subprocess.Popen(
        [*command, *([] if agent else ["--no-agent"])],
        env={**kept, "TESTHIDE_ADMIN_EMAIL": ADMIN[0], "TESTHIDE_ADMIN_PASSWORD": ADMIN[1]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        stack = Stack(f"http://127.0.0.1:{port}", data, process)
        _wait_until_ready(process)
        signed_in = stack.call("POST", "/api/v3/authenticate", {"username": ADMIN[0], "password": ADMIN[1]})
        stack.token = signed_in["token"]
        yield stack
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        record = read_record(data)
        for place in {data, *([Path(record.home), Path(record.sockets)] if record else [])}:
            shutil.rmtree(place, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("ready "):
            break
    else:
        raise StackFailed("".join(said))
    # Somebody has to read on, or a full pipe stops the supervisor.
    threading.Thread(target=_forward, args=(process,), daemon=True).start()


def _forward(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"  | {line.rstrip()}", file=sys.stderr)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
