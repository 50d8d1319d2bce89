"""The local agent of `testhide up`: builds of others than admins reach neither the server nor its data."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from testhide.engines.folder import read_record
from tests.agent.harness import SYSTEM_PYTHON
from tests.support.http import Client
from tests.support.server import free_port
from tests.support.stacks import until

ADMIN = ("admin@testhide.local", "correct horse battery")
PASSWORD = "a password of theirs"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
READS_ALL = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""The checkout and its Python may be in a folder of root's."""
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *READS_ALL]


class Stack:
    def __init__(self, url: str, pid: int, data: Path, printed: list[str]) -> None:
        self.pid = pid
        self.admin = Client(url, *ADMIN)
        self.data = data
        self.printed = printed

    def make_developer(self) -> Client:
        """A user who may start builds in the first project, which this makes."""
        project = self.admin.create("/projects", name="Shop")["id"]
        email = "dev@example.com"
        invited = self.admin.create("/users", email=email, role="developer", project_ids=[project])
        body = {"token": invited["invitation_url"].partition("#")[2], "new_password": PASSWORD}
        self.admin.when("POST", "/reset-password/confirm", json=body).then(200)
        return Client(self.admin.url, email, PASSWORD)

    def start(self, who: Client, command: str) -> int:
        job = self.admin.create("/jobs", name=uuid4().hex, project_id=1)["id"]
        configuration = {"command": command, "setup": [], "env": {}, "artifacts": []}
        self.admin.when("PUT", f"/jobs/{job}/configuration", json=configuration).then(200)
        return int(who.create("/builds/start", job_id=job)["id"])

    def wait_for_end(self, build: int) -> dict[str, Any]:
        until(lambda: self.admin.fetch(f"/builds/{build}")["finished_at"], "the build ends")
        found: dict[str, Any] = self.admin.fetch(f"/builds/{build}")
        return found

    def log(self, build: int) -> list[str]:
        lines: list[str] = self.admin.fetch(f"/builds/{build}/pipeline_logs")["lines"]
        return lines


@contextlib.contextmanager
def running(data: Path, *options: str, prefix: Sequence[str] = ()) -> Iterator[Stack]:
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    environ |= {"TESTHIDE_ADMIN_EMAIL": ADMIN[0], "TESTHIDE_ADMIN_PASSWORD": ADMIN[1]}
    command = [*prefix, sys.executable, "-P", "-m", "testhide", "up", "--data", str(data / "data")]
    with subprocess.Popen(
        [*command, "--port", str(port), *options], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            printed, line = [], ""
            for line in process.stdout:
                printed.append(line.strip())
                if line.startswith("ready "):
                    break
            assert line.startswith("ready "), printed
            yield Stack(f"http://127.0.0.1:{port}", process.pid, data / "data", printed)
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run builds as users of their own")
def test_a_build_does_not_reach_the_server_of_root(reachable: Path) -> None:
    with running(reachable) as stack:
        assert not any("as you" in line for line in stack.printed)
        record = read_record(stack.data)
        assert record is not None
        secrets = ["secret.key", "engines.json", "run/settings.json", "agent/token", "agent/work/session"]
        until(lambda: all((stack.data / name).exists() for name in secrets), "the agent has connected")
        attack = [
            "set +e",
            *(f"cat {stack.data}/{name} && echo GOT {name}" for name in secrets),
            *(f"ls {stack.data}/{name} && echo GOT {name}" for name in ("", "run", "logs", "blobs", "agent")),
            *(f"ls {path} && echo GOT {path}" for path in (record.home, record.sockets)),
            *(
                f"{SYSTEM_PYTHON} -c '{CONNECT}' {record.sockets}/{name} && echo GOT {name}"
                for name in (".s.PGSQL.5432", "valkey.sock")
            ),
            # In namespaces of its own, a build may see another process with this id.
            f"grep -qa 'stack[.]stack' /proc/{stack.pid}/cmdline && cat /proc/{stack.pid}/environ && echo GOT environ",
            f"grep -qa 'stack[.]stack' /proc/{stack.pid}/cmdline && kill -9 {stack.pid} && echo GOT the server",
            "echo the end",
        ]
        build = stack.start(stack.make_developer(), "\n".join(attack))
        assert stack.wait_for_end(build)["status"] == "passed"
        printed = stack.log(build)
        assert "the end" in " ".join(printed)
        assert [line for line in printed if "] GOT" in line] == []
        assert stack.wait_for_end(stack.start(stack.admin, "id -u"))["status"] == "passed"


def test_without_root_only_builds_of_admins_run(data_of_agent: Path) -> None:
    prefix = []
    if os.geteuid() == 0:
        os.chown(data_of_agent, 65534, 65534)
        prefix = AS_NOBODY
        if (
            not shutil.which("setpriv")
            or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
        ):
            pytest.skip("root cannot start programs as `nobody` here")
    with running(data_of_agent, prefix=prefix) as stack:
        assert "The local agent runs only builds that administrators start, since they run as you." in stack.printed
        theirs = stack.start(stack.make_developer(), f"cat {stack.data / 'secret.key'}")
        until(lambda: stack.admin.fetch(f"/builds/{theirs}")["waiting_for"], "the dispatcher says why it waits")
        assert "`testhide up --trust-builds`" in stack.admin.fetch(f"/builds/{theirs}")["waiting_for"]
        assert stack.wait_for_end(stack.start(stack.admin, "echo hello"))["status"] == "passed"
        assert stack.admin.fetch(f"/builds/{theirs}")["status"] == "queued"
    with running(data_of_agent, "--trust-builds", prefix=prefix) as stack:
        assert stack.wait_for_end(theirs)["status"] == "passed"
