"""An operator's drill: the commands of docs/backup.md as they stand there, and a healthy server after each of them.

The server that it begins with runs the first build of the README.
"""

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from domain.core.events import EventMetadata
from domain.templates import TemplateCreated
from integrations.checkpoints import CheckpointFolder
from store.clock import utcnow
from store.log.event_log import Write
from store.log.ids import SKIPPED
from testhide.engines.binaries import find_postgres
from testhide.processes import core
from testhide.settings import Settings
from testhide.stack.offline import settings_of, settings_of_running_stack
from tests.support.builders import upload
from tests.support.documentation import documented
from tests.support.forked_program import forked_program
from tests.support.http import Client
from tests.support.sealing import seal_log
from tests.support.server import free_port
from tests.support.stacks import until

ADMIN = ("admin@testhide.local", "correct horse battery")
FOR_A_BASE_BACKUP = "wal_level = replica\nmax_wal_senders = 2\n"


class Operator:
    """Runs documented commands with the variables that they name, and with the programs in a folder."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port = str(free_port())
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
        paths = [str(programs), str(find_postgres(folder, None).bin), self.environ["PATH"]]
        self.environ |= {
            "PATH": os.pathsep.join(paths),
            "TESTHIDE_PORT": self.port,
            "TESTHIDE_ADMIN_PASSWORD": ADMIN[1],
            "TESTHIDE_CHECKPOINTS_TO": str(folder / "checkpoints"),
            "CHECKPOINTS": str(folder / "checkpoints"),
        }
        folders = ("data", "backup", "restored", "moved", "copied", "base")
        self.environ |= {name.upper(): str(folder / name) for name in folders}
        self.environ |= {"OTHER_PORT": str(free_port()), "OTHER_CHECKPOINTS": str(folder / "other")}
        self.environ["DUMP"] = str(folder / "database.dump")

    def path(self, name: str) -> Path:
        return Path(self.environ[name])

    def attempt(self, command: str) -> subprocess.CompletedProcess[str]:
        arguments = ["sh", "-euc", command]
        return subprocess.run(arguments, env=self.environ, capture_output=True, text=True, timeout=60, check=False)

    def run(self, *lines: str) -> str:
        done = self.attempt("\n".join(lines))
        assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def stack(self, command: str, port: str | None = None) -> Iterator[Client]:
        """Runs a stack by this command, until it is healthy and the block ends; yields the administrator."""
        arguments = ["sh", "-euc", f"exec env {command}"]
        with subprocess.Popen(
            arguments, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                assert process.stdout is not None
                output: list[str] = []
                while not any(line.startswith("ready ") for line in output):
                    output.append(process.stdout.readline())
                    assert output[-1], output
                client = Client(f"http://127.0.0.1:{port or self.port}", *ADMIN)
                yield client
                until(lambda: client.fetch("/readyz")["status"] == "ok", "the stack is healthy")
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)


def seal(data: Path, folder: Path) -> None:
    """Seals the log of a stopped stack."""

    async def sealed(settings: Settings) -> None:
        async with core(settings, pool_size=2) as parts:
            await seal_log(parts, CheckpointFolder(folder))

    with settings_of(data, {}) as settings:
        asyncio.run(sealed(settings))


def state(client: Client, build: int) -> dict[str, Any]:
    found: dict[str, Any] = client.fetch(f"/builds/{build}")
    return found


def test_the_documented_commands(data_of_agent: Path, reachable: Path) -> None:
    with forked_program() as programs:
        drill(Operator(data_of_agent, programs), reachable)


def drill(operator: Operator, reachable: Path) -> None:
    back_up, restore, move, start, copy, start_copy = documented("docs/backup.md", "The embedded database")
    rotate, _ = documented("docs/backup.md", "Rotating the secret key")
    go = reachable / "go"

    up, *first_build = documented("README.md", "Use")
    url, login, *others = first_build
    url = url.replace(":8000/", f":{operator.port}/")
    login = login.replace('"password": "..."', f'"password": "{ADMIN[1]}"')

    with operator.stack(f'{up} --data "$DATA"') as admin:
        assert "hello" in operator.run(url, login, *others)
        (project,) = admin.fetch("/projects")
        job = admin.create("/jobs", name="Slow", project_id=project["id"])["id"]
        command = {"command": f"until [ -e {go} ]; do sleep 0.05; done", "setup": [], "env": {}, "artifacts": []}
        admin.when("PUT", f"/jobs/{job}/configuration", json=command).then(200)
        external = admin.create("/builds/start", job_id=job, external=True)["id"]
        artifact = upload(admin, external, b"kept", "notes.txt").then(201)["id"]
        slow = admin.create("/builds/start", job_id=job)["id"]
        until(lambda: state(admin, slow)["status"] == "running", "the agent has begun the build")
        first_key = (operator.path("DATA") / "secret.key").read_text()
        assert "the secret key is rotated" in operator.run(rotate)
        assert (operator.path("DATA") / "secret.key").read_text() != first_key
        assert "backed up to" in operator.run(back_up)
        lost = admin.create("/projects", name="Lost")["id"]
    seal(operator.path("DATA"), operator.path("CHECKPOINTS"))

    output = operator.run(restore)
    assert "the log is the one of its checkpoint" in output
    assert "artifacts: 1, missing or altered: 0" in output
    assert "with their builds to run again: 1" in output
    operator.run(move)

    repair, rebuild, set_back, dismiss, *ahead, put_row_back, put_key_back = documented(
        "docs/backup.md", "When something is wrong"
    )
    key = operator.path("MOVED") / "secret.key"
    key.write_bytes(base64.b64encode(b"another key, which opens nothing"))
    refused = operator.attempt(start)
    assert refused.returncode == 1
    assert "The secret key does not open what is in the database" in refused.stdout + refused.stderr
    operator.run(put_key_back)

    operator.run(copy)
    custom = operator.path("MOVED") / "engines" / "postgres" / "custom.conf"
    custom.write_text(FOR_A_BASE_BACKUP)
    with operator.stack(start) as admin:
        assert [item["name"] for item in admin.fetch("/projects")] == ["Shop"]
        assert admin.create("/projects", name="New")["id"] > lost + SKIPPED
        assert admin.when("GET", f"/artifacts/{artifact}/download").content == b"kept"
        until(lambda: "is ahead of the log" in readiness(admin), "the sealer refuses")
        operator.run(*ahead)
        with operator.stack(start_copy, operator.environ["OTHER_PORT"]) as other:
            assert [item["name"] for item in other.fetch("/projects")] == ["Shop"]
            other.create("/projects", name="Only in the copy")
            assert [item["name"] for item in admin.fetch("/projects")] == ["Shop", "New"]
        kept = {path.name for path in operator.path("CHECKPOINTS").glob("*.txt")}
        go.touch()
        until(lambda: state(admin, slow)["status"] == "passed", "the build runs again, on the agent of the backup")
        assert state(admin, slow)["attempt"] == 2

        settings = settings_of_running_stack(operator.path("MOVED"), {})
        lose_table(settings, "due_reactions")
        assert "lost from the database: due_reactions" in readiness(admin)
        assert "made again, empty: due_reactions" in operator.run(repair)
        break_read_models(settings)
        until(lambda: "jobs" in readiness(admin) and "nodes" in readiness(admin), "both read models are broken")
        assert "switched" in operator.run(rebuild)
        with psycopg.connect(settings.database_url) as connection:
            connection.execute("UPDATE reaction_positions SET position = position + 1000000000")
        until(lambda: "beyond the end of the log" in readiness(admin), "the positions are named")
        assert "was beyond the end of the log: it goes on after position" in operator.run(set_back)
        assert "beyond the end of the log" not in readiness(admin)
        operator.environ["POSITION"] = str(asyncio.run(append_poison(settings)))
        until(lambda: "parked" in readiness(admin), "the event is parked")
        operator.run(dismiss)

        dump_and_restore(operator, settings)
        damage_row(settings, operator.environ["POSITION"])
        assert f"put back: {operator.environ['POSITION']}" in operator.run(put_row_back)
        until(
            lambda: {path.name for path in operator.path("CHECKPOINTS").glob("*.txt")} > kept, "the log is sealed again"
        )
        until(lambda: readiness(admin) == "ok", "the sealer has seen that the row is right again")

    shutil.rmtree(operator.path("MOVED") / "engines")
    refused = operator.attempt(start)
    assert refused.returncode == 1
    assert "is gone" in refused.stderr
    assert not (operator.path("MOVED") / "engines").exists(), "where the operator puts it back"


def readiness(client: Client) -> str:
    return str(client.when("GET", "/readyz").json()["status"])


def lose_table(settings: Settings, name: str) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(f"DROP TABLE {name}".encode())


def break_read_models(settings: Settings) -> None:
    """Drops a table of one, and moves another one beyond the log."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        row = connection.execute("SELECT tables[1] FROM projection_positions WHERE name = 'jobs'").fetchone()
        assert row is not None
        connection.execute(f"DROP TABLE {row[0]}".encode())
        connection.execute("UPDATE projection_positions SET position = position + 1000000 WHERE name = 'nodes'")


