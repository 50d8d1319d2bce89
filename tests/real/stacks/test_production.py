"""An operator's own PostgreSQL and Redis: the README's commands on a stack that uses them, then the processes of
docker-compose.yml on the same database, with the environment and the health checks that they have there.
"""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from testhide.cli import main
from testhide.engines import Engines
from testhide.engines.binaries import find_postgres, find_valkey
from testhide.stack.stack import responds
from tests.support.documentation import ROOT, documented
from tests.support.http import Client
from tests.support.server import free_port
from tests.support.stacks import until

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
ADMIN = ("admin@testhide.local", "correct horse battery")
CONFIGURATION = {"command": "echo hello", "setup": [], "env": {}, "artifacts": []}


class Machine:
    """Runs commands in a folder, with PostgreSQL's and Valkey's programs on its PATH."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        others = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
        (folder / "valkey-server").symlink_to(find_valkey(folder, None))
        programs = [str(Path(sys.executable).parent), str(find_postgres(folder, None).bin), str(folder), others["PATH"]]
        self.environ = others | {"HOME": str(folder), "PATH": os.pathsep.join(programs)} | environ

    def run(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def running(self, *command: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
        """A process that ends well when it is asked to."""
        with subprocess.Popen(
            command, cwd=self.folder, env=self.environ | environ, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)
        assert process.returncode == 0, command


class Compose:
    """The services of docker-compose.yml, with the values of its `.env` and with the addresses of this machine."""

    def __init__(self, machine: Machine, values: Mapping[str, str], addresses: Mapping[str, str]) -> None:
        self.machine, self.values, self.addresses = machine, values, addresses

    def _filled(self, text: str) -> str:
        text = re.sub(r"\$\{(\w+):[?-]([^}]*)\}", lambda found: self.values.get(found[1], found[2]), text)
        for there, here in self.addresses.items():
            text = text.replace(there, here)
        return text.replace("$$", "$")

    def environ(self, name: str) -> dict[str, str]:
        return {key: self._filled(value) for key, value in SERVICES[name].get("environment", {}).items()}

    def command(self, name: str) -> list[str]:
        program = [] if "image" in SERVICES[name] and "build" not in SERVICES[name] else ["testhide"]
        return [*program, *map(self._filled, SERVICES[name]["command"])]

    def running(self, name: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        return self.machine.running(*self.command(name), **self.environ(name))

    def is_healthy(self, name: str) -> bool:
        kind, *words = map(self._filled, SERVICES[name]["healthcheck"]["test"])
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return subprocess.run(command, env=self.machine.environ, capture_output=True, check=False).returncode == 0


def new_database(engines: Engines) -> str:
    name = f"production_{uuid4().hex}"
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return make_conninfo(engines.database_url, dbname=name)


def assert_build_passes(admin: Client, job: int) -> None:
    build = admin.create("/builds/start", job_id=job)["id"]
    until(lambda: admin.fetch(f"/builds/{build}")["finished_at"], "the build ends")
    assert admin.fetch(f"/builds/{build}")["status"] == "passed"


def given_job(admin: Client, **fields: Any) -> int:
    job: int = admin.create("/jobs", name=uuid4().hex, **fields)["id"]
    admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    return job


def operate(machine: Machine, admin: Client, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which starts faster than one for each verb."""
    patch.chdir(machine.folder)
    for name, value in machine.environ.items():
        patch.setenv(name, value)
    until(lambda: admin.fetch("/audit/checkpoints")["keys"], "the first checkpoint is signed")
    Path("export.ndjson").write_bytes(admin.when("GET", "/audit/export").content)
    Path("key.txt").write_text(admin.fetch("/audit/checkpoints")["keys"][0])
    words = {
        "DIR": machine.environ["TESTHIDE_DATA"],
        "FOLDER": "backup",
        "FILE": "export.ndjson",
        "KEY": "key.txt",
        "EMAIL": ADMIN[0],
    }
    for command in documented("README.md", "Operating"):
        patch.setattr("sys.stdin", io.StringIO(f"{ADMIN[1]}\n"))
        assert main.main([words.get(word, word) for word in command.split()[1:]]) == 0, command
    assert "verified: nothing was altered" in capsys.readouterr().out
    assert admin.when("GET", "/me").status_code == 401, "a new password ends sessions"


