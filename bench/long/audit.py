"""An auditor's day, scripted: `python -m bench.long.audit --events 10000 --tamperings 200 --seed 1`.

Starts its own server and uses it as people and machines do, over HTTP: projects, jobs, agents with builds, logs and
reports, uploads from elsewhere, triage, quarantine, deletions. Meanwhile `testhide work` seals the log and writes its
checkpoints to a folder, the auditor's. He exports the log and verifies it offline by `testhide audit verify`. Then an
intruder who has the database and the master secret changes it, a thing at a time, at or below a checkpoint that the
auditor holds: each must be found, and where; at the end also with a tree made to fit, and with the tail removed. Writes
results/audit.json and exits with 1 if anything was missed.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server, running_server
from tests.support.tampering import TAMPERINGS, Intruder, cut_off_after, hide_in_the_tree

from store.audit.checkpoints import AuditTree
from store.audit.export import Export
from store.audit.verifier import HeldCheckpoint, Verifier
from store.crypto.secrets import Secrets
from testhide.cli.audit import read_checkpoint, read_key
from testhide.engines import temporary_engines
from testhide.preparation import create_first_admin
from testhide.processes import core
from testhide.settings import save_settings

TEAMS = 8
PATIENCE_S = 60.0


class Team:
    """A project with people and a machine that work all day."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self.chance = chance
        self.shop = Shop(server)
        self.admin = server.admin
        self.agent: FakeAgent = self.shop.new_agent()
        self.tests = [
            f"tests/test_{area}.py::test_{number}" for area in ("login", "cart", "pay") for number in range(9)
        ]
        self.builds: list[int] = []

    def work(self) -> None:
        """One build and what people do about it; some twenty events."""
        if self.chance.random() < 0.7:
            build = self.shop.start(branch=self.chance.choice(["main", "feature/x"]))
            self._run(self.agent.take_up())
        else:
            build = self.shop.start(external=True)
            self.admin.post(
                "/api/v3/artifacts/upload",
                data={"build_id": str(build)},
                files={"file": ("report.xml", self._report())},
            ).raise_for_status()
            self._say("POST", f"/api/v3/builds/{build}/finish", {"status": "failed"})
        self.builds.append(build)
        self._talk(build)
        if len(self.builds) > 20:
            gone = self.builds.pop(self.chance.randrange(len(self.builds)))
            self._say("DELETE", f"/api/v3/builds/{gone}")
        if self.chance.random() < 0.2:
            self._arrange()

    def _run(self, build: dict[str, Any]) -> None:
        self.agent.log(build, 0, ["collecting", "running"]).raise_for_status()
        self.agent.report(build, self._report()).raise_for_status()
        self.agent.finished(build, self.chance.choice([0, 1]), log_lines=2).raise_for_status()

    def _talk(self, build: int) -> None:
        for number in range(self.chance.randrange(3)):
            self._say("POST", f"/api/v3/builds/{build}/comment", {"text": f"Looked at it, {number}"})
        found = self.admin.get("/api/v3/tests", params={"build_id": str(build), "status": "failed"}).json()
        for test in (found["results"] if isinstance(found, dict) else found)[:4]:
            kind = self.chance.choice(["product_bug", "infra", "flaky"])
            self._say("POST", f"/api/v3/tests/{test['id']}/classification", {"classification": kind})
            self._say("POST", f"/api/v3/tests/{test['id']}/resolution", {"resolution": "known"})

    def _arrange(self) -> None:
        self._say("PUT", f"/api/v3/jobs/{self.shop.job}", {"description": f"since {self.chance.random()}"})
        self._say(
            "POST",
            "/api/v3/quarantine/bulk",
            {"job_id": self.shop.job, "node_ids": self.chance.sample(self.tests, 2), "action": "add"},
        )
        issue = {"project_id": self.shop.project, "title": "Timeout", "classification": "infra", "pattern": "timed out"}
        self._say("POST", "/api/v3/known-issues", issue)
        self._say("POST", "/api/v3/authenticate", {"username": "nobody@example.com", "password": "wrong"})

    def _say(self, method: str, path: str, body: object = None) -> None:
        answer = self.admin.request(method, path, json=body)
        if not answer.ok and answer.status_code not in (401, 409, 429):  # these are ordinary too
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")

    def _report(self) -> bytes:
        cases = "".join(
            f'<testcase classname="{test.partition("::")[0]}" name="{test.partition("::")[2]}">'
            + ('<failure message="timed out">at line 3</failure>' if self.chance.random() < 0.1 else "")
            + "</testcase>"
            for test in self.tests
        )
        return f'<testsuite name="all">{cases}</testsuite>'.encode()