def damage_row(settings: Settings, position: str) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("UPDATE stored_events SET topic = 'job.deleted' WHERE notification_id = %s", (position,))


async def append_poison(settings: Settings) -> int:
    """Appends an event that no read model can store; returns its position."""
    created = TemplateCreated(template_id=1, creator_id=1, title="a\0b")
    async with core(settings, pool_size=1) as parts:
        (recorded,) = await parts.log.append([Write(1, created)], EventMetadata(utcnow(), "system:tests"))
    return recorded.position


def dump_and_restore(operator: Operator, settings: Settings) -> None:
    """By the commands for PostgreSQLs of an operator's own; here it is the one of the stack."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE restored")
    operator.environ |= {
        "DATABASE_URL": settings.database_url,
        "RESTORED_URL": make_conninfo(settings.database_url, dbname="restored"),
        "TESTHIDE_REDIS_URL": settings.redis_url,
        "TESTHIDE_SECRET_KEY_FILE": str(operator.path("MOVED") / "secret.key"),
        "TESTHIDE_DATA": settings.data_dir,
    }
    output = operator.run(*documented("docs/backup.md", "Your own PostgreSQL"))
    assert "artifacts: 1, missing or altered: 0" in output
    _, rotate = documented("docs/backup.md", "Rotating the secret key")
    operator.environ |= {
        "OLD_KEY": operator.environ.pop("TESTHIDE_SECRET_KEY_FILE"),
        "NEW_KEY": f"{operator.path('DUMP')}.key",
    }
    Path(operator.environ["NEW_KEY"]).write_text(base64.b64encode(b"n" * 32).decode())
    output = operator.run('export TESTHIDE_DATABASE_URL="$RESTORED_URL"', rotate, rotate)
    assert output.endswith("the new secret key is the only one that opens the database: nothing to do\n")
    for name in ("TESTHIDE_REDIS_URL", "TESTHIDE_DATA"):
        del operator.environ[name]