def run_services(compose: Compose, url: str, project: int) -> None:
    machine = compose.machine
    assert compose.is_healthy("postgres")
    machine.environ |= compose.environ("migrate")
    assert "there are users already" in machine.run(*compose.command("migrate"))
    with contextlib.ExitStack() as stack:
        for name in ("api", "worker", "projector", "dispatcher"):
            stack.enter_context(compose.running(name))
        until(responds("127.0.0.1", int(url.rpartition(":")[2]), "/api/v3/readyz"), "the API is ready")
        assert compose.is_healthy("api")
        admin = Client(url, *ADMIN)
        pool = admin.create("/node-pools", name="elsewhere", project_id=project)["id"]
        node = admin.create("/nodes", name="elsewhere", pool_id=pool)
        job = given_job(admin, project_id=project, node_pool_id=pool)
        (machine.folder / "token").write_text(node["agent_token"])
        (machine.folder / "token").chmod(0o600)
        download = admin.fetch("/nodes/agent/latest")["linux_amd64"]
        (machine.folder / "testhide-agent.pyz").write_bytes(admin.get(download["url"]).content)
        (agent,) = documented("README.md", "Agents on other machines")
        with machine.running(*agent.replace("https://ci.example.com", url).split()):
            assert_build_passes(admin, job)
        with compose.running("agent"):
            assert_build_passes(admin, job)


def test_the_documented_commands_and_the_services(
    engines: Engines, data_of_agent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of_agent
    database, port, redis_port = new_database(engines), free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    server = conninfo_to_dict(database)
    machine = Machine(
        data,
        {
            "DATABASE": database,
            "PGHOST": str(server["host"]),
            "PGPORT": str(server.get("port", 5432)),
            "TESTHIDE_DATA": str(data / "data"),
            "TESTHIDE_PORT": str(port),
            "TESTHIDE_ADMIN_PASSWORD": ADMIN[1],
        },
    )
    *exports, up = documented("README.md", "Your own PostgreSQL and Redis")
    script = "\n".join([*exports, "env"])
    script = script.replace("postgresql://testhide:...@db.example.com/testhide", '"$DATABASE"')
    script = script.replace("redis://redis.example.com/0", f"redis://:redis1@127.0.0.1:{redis_port}/0")
    exported = re.findall(r"^(TESTHIDE_\w+)=(.*)$", machine.run("sh", "-euc", script), re.MULTILINE)
    compose = Compose(
        machine,
        dict(exported)
        | {"TESTHIDE_POSTGRES_PASSWORD": "postgres1", "TESTHIDE_REDIS_PASSWORD": "redis1"}
        | {"TESTHIDE_ADMIN_EMAIL": ADMIN[0]},
        {
            "postgresql://testhide:postgres1@postgres/testhide": database,
            "valkey:6379": f"127.0.0.1:{redis_port}",
            "valkey-server -": f"valkey-server --bind 127.0.0.1 --port {redis_port} --dir {data} -",
            "http://api:8000": url,
            "http://localhost:8000": url,
            "127.0.0.1:8000": f"127.0.0.1:{port}",
            "0.0.0.0": "127.0.0.1",  # noqa: S104
            "8000": str(port),
            "/run/secrets/agent-token": str(data / "token"),
            "/var/lib/testhide": str(data / "data"),
        },
    )
    with compose.running("valkey"):
        machine.environ |= dict(exported)
        with machine.running(*shlex.split(up)) as stack:
            assert stack.stdout is not None
            assert any(line.startswith("ready ") for line in stack.stdout)
            admin = Client(url, *ADMIN)
            project = admin.create("/projects", name="Shop")["id"]
            assert_build_passes(admin, given_job(admin, project_id=project))
            assert not (data / "data" / "engines" / "postgres").exists()
            with monkeypatch.context() as patch:
                operate(machine, admin, patch, capsys)
        for name, _ in exported:
            if name != "TESTHIDE_DATA":  # the volume that all services have
                del machine.environ[name]
        run_services(compose, url, project)