def use(server: Server, events: int, seed: int) -> None:
    """Until the log holds so many events."""
    teams = [Team(server, random.Random(f"{seed} {number}")) for number in range(TEAMS)]

    def work(team: Team) -> None:
        while log_length(server) < events:
            team.work()

    with ThreadPoolExecutor(TEAMS) as threads:
        for done in [threads.submit(work, team) for team in teams]:
            done.result()


def log_length(server: Server) -> int:
    with psycopg.connect(server.settings.database_url) as connection:
        row = connection.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    return int(row[0]) if row else 0


def wait_for_checkpoint(folder: Path, size: int) -> list[Path]:
    """All that were written, the newest of which covers `size`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = sorted(folder.glob("checkpoint-*.txt"))
        if found and int(found[-1].stem.partition("-")[2]) >= size:
            return found
        time.sleep(0.2)
    raise RuntimeError(f"no checkpoint covers position {size} after {PATIENCE_S:.0f} s")


def auditor(export: Path, checkpoints: list[Path], key: Path) -> subprocess.CompletedProcess[str]:
    """`testhide audit verify`, with nothing of the server's around it."""
    command = [sys.executable, "-P", "-m", "testhide", "audit", "verify", str(export), "--key", str(key)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    held = itertools.chain.from_iterable(("--checkpoint", str(file)) for file in checkpoints)
    return subprocess.run([*command, *held], env=kept, cwd=export.parent, capture_output=True, text=True, check=False)


class Audit:
    """Verifies what the database says now."""

    def __init__(self, server: Server, held: list[HeldCheckpoint], key: Path) -> None:
        self._settings = server.settings
        self._held = held
        self._key = read_key(key)

    def findings(self, *, cut_off: bool = False) -> Verifier:
        """Against the newest checkpoint that the auditor holds; `cut_off`: exported from what the server has left."""

        async def lines() -> list[bytes]:
            async with core(self._settings, pool_size=2) as parts:
                size = None if cut_off else self._held[-1].checkpoint.size
                checkpoint = await AuditTree(parts.pool).checkpoint(size)
                assert checkpoint is not None
                return [piece async for piece in Export(parts.pool, parts.log, checkpoint).lines()]

        verifier = Verifier(self._key, self._held)
        verifier.verify(b"".join(asyncio.run(lines())).splitlines())
        return verifier


def tamper(audit: Audit, connection: psycopg.Connection[Any], secrets: Secrets, count: int, seed: int) -> Iterator[str]:
    """What was missed, told."""
    intruder = Intruder(connection, secrets, random.Random(seed))
    for number in range(count):
        done = TAMPERINGS[number % len(TAMPERINGS)]
        places = done(intruder)
        found = audit.findings()
        if not places <= {finding.position for finding in found.findings}:
            yield f"{done.__name__} at {sorted(places)}, number {number}: found {found.findings[:5]}"
        intruder.undo()
        if number % 20 == 19:
            print(f"{number + 1} of {count} tamperings", file=sys.stderr)
    if audit.findings().found:
        yield "something was found in a log that is as it was"


def hide(
    audit: Audit, connection: psycopg.Connection[Any], secrets: Secrets, held: list[HeldCheckpoint], seed: int
) -> Iterator[str]:
    """The tree is made to fit; the checkpoints narrow down where."""
    chance = random.Random(seed)
    tiles = connection.execute("SELECT level, n, hashes FROM audit_tiles").fetchall()
    intruder = Intruder(connection, secrets, chance)
    sizes = [0, *(one.checkpoint.size for one in held)]
    for _ in range(10):
        position = chance.randrange(1, sizes[-1] + 1)
        intruder.change(position, "topic", "build.pinned" if chance.random() < 0.5 else "build.unpinned")
        hide_in_the_tree(connection)
        after = max(size for size in sizes if size < position)
        said = [finding.text for finding in audit.findings().findings]
        if not any(one.startswith(f"the tree from position {after + 1} to ") for one in said):
            yield f"a change at {position} that the tree was made to fit: found {said[:5]}"
        intruder.undo()
        connection.execute("TRUNCATE audit_tiles")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO audit_tiles VALUES (%s, %s, %s)", tiles)


def cut_off(audit: Audit, connection: psycopg.Connection[Any], held: list[HeldCheckpoint]) -> Iterator[str]:
    size = held[len(held) // 2 - 1].checkpoint.size
    cut_off_after(connection, size)
    said = [finding.text for finding in audit.findings(cut_off=True).findings]
    if not any("its tail was removed" in one for one in said):
        yield f"the tail after {size} was removed: found {said[:5]}"


def run(events: int, tamperings: int, seed: int) -> dict[str, Any]:
    missed: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="testhide-audit-") as place,
        temporary_engines() as engines,
        running_server(engines, Path(place), "serve", "project", "dispatch") as server,
    ):
        folder, export, key = Path(place, "held"), Path(place, "export.ndjson"), Path(place, "key.txt")
        server.settings = msgspec.structs.replace(server.settings, checkpoints_to=str(folder))
        save_settings(server.settings, Path(place, "settings.json"))
        asyncio.run(create_first_admin(server.settings))
        server.settle()
        server.start("work")
        begun = time.monotonic()
        use(server, events, seed)
        used_s = time.monotonic() - begun
        files = wait_for_checkpoint(folder, log_length(server))
        held = [read_checkpoint(file) for file in files]
        size = held[-1].checkpoint.size
        key.write_text(server.admin.get("/api/v3/audit/checkpoints").json()["keys"][0])
        begun = time.monotonic()
        answer = server.admin.get("/api/v3/audit/export", params={"size": size})
        answer.raise_for_status()
        export.write_bytes(answer.content)
        export_s = time.monotonic() - begun
        for name in list(server.processes):
            server.kill(name)
        begun = time.monotonic()
        verified = auditor(export, files, key)
        verify_s = time.monotonic() - begun
        print(verified.stdout, verified.stderr, file=sys.stderr)
        if verified.returncode != 0:
            missed.append(f"the log as it is does not verify: {verified.stdout} {verified.stderr}")
        secrets, audit = Secrets(server.settings.secret_key), Audit(server, held, key)
        with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
            connection.execute("DELETE FROM stored_events WHERE notification_id > %s", (size,))
            types: Counter[str] = Counter(
                dict(connection.execute("SELECT topic, count(*) FROM stored_events GROUP BY 1").fetchall())
            )
            missed += tamper(audit, connection, secrets, tamperings, seed)
            missed += hide(audit, connection, secrets, held, seed)
            missed += cut_off(audit, connection, held)
    return {
        "seed": seed,
        "events": size,
        "used_s": round(used_s, 1),
        "export_s": round(export_s, 2),
        "export_bytes": len(answer.content),
        "verify_s": round(verify_s, 2),
        "checkpoints": [one.checkpoint.size for one in held],
        "types": dict(types.most_common()),
        "tamperings": {
            done.__name__: len(range(number, tamperings, len(TAMPERINGS))) for number, done in enumerate(TAMPERINGS)
        },
        "missed": missed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="An auditor against an intruder.")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--tamperings", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    result = run(options.events, options.tamperings, options.seed)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "audit.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
