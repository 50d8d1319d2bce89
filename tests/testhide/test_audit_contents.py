"""`testhide audit verify --contents`: build logs and artifacts against what the log says of them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from domain.artifacts import ArtifactDeleted, ArtifactStored, blob_key
from domain.builds import BuildAssigned, BuildDeleted, BuildFinished, BuildQueued, BuildStarted
from domain.core.events import Event, EventMetadata
from domain.jobs import JobDeleted
from domain.teams import ChannelDeleted, ChannelRegistered
from domain.webhooks import WebhookDeleted, WebhookRegistered, WebhookUpdated
from integrations.blobs import ObstoreBlobs, open_blobs
from store.clock import utcnow
from store.log.event_log import Write
from store.tables.build_logs import BuildLogs, Line
from store.tables.log_positions import move_position
from testhide.audit_contents import ContentsCheck
from testhide.cli.audit import verify
from testhide.operator_errors import Fault
from testhide.processes import Core
from testhide.settings import Settings, save_settings
from workers.deliveries import endpoints
from workers.deliveries.planner import NAME as PLANNER

PROJECT, JOB = 1, 2
SECRET = b"s" * 32


class Store:
    """A log, build logs and blobs, as three builds of a job leave them."""

    def __init__(self, parts: Core, folder: Path) -> None:
        self.parts = parts
        self.folder = folder
        self.url = f"file://{folder}"
        self.blobs: ObstoreBlobs = open_blobs(self.url)
        self.logs = BuildLogs(parts.pool)
        self.versions: dict[str, int] = {}

    async def append(self, *events: Event) -> None:
        writes = []
        for event in events:
            self.versions[event.stream] = self.versions.get(event.stream, 0) + 1
            writes.append(Write(self.versions[event.stream], event))
        await self.parts.log.append(writes, EventMetadata(utcnow(), "user:1"))

    async def build(self, build: int) -> None:
        """A build of two attempts, of which the second left two chunks of log and an artifact of the same number."""
        ids: dict[str, Any] = {"build_id": build, "job_id": JOB, "project_id": PROJECT}
        await self.append(BuildQueued(**ids, branch="main"))
        for attempt in (1, 2):
            await self.append(BuildAssigned(**ids, node_id=4, attempt=attempt))
            await self.append(BuildStarted(**ids, node_id=4, attempt=attempt))
            await self.logs.append(JOB, build, attempt, 0, [Line(1, f"build {build}, attempt {attempt}")])
            await self.logs.append(JOB, build, attempt, 1, [Line(1, "one"), Line(2, "two")])
        content = f"content of build {build}".encode()
        key = blob_key(JOB, build, build)
        await self.blobs.put(key, once(content))
        await self.append(
            ArtifactStored(
                **ids,
                artifact_id=build,
                type="log",
                size_bytes=len(content),
                blob=key,
                path=f"out/{build}.log",
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
        end = await self.logs.fetch_end(build, 2)
        finished = BuildFinished(**ids, status="passed", log_lines=end.lines, log_digest=end.digest)
        await self.append(finished)

    async def plan(self, *events: Event) -> None:
        """Folds events about webhooks into the table of the delivery planner, as it does."""
        async with self.parts.pool.connection() as connection:
            for event in events:
                await endpoints.apply(connection, event, utcnow())
            await move_position(connection, PLANNER, await self.parts.log.read_head())

    async def check(self) -> tuple[ContentsCheck, list[str]]:
        check = ContentsCheck(self.parts.log, self.parts.pool, self.blobs)
        return check, [damage async for damage in check.run()]

    async def execute(self, statement: str) -> None:
        async with self.parts.pool.connection() as connection:
            await connection.execute(statement.encode())


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.fixture
async def store(parts: Core, tmp_path: Path) -> Store:
    store = Store(parts, tmp_path)
    for build in (11, 12, 13):
        await store.build(build)
    return store


async def test_what_was_not_touched(store: Store) -> None:
    check, found = await store.check()
    assert (check.logs, check.artifacts, check.size, found) == (3, 3, 57, [])


async def test_each_change_is_named(store: Store) -> None:
    await store.execute("UPDATE build_log_chunks SET lines = '' WHERE (build_id, attempt, first_line) = (11, 2, 1)")
    (store.folder / blob_key(JOB, 12, 12)).write_bytes(b"something else")
    (store.folder / blob_key(JOB, 13, 13)).unlink()
    check, found = await store.check()
    assert (check.logs, check.artifacts) == (3, 3)
    assert [text.partition(": ")[2] for text in found] == [
        "the log of build 11: lines 2 to 3 were changed",
        "artifact 12 of build 12, out/12.log: its content (jobs/2/builds/12/artifacts/12) is not what was stored",
        "artifact 13 of build 13, out/13.log: its content (jobs/2/builds/13/artifacts/13) is gone",
    ]
    (position,) = [event.position for event in await store.parts.log.read(0, 100, [BuildFinished.name])][:1]
    assert found[0].startswith(f"position {position}: ")


async def test_what_was_deleted_is_not_missed(store: Store) -> None:
    ids: dict[str, Any] = {"job_id": JOB, "project_id": PROJECT}
    await store.append(BuildDeleted(build_id=11, **ids))
    await store.append(ArtifactDeleted(artifact_id=12, build_id=12, blob=blob_key(JOB, 12, 12), **ids))
    await store.logs.delete_build(11)
    for build in (11, 12):
        await store.blobs.delete(blob_key(JOB, build, build))
    check, found = await store.check()
    assert (check.logs, check.artifacts, found) == (2, 1, [])
    await store.append(JobDeleted(**ids))
    await store.logs.delete_job(JOB)
    check, found = await store.check()
    assert (check.logs, check.artifacts, found) == (0, 0, [])


async def test_where_a_webhook_is_delivered_to(store: Store) -> None:
    hook: dict[str, Any] = {"webhook_id": 5, "project_id": PROJECT}
    registered = WebhookRegistered(**hook, url="https://old.example.com", events=["build.finished"])
    updated = WebhookUpdated(**hook, url="https://example.com", sealed_secret=b"s")
    await store.append(registered, updated)
    assert (await store.check())[1] == [], "nobody has planned deliveries yet"
    await store.plan(registered, updated)
    check, found = await store.check()
    assert (check.endpoints, found) == (1, [])
    await store.execute("UPDATE webhook_endpoints SET url = 'https://evil.example.com', events = '{}'")
    assert [text.partition(": ")[2] for text in (await store.check())[1]] == [
        "webhook 5: its url, events in webhook_endpoints is changed"
    ]
    channel = ChannelRegistered(
        channel_id=6, project_id=PROJECT, events=["build.failed"], sealed_url=b"sealed", shown_url="https://x/…"
    )
    await store.append(channel)
    await store.plan(channel)
    check, found = await store.check()
    assert (check.endpoints, len(found)) == (2, 1)
    await store.execute("UPDATE webhook_endpoints SET events = '{}', project_id = 7 WHERE id = 6")
    assert "Teams channel 6: its events, project_id in webhook_endpoints is changed" in (await store.check())[1][1]
    await store.execute("DELETE FROM webhook_endpoints")
    assert "webhook 5 is not delivered to any more" in (await store.check())[1][0]
    await store.append(WebhookDeleted(**hook), ChannelDeleted(channel_id=6, project_id=PROJECT))
    assert (await store.check())[1] == []


async def test_an_event_that_cannot_be_read_is_named(store: Store) -> None:
    await store.execute("UPDATE stored_events SET state = '' WHERE topic = 'artifact.stored'")
    _, found = await store.check()
    assert len(found) == 3
    assert "artifact-11 cannot be read" in found[0]


async def test_the_command(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        database_url=store.parts.conninfo, redis_url="", secret_key=SECRET, data_dir=str(tmp_path), blobs_url=store.url
    )
    save_settings(settings, tmp_path / "settings.json")
    monkeypatch.setenv("TESTHIDE_SETTINGS", str(tmp_path / "settings.json"))
    assert await asyncio.to_thread(verify, contents=True) == 0
    assert (
        "3 build logs, 3 artifacts with 57 bytes, 0 webhooks and channels; findings: 0\nverified: all of them"
        in capsys.readouterr().out
    )
    (store.folder / blob_key(JOB, 13, 13)).unlink()
    assert await asyncio.to_thread(verify, contents=True) == 1
    assert "is gone\n" in capsys.readouterr().out
    for wrong in ({}, {"contents": True, "export": tmp_path}):
        with pytest.raises(Fault, match="--contents") as refused:
            verify(**wrong)  # type: ignore[arg-type]
        assert refused.value.exit_code == 2
