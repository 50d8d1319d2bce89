"""Tampers with a real log and verifies it: `./dev long audit --events 10000 --tamperings 200 --seed 1`.

Starts a server and fills its log over HTTP: projects, jobs, agents that run builds, external builds, triage, quarantine
and deletions. Meanwhile `testhide work` seals the log and writes its checkpoints to a folder that stands for the
auditor's. The log is exported and verified offline by `testhide audit verify`. Then an intruder who has the database
and the secret key makes one change after the other, each at or below a checkpoint of the auditor. The verifier must
find each change at its position. At the end the intruder changes the audit tree, too, so that it agrees with the
changed events, and removes the tail of the log. Writes results/audit.json and exits with 1 if a change was not found.
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
from tests.support.engines import temporary_engines
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server, server_on_new_database
from tests.support.tampering import TAMPERINGS, Intruder, cut_off_after, hide_in_the_tree

from bench.support.report import write_result
from domain.audit import SIGNING_KEY
from domain.core.errors import StreamDamaged
from store.audit.checkpoints import AuditTree
from store.audit.export import Export
from store.audit.verifier import Finding, HeldCheckpoint, Verifier
from store.crypto.secrets import Secrets
from testhide.cli.audit import read_checkpoint, read_key
from testhide.processes import core
from testhide.settings import save_settings

TEAMS = 8
"""Number of teams that work at the same time."""
MAX_BUILDS_OF_TEAM = 20
"""Number of builds above which a team deletes one of its builds."""
SEALING_TIMEOUT_S = 60.0


class Team:
    """A project with a job, people and an agent."""

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
        """Runs one build, and does what people do about a build. This makes some twenty events."""
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
            self._call("POST", f"/api/v3/builds/{build}/finish", {"status": "failed"})
        self.builds.append(build)
        self._triage(build)
        if len(self.builds) > MAX_BUILDS_OF_TEAM:
            deleted = self.builds.pop(self.chance.randrange(len(self.builds)))
            self._call("DELETE", f"/api/v3/builds/{deleted}")
        if self.chance.random() < 0.2:
            self._change_settings()

    def _run(self, build: dict[str, Any]) -> None:
        self.agent.log(build, 0, ["collecting", "running"]).raise_for_status()
        self.agent.report(build, self._report()).raise_for_status()
        self.agent.finished(build, self.chance.choice([0, 1]), log_lines=2).raise_for_status()

    def _triage(self, build: int) -> None:
        for number in range(self.chance.randrange(3)):
            self._call("POST", f"/api/v3/builds/{build}/comment", {"text": f"Looked at it, {number}"})
        found = self.admin.get("/api/v3/tests", params={"build_id": str(build), "status": "failed"}).json()
        for test in (found["results"] if isinstance(found, dict) else found)[:4]:
            kind = self.chance.choice(["product_bug", "infra", "flaky"])
            self._call("POST", f"/api/v3/tests/{test['id']}/classification", {"classification": kind})
            self._call("POST", f"/api/v3/tests/{test['id']}/resolution", {"resolution": "known"})

    def _change_settings(self) -> None:
        self._call("PUT", f"/api/v3/jobs/{self.shop.job}", {"name": f"Renamed {self.chance.random()}"})
        self._call(
            "POST",
            "/api/v3/quarantine/bulk",
            {"job_id": self.shop.job, "node_ids": self.chance.sample(self.tests, 2), "action": "add"},
        )
        issue = {"project_id": self.shop.project, "title": "Timeout", "classification": "infra", "pattern": "timed out"}
        self._call("POST", "/api/v3/known-issues", issue)
        self._call("POST", "/api/v3/authenticate", {"username": "nobody@example.com", "password": "wrong"})

    def _call(self, method: str, path: str, body: object = None) -> None:
        answer = self.admin.request(method, path, json=body)
        if not answer.ok and answer.status_code not in (401, 409, 429):  # expected for some of the calls
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")

    def _report(self) -> bytes:
        cases = "".join(
            f'<testcase classname="{test.partition("::")[0]}" name="{test.partition("::")[2]}">'
            + ('<failure message="timed out">at line 3</failure>' if self.chance.random() < 0.1 else "")
            + "</testcase>"
            for test in self.tests
        )
        return f'<testsuite name="all">{cases}</testsuite>'.encode()


def fill_log(server: Server, events: int, seed: int) -> None:
    """Lets all teams work until the log holds `events` events."""
    teams = [Team(server, random.Random(f"{seed} {number}")) for number in range(TEAMS)]

    def work(team: Team) -> None:
        while count_events(server) < events:
            team.work()

    with ThreadPoolExecutor(TEAMS) as threads:
        for running in [threads.submit(work, team) for team in teams]:
            running.result()


def count_events(server: Server) -> int:
    with psycopg.connect(server.settings.database_url) as connection:
        row = connection.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    return int(row[0]) if row else 0


def wait_for_checkpoint(folder: Path, size: int) -> list[Path]:
    """Waits until a checkpoint in the folder covers `size` positions. Returns the files of all checkpoints, the newest
    last. Raises RuntimeError if none comes in time.
    """
    deadline = time.monotonic() + SEALING_TIMEOUT_S
    while time.monotonic() < deadline:
        found = sorted(folder.glob("checkpoint-*.txt"))
        if found and int(found[-1].stem.partition("-")[2]) >= size:
            return found
        time.sleep(0.2)
    raise RuntimeError(f"no checkpoint covers position {size} after {SEALING_TIMEOUT_S:.0f} s")


def verify_offline(export: Path, checkpoints: list[Path], key: Path) -> subprocess.CompletedProcess[str]:
    """Runs `testhide audit verify` without the server's settings."""
    command = [sys.executable, "-P", "-m", "testhide", "audit", "verify", str(export), "--key", str(key)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    options = itertools.chain.from_iterable(("--checkpoint", str(file)) for file in checkpoints)
    return subprocess.run([*command, *options], env=env, cwd=export.parent, capture_output=True, text=True, check=False)


class Audit:
    """Exports the log as it is in the database now, and verifies the export."""

    def __init__(self, server: Server, checkpoints: list[HeldCheckpoint], key: Path) -> None:
        self._settings = server.settings
        self._checkpoints = checkpoints
        self._key = read_key(key)

    def verify(self, *, cut_off: bool = False) -> Verifier:
        """Exports the log up to the auditor's newest checkpoint; with `cut_off`, up to the newest checkpoint that the
        server still has.
        """

        async def export() -> list[bytes]:
            async with core(self._settings, pool_size=2) as parts:
                size = None if cut_off else self._checkpoints[-1].checkpoint.size
                checkpoint = await AuditTree(parts.pool).checkpoint(size)
                assert checkpoint is not None
                return [piece async for piece in Export(parts.pool, parts.log, checkpoint).lines()]

        verifier = Verifier(self._key, self._checkpoints)
        verifier.verify(b"".join(asyncio.run(export())).splitlines())
        return verifier


def tamper(audit: Audit, connection: psycopg.Connection[Any], secrets: Secrets, count: int, seed: int) -> Iterator[str]:
    """Makes `count` changes, and undoes each before the next. Yields a description of each that was not found."""
    intruder = Intruder(connection, secrets, random.Random(seed))
    for number in range(count):
        change = TAMPERINGS[number % len(TAMPERINGS)]
        positions = change(intruder)
        try:
            findings = audit.verify().findings
            noticed = positions <= {finding.position for finding in findings}
        except StreamDamaged as refused:  # without the log's signing keys the server exports nothing
            findings = [Finding(None, str(refused))]
            noticed = any(f"position {position} " in str(refused) for position in positions)
        if not noticed:
            yield f"{change.__name__} at {sorted(positions)}, number {number}: found {findings[:5]}"
        intruder.undo()
        if number % 20 == 19:
            print(f"{number + 1} of {count} tamperings", file=sys.stderr)
    if audit.verify().found:
        yield "a finding in the unchanged log"


def tamper_with_tree(
    audit: Audit, connection: psycopg.Connection[Any], secrets: Secrets, checkpoints: list[HeldCheckpoint], seed: int
) -> Iterator[str]:
    """Changes events, and changes the audit tree so that it agrees with them. The verifier must name the checkpoints
    before and after each change.

    Yields a description of each change that was not found.
    """
    chance = random.Random(seed)
    tiles = connection.execute("SELECT level, n, hashes FROM audit_tiles").fetchall()
    intruder = Intruder(connection, secrets, chance)
    sizes = [0, *(held.checkpoint.size for held in checkpoints)]
    for _ in range(10):
        position = chance.randrange(1, sizes[-1] + 1)
        intruder.change(position, "topic", "build.pinned" if chance.random() < 0.5 else "build.unpinned")
        hide_in_the_tree(connection)
        after = max(size for size in sizes if size < position)
        try:
            texts = [finding.text for finding in audit.verify().findings]
        except StreamDamaged as refused:
            texts = [str(refused)]
        named = (
            f"the tree from position {after + 1} to ",
            f"{SIGNING_KEY.name} cannot be used: its event at position {position} ",
        )
        if not any(text.startswith(named) for text in texts):
            yield f"a change at {position}, with the tree changed to match: found {texts[:5]}"
        intruder.undo()
        connection.execute("TRUNCATE audit_tiles")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO audit_tiles VALUES (%s, %s, %s)", tiles)


def remove_tail(audit: Audit, connection: psycopg.Connection[Any], checkpoints: list[HeldCheckpoint]) -> Iterator[str]:
    """Removes the second half of the log. Yields a description of the failure if the verifier does not say so."""
    size = checkpoints[len(checkpoints) // 2 - 1].checkpoint.size
    cut_off_after(connection, size)
    texts = [finding.text for finding in audit.verify(cut_off=True).findings]
    if not any("its tail was removed" in text for text in texts):
        yield f"the tail after {size} was removed: found {texts[:5]}"


def run(events: int, tamperings: int, seed: int) -> dict[str, Any]:
    missed: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="testhide-audit-") as temporary,
        temporary_engines() as engines,
        server_on_new_database(engines, Path(temporary), "serve", "project", "dispatch") as server,
    ):
        data = Path(temporary)
        folder, export, key = data / "checkpoints", data / "export.ndjson", data / "key.txt"
        server.settings = msgspec.structs.replace(server.settings, checkpoints_to=str(folder))
        save_settings(server.settings, data / "settings.json")
        server.start("work")
        begun = time.monotonic()
        fill_log(server, events, seed)
        fill_s = time.monotonic() - begun
        files = wait_for_checkpoint(folder, count_events(server))
        checkpoints = [read_checkpoint(file) for file in files]
        size = checkpoints[-1].checkpoint.size
        key.write_text(server.admin.get("/api/v3/audit/checkpoints").json()["keys"][0])
        begun = time.monotonic()
        answer = server.admin.get("/api/v3/audit/export", params={"size": size})
        answer.raise_for_status()
        export.write_bytes(answer.content)
        export_s = time.monotonic() - begun
        for name in list(server.processes):
            server.kill(name)
        begun = time.monotonic()
        verified = verify_offline(export, files, key)
        verify_s = time.monotonic() - begun
        print(verified.stdout, verified.stderr, file=sys.stderr)
        if verified.returncode != 0:
            missed.append(f"the unchanged log does not verify: {verified.stdout} {verified.stderr}")
        secrets, audit = server.secrets, Audit(server, checkpoints, key)
        with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
            connection.execute("DELETE FROM stored_events WHERE notification_id > %s", (size,))
            types: Counter[str] = Counter(
                dict(connection.execute("SELECT topic, count(*) FROM stored_events GROUP BY 1").fetchall())
            )
            missed += tamper(audit, connection, secrets, tamperings, seed)
            missed += tamper_with_tree(audit, connection, secrets, checkpoints, seed)
            missed += remove_tail(audit, connection, checkpoints)
    return {
        "seed": seed,
        "events": size,
        "fill_s": round(fill_s, 1),
        "export_s": round(export_s, 2),
        "export_bytes": len(answer.content),
        "verify_s": round(verify_s, 2),
        "checkpoints": [held.checkpoint.size for held in checkpoints],
        "types": dict(types.most_common()),
        "tamperings": {
            change.__name__: len(range(number, tamperings, len(TAMPERINGS))) for number, change in enumerate(TAMPERINGS)
        },
        "missed": missed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Tamper with a log and verify that each change is found.")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--tamperings", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    result = run(options.events, options.tamperings, options.seed)
    write_result(options.results, "audit", result)
    print(json.dumps(result))
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
