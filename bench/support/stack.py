"""Runs a whole stack for a benchmark: `testhide up` with a temporary data folder and a free port."""

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
    """Raised if a stack does not become ready. The message is the stack's output."""


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
        """Name -> process id of the processes that the supervisor runs now."""
        return {
            entry["name"]: entry["pid"] for entry in json.loads((self.data / "run" / "processes.json").read_bytes())
        }

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Sends one request as the administrator and returns the decoded answer. Raises urllib.error.HTTPError."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.url}{path}", data, headers, method=method), timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def create_project(self, name: str) -> int:
        project: int = self.call("POST", "/api/v3/projects", {"name": name})["id"]
        return project

    def create_pool(self, project: int) -> int:
        pool: int = self.call("POST", "/api/v3/node-pools", {"name": "bench", "project_id": project})["id"]
        return pool

    def create_job(self, name: str, command: str, *, project_id: int | None = None, **settings: object) -> int:
        """Creates a job, in a new project unless `project_id` is given, and returns its id."""
        project = self.create_project(name) if project_id is None else project_id
        body = {"name": name, "project_id": project, **settings}
        job: int = self.call("POST", "/api/v3/jobs", body)["id"]
        configuration = {"command": command, "setup": [], "env": {}, "artifacts": []}
        self.call("PUT", f"/api/v3/jobs/{job}/configuration", configuration)
        return job

    def kill(self, name: str) -> None:
        """Kills the process called `name` by SIGKILL. The supervisor starts it again."""
        os.kill(self.pids[name], signal.SIGKILL)


@contextlib.contextmanager
def running_stack(*, agent: bool, python: str | Path = sys.executable) -> Iterator[Stack]:
    """Starts a stack, signs in as administrator and yields the stack. Stops it and deletes its data folder at the end.
    Raises StackFailed.
    """
    data = Path(tempfile.mkdtemp(prefix="testhide-bench-"))
    data.chmod(0o711)  # as root: the engines run under another account and must reach their folders
    port = _find_free_port()
    command = [str(python), "-P", "-m", "testhide", "up", "--port", str(port), "--data", str(data)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    process = subprocess.Popen(
        [*command, *([] if agent else ["--no-agent"])],
        # More requests than a benchmark sends, so that they are counted and none is refused.
        env={
            **inherited,
            "TESTHIDE_ADMIN_EMAIL": ADMIN[0],
            "TESTHIDE_ADMIN_PASSWORD": ADMIN[1],
            "TESTHIDE_REQUESTS_PER_TOKEN": "200000",
            "TESTHIDE_STREAMS_PER_USER": "0",
        },
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
        for folder in {data, *([Path(record.home), Path(record.sockets)] if record else [])}:
            shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if line.startswith("ready "):
            break
    else:
        raise StackFailed("".join(output))
    # A thread reads on: a full pipe would block the supervisor.
    threading.Thread(target=_copy_output, args=(process,), daemon=True).start()


def _copy_output(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"  | {line.rstrip()}", file=sys.stderr)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
