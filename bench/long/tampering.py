"""Changes a server's data in many ways by SQL and on disk. Finds out which detectors notice a change, how fast, and
with which message.

`./dev long tampering --events 600 --seed 1`. Starts a server and fills it over HTTP, while `testhide work` seals the
log and writes its checkpoints to a folder that stands for the auditor's. Then makes each change alone
(`bench.support.tampering.kinds`), asks all who might notice it, and puts everything back:

- sealer: the next checkpoint, in 10 s at most for a log of this size; a longer one is checked in turn
- verify: `testhide audit verify` of an export, with the auditor's checkpoints and key
- contents: `testhide audit verify --contents`
- diff: `testhide projections rebuild` and `diff` of the read model
- comparison: `testhide work` compares some read models and the endpoints of deliveries with the log every five minutes
- start: a process that starts now
- reading: somebody who reads what was changed, at once
- readyz: `GET /api/v3/readyz`, at once

Writes results/tampering.json, prints the table of docs/audit.md, and exits with 1 when somebody did not notice what
they must. `--kinds 12` makes only so many of the changes, chosen by the seed.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg
import requests
from psycopg.errors import UndefinedColumn, UndefinedTable
from psycopg.sql import SQL, Identifier
from tests.support.builders import REPOSITORY, Shop, finish, given_build, given_project, upload
from tests.support.engines import temporary_engines
from tests.support.server import Server, server_on_new_database

from bench.long.audit import count_events, fill_log, wait_for_checkpoint
from bench.support.report import write_result
from bench.support.tampering.changes import LOST
from bench.support.tampering.kind import SEALED, Kind
from bench.support.tampering.kinds import KINDS
from bench.support.tampering.scene import Scene
from commands.handler import Handler
from domain.core.errors import StreamDamaged
from projections.engine.read_your_writes import POLL_INTERVAL_S, ProjectionWaiter
from projections.ids_in_use import describe_behind, find_sequences_behind
from projections.rebuild.diff import diff
from projections.rebuild.drop import drop
from projections.rebuild.rebuild import build_staging
from projections.registry import PROJECTIONS
from store.audit.checkpoints import AuditTree
from store.audit.export import Export
from store.audit.recheck import TreeDamaged
from store.audit.verifier import HeldCheckpoint, Verifier
from store.clock import utcnow
from store.crypto.secrets import SecretMismatch
from store.postgres.notifications import Listener
from store.tables.alarms import fetch_alarms
from testhide.adapters import blob_store
from testhide.artifact_store import refuse_other_store
from testhide.audit_contents import ContentsCheck
from testhide.cli.audit import read_checkpoint, read_key
from testhide.operator_errors import Fault
from testhide.processes import Core, core
from testhide.settings import save_settings
from workers.read_models import INTERVAL_S, ReadModelCheck
from workers.sealer import CHECKPOINT_INTERVAL_S, Sealer

WHEN = {
    "sealer": f"within {CHECKPOINT_INTERVAL_S:.0f} s",
    "comparison": f"within {INTERVAL_S / 60:.0f} min",
    "reading": "at once",
    "readyz": "at once",
}
"""Detector -> when it notices a change, for detectors that run all the time. Other detectors notice a change when
somebody runs them.
"""
REPORT = b"""<testsuite name="s"><testcase classname="t" name="a"><failure message="too late"/></testcase>
<testcase classname="t" name="b"><failure message="refused">at t.py:3</failure></testcase>
<testcase classname="t" name="c"><system-out>hello</system-out></testcase></testsuite>"""
SHOWN = 110
"""Largest number of characters of a message in the table."""
DELIVERY_TIMEOUT_S = 30.0
NOT_RUNNING = re.compile(r"^no `testhide \w+` leads: | s behind|^deliveries are \d+ s overdue")
"""Matches messages that readiness shows only because no process but the API runs."""


class Detectors:
    def __init__(self, scene: Scene, held: Sequence[HeldCheckpoint], key: Path) -> None:
        self._scene = scene
        self._settings = scene.server.settings
        self._held = held
        self._key = read_key(key)

    def ask_all(self, kind: Kind) -> dict[str, tuple[float, str]]:
        """Returns detector -> (seconds that it took, message), for each detector that has noticed the change."""
        asked: dict[str, Callable[[], str | None]] = {
            "reading": lambda: kind.read(self._scene),
            "readyz": self.readyz,
            "start": lambda: asyncio.run(self._start()),
            "contents": lambda: asyncio.run(self._contents()),
            "verify": self.verify,
            "diff": lambda: asyncio.run(self._diff(kind.model)) if kind.model else None,
            "comparison": lambda: asyncio.run(self._compare()),
            "sealer": lambda: asyncio.run(self._seal()),  # last, since it writes
        }
        found: dict[str, tuple[float, str]] = {}
        for name, ask in asked.items():
            begun = time.monotonic()
            try:
                message = ask()
            except (UndefinedTable, UndefinedColumn, Fault) as error:
                message = str(error).partition("\n")[0]
            if message is not None:
                found[name] = (round(time.monotonic() - begun, 2), message)
        return found

    def readyz(self) -> str | None:
        answer = requests.get(f"{self._scene.server.url}/api/v3/readyz", timeout=30)
        status = str(answer.json().get("status", answer.text))
        # Only the API runs here: no process leads, and the projector is behind after each change that appends.
        others = [part for part in status.removeprefix("degraded: ").split("; ") if not NOT_RUNNING.search(part)]
        return f"{answer.status_code} {'; '.join(others)}" if others and others != ["ok"] else None

    def verify(self) -> str | None:
        exported = asyncio.run(self._export())
        if not exported:
            return "there is no export: the log has no checkpoint"
        verifier = Verifier(self._key, self._held)
        verifier.verify(exported)
        return "; ".join(map(str, verifier.findings[:2])) or None

    async def _export(self) -> list[bytes]:
        async with core(self._settings, pool_size=2) as parts:
            tree = AuditTree(parts.pool)
            checkpoint = await tree.checkpoint(self._scene.held) or await tree.checkpoint()
            if checkpoint is None:
                return []
            pieces = [piece async for piece in Export(parts.pool, parts.log, checkpoint).lines()]
        return b"".join(pieces).splitlines(keepends=True)

    async def _start(self) -> None:
        """Does what `testhide serve` does before it answers. Raises Fault if it would not start."""
        async with core(self._settings, pool_size=2) as parts:
            if behind := await find_sequences_behind(parts.pool):
                raise Fault(describe_behind(behind))
            await refuse_other_store(parts.pool, blob_store(self._settings), self._settings.blobs)

    async def _contents(self) -> str | None:
        async with core(self._settings, pool_size=2) as parts:
            check = ContentsCheck(parts.log, parts.pool, blob_store(self._settings))
            return await anext(check.run(), None)

    async def _diff(self, name: str) -> str | None:
        (projection,) = (projection for projection in PROJECTIONS if projection.name == name)
        async with core(self._settings, pool_size=2) as parts:
            await build_staging(parts.conninfo, parts.log, [projection], from_scratch=True)
            found = await diff(parts.conninfo, parts.log, projection)
            async with parts.pool.connection() as connection:
                await drop(connection, PROJECTIONS, [projection.name])
        return next(iter(line for table in found.tables for line in table.differences), None)

    async def _compare(self) -> str | None:
        async with self._running_worker() as parts:
            waiter = ProjectionWaiter(parts.pool, Listener(parts.conninfo), PROJECTIONS)
            check = ReadModelCheck(parts.conninfo, parts.pool, parts.log, waiter)
            await check.sweep()
            await check.sweep_sequences()
            await check.sweep_endpoints()
            async with parts.pool.connection() as connection:
                return next(iter(await fetch_alarms(connection)), None)

    async def _seal(self) -> str | None:
        async with self._running_worker() as parts:
            handler = Handler(parts.log, utcnow)
            sealer = Sealer(parts.conninfo, parts.pool, parts.log, handler, parts.secrets, utcnow)
            async with sealer.hold_lock() as connection:
                try:
                    await sealer.seal(connection)
                    await sealer.seal(connection)  # what the first round has skipped
                except (TreeDamaged, StreamDamaged, SecretMismatch, LookupError, UndefinedTable) as error:
                    return str(error).partition("\n")[0]
        return None

    def _running_worker(self) -> AbstractAsyncContextManager[Core]:
        """Connects like a `testhide work` that has been running for long. One that starts now would find lost tables at
        its start.
        """
        return core(self._settings, pool_size=2, before_migration=True)


@contextlib.contextmanager
def put_back(scene: Scene, kind: Kind) -> Iterator[None]:
    """Restores the tables and the file that a change of this kind touches when the block ends."""
    tables = [*SEALED, *kind.tables]
    content = scene.blob.read_bytes()
    sequences = scene.connection.execute("SELECT sequencename, last_value FROM pg_sequences").fetchall()
    for table in tables:
        scene.connection.execute(
            SQL("CREATE TEMP TABLE {} AS TABLE public.{}").format(Identifier(f"kept {table}"), Identifier(table))
        )
    try:
        yield
    finally:
        for (table,) in scene.connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (LOST,)):
            scene.connection.execute(SQL("ALTER TABLE {}.{} SET SCHEMA public").format(*map(Identifier, (LOST, table))))
        for table in tables:
            scene.put_back(table, f"kept {table}")
        for name, last_value in sequences:
            if last_value is not None:
                scene.connection.execute("SELECT setval(%s::regclass, %s)", (name, last_value))
        scene.blob.write_bytes(content)
        if "parked_events" in tables:
            time.sleep(2 * POLL_INTERVAL_S)  # until the server has read it


def prepare(server: Server, connection: psycopg.Connection[Any], seed: int) -> dict[str, Any]:
    """Creates the data that the changes need: a build log of two chunks, an artifact, a member, a delivery, and a
    stored answer to a request with an idempotency key.
    """
    shop = Shop(server)
    agent = shop.new_agent()
    shop.start()
    build = agent.take_up()
    agent.log(build, 0, ["collecting", "running"]).raise_for_status()
    agent.log(build, 2, ["1 failed"]).raise_for_status()
    agent.finished(build, exit_code=1, log_lines=3).raise_for_status()
    artifact = int(upload(server.admin, given_build(server, shop.job), b"content" * 100, "core.bin").json()["id"])
    add_settings(shop)
    server.make_user("viewer", {shop.project: "read"})
    hook = {"project_id": shop.project, "url": "http://127.0.0.1:9/hook", "events": ["build.started", "build.finished"]}
    for secret in ("whsec_" + "a" * 32, "whsec_" + "b" * 32):
        server.admin.create("/webhooks", **hook, secret=secret)
    server.admin.create(
        "/ms-teams", name="Team", webhook_url="http://127.0.0.1:9/x", project_id=shop.project, events=["build.failed"]
    )
    server.admin.create("/api-tokens", name="laptop")
    shop.start()
    agent.finished(agent.take_up()).raise_for_status()
    key = {"Idempotency-Key": f"tampering-{seed}"}
    server.admin.post("/api/v3/projects", json={"name": "Once"}, headers=key).raise_for_status()
    deadline = time.monotonic() + DELIVERY_TIMEOUT_S
    while connection.execute("SELECT FROM webhook_deliveries LIMIT 1").fetchone() is None:
        assert time.monotonic() < deadline, "no delivery was planned"
        time.sleep(0.1)
    blobs = Path(urlsplit(server.settings.blobs).path)
    (blob,) = blobs.glob(f"jobs/*/builds/*/artifacts/{artifact}")
    return {"build": build["id"], "artifact": artifact, "blob": blob, "once": key}


def add_settings(shop: Shop) -> None:
    """Creates what the other read models show: a template, triggers, a pool for untrusted builds, a build group, a
    build of a change, a known issue that has matched a failure and learned from another, a quarantined test, an SCM
    endpoint, a Jira integration, a Docker agent, a scaled node pool, and a vCenter with an operation that is under way.
    """
    admin, project = shop.admin, shop.project
    admin.create("/pipeline-templates", name="python", setup=[], env={}, command="pytest")
    admin.create("/node-pools", name="forks", project_id=project, untrusted=True)
    group = {"command": "pytest", "setup": [], "env": {}, "artifacts": [], "matrix": {"axes": {"os": ["linux", "mac"]}}}
    job = shop.new_job(name="matrix", required_tags=["none"])
    admin.when("PUT", f"/jobs/{job}/configuration", json=group).then(200)
    shop.start(job)
    triggered = shop.new_job(name="triggered", repository=REPOSITORY, required_tags=["none"])
    admin.when("PUT", f"/jobs/{triggered}/triggers", json={"branches": ["main"]}).then(200)
    shop.server.wait_until_projected()
    pushed = {"project_id": project, "branch": "main", "commit_sha": "c0ffee00"}
    assert admin.when("POST", "/builds/git-notify", json=pushed).then(200)["queued"] == 1
    issue = admin.create("/known-issues", project_id=project, title="Late", classification="infra", pattern="too late")
    build = given_build(shop.server, shop.job)
    upload(admin, build, REPORT).then(201)
    finish(shop.server, build, "failed")
    shop.server.wait_until_projected()
    (late, refused) = admin.fetch("/tests", build_id=build, status="failed")["results"]
    admin.when("POST", f"/tests/{refused['id']}/known-issue", json={"known_issue_id": issue["id"]}).then(200)
    admin.create("/quarantine", job_id=shop.job, node_id=late["node_id"], reason="flaky")
    # In a project without builds, since nothing is to be sent to them.
    other = given_project(shop.server)
    admin.create("/scm", project_id=other, type="github", name="web", repo="acme/web", token="token")
    jira = {"name": "Jira", "host": "https://jira.example.com", "email": "a@example.com", "api_token": "token"}
    admin.create("/jira", **jira, project_key="ABC", testhide_project_id=other)
    admin.when("POST", "/evals/runs", json={"suite": "health", "sample_size": 1}).then(202)
    admin.create("/docker-agents/spawn", **(docker := {"host": "build-host-01", "image": "testhide/agent:1"}))
    pool = admin.create("/node-pools", name="on demand", project_id=other)["id"]
    admin.when("PUT", f"/node-pools/{pool}/autoscaling", json={"maximum": 1, "docker": docker}).then(200)
    vcenter = {"name": "vCenter", "host": "vcenter.example.com", "username": "a", "password": "p", "datacenter": "DC"}
    vcenter_id = admin.create("/vcenter", **vcenter)["id"]
    with contextlib.suppress(requests.ReadTimeout):  # no worker carries it out
        admin.post(f"/api/v3/vcenter/{vcenter_id}/test", timeout=2)


@contextlib.contextmanager
def sealed_server(events: int, seed: int) -> Iterator[tuple[Scene, Detectors]]:
    """Yields a filled server of which only the API still runs, so that no other process changes its data."""
    with (
        tempfile.TemporaryDirectory(prefix="testhide-tampering-") as temporary,
        temporary_engines() as engines,
        server_on_new_database(
            engines, Path(temporary), "serve", "project", "dispatch", outgoing_allow="127.0.0.0/8"
        ) as server,
        psycopg.connect(server.settings.database_url, autocommit=True) as connection,
    ):
        folder, key = Path(temporary, "checkpoints"), Path(temporary, "key.txt")
        server.settings = msgspec.structs.replace(server.settings, checkpoints_to=str(folder))
        save_settings(server.settings, Path(temporary, "settings.json"))
        server.start("work")
        wait_for_checkpoint(folder, 1)  # an early one, so that there are several
        fill_log(server, events, seed)
        needed = prepare(server, connection, seed)
        server.kill("dispatch")
        wait_for_checkpoint(folder, count_events(server))
        server.kill("work")
        # Nobody carries them out any more. `/readyz` would report them after some minutes, whatever was changed.
        connection.execute("DELETE FROM due_reactions")
        server.wait_until_projected()
        server.kill("project")
        held = [read_checkpoint(file) for file in sorted(folder.glob("checkpoint-*.txt"))]
        connection.execute(f"CREATE SCHEMA {LOST}".encode())
        key.write_text(server.admin.get("/api/v3/audit/checkpoints").json()["keys"][0])
        scene = Scene(server, connection, random.Random(seed), held=held[-1].checkpoint.size, **needed)
        yield scene, Detectors(scene, held, key)


def run(events: int, seed: int, kinds: Sequence[Kind]) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    missed: list[str] = []
    begun = time.monotonic()
    with sealed_server(events, seed) as (scene, detectors):
        size = scene.held
        if alarms := detectors.ask_all(Kind("", "nothing", lambda scene: None, model="builds")):
            missed.append(f"an alarm about unchanged data: {alarms}")
        for kind in kinds:
            with put_back(scene, kind):
                kind.change(scene)
                found = detectors.ask_all(kind)
            unaware = [name for name in kind.noticed_by if name not in found]
            missed += [f"{kind.what}: {name} did not notice, but {found}" for name in unaware]
            results.append({"area": kind.area, "what": kind.what, "because": kind.because, "noticed": found})
            print(f"{len(results)} of {len(kinds)}: {kind.what}: {', '.join(found) or 'nobody'}", file=sys.stderr)
        if alarms := detectors.ask_all(Kind("", "nothing", lambda scene: None)):
            missed.append(f"an alarm about data that was put back: {alarms}")
    seconds = round(time.monotonic() - begun, 1)
    return {"seed": seed, "events": size, "seconds": seconds, "kinds": results, "missed": missed}


def format_table(results: Sequence[dict[str, Any]]) -> str:
    """Returns the table of docs/audit.md."""
    lines = ["| what is changed | who notices, and when | what it says |", "|---|---|---|"]
    for area, rows in itertools.groupby(results, lambda result: result["area"]):
        for result in rows:
            found: dict[str, tuple[float, str]] = result["noticed"]
            who = ", ".join(f"{name} {WHEN[name]}" if name in WHEN else name for name in sorted(found, key=order))
            says = next((found[name][1] for name in sorted(found, key=order)), result["because"])
            lines.append(f"| {area}: {result['what']} | {who or 'nobody'} | {shorten(says)} |")
    return "\n".join(lines)


def order(name: str) -> int:
    return ("sealer", "reading", "readyz", "comparison", "start", "verify", "contents", "diff").index(name)


def shorten(message: str) -> str:
    """Returns a message shortened, without the numbers of this run."""
    text = re.sub(r"(?<!SHA-)(?<!^)\b\d+\b", "N", message.partition("; ")[0]).replace("|", "/").replace("\n", " ")
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rpartition(' ')[0]} …"


def main() -> int:
    parser = argparse.ArgumentParser(description="Change a server's data in every way, and ask who notices.")
    parser.add_argument("--events", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", type=int, default=len(KINDS))
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    chosen = random.Random(options.seed).sample(KINDS, options.kinds) if options.kinds < len(KINDS) else KINDS
    result = run(options.events, options.seed, sorted(chosen, key=KINDS.index))
    write_result(options.results, "tampering", result)
    print(format_table(result["kinds"]))
    for missed in result["missed"]:
        print(f"MISSED: {missed}")
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
