"""`testhide backup` and `restore`: a consistent copy while writes go on, and what becomes of ids, agents and files."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from commands.handler import CommandContext, Handler
from commands.nodes import ConnectNode, RegisterNode
from domain.artifacts import ArtifactDeleted, ArtifactStored, blob_key
from domain.audit import RESTORES
from domain.builds import BuildDeleted, BuildQueued
from domain.claims import ClaimTaken
from domain.core.events import EventMetadata
from domain.nodes import NODE
from store.audit.checkpoints import AuditTree
from store.clock import utcnow
from store.log.event_log import Write
from store.log.ids import MAX_GAP, SKIPPED
from store.postgres.queries import fetch_row
from testhide.backup import Manifest, back_up
from testhide.cli import main
from testhide.preparation import has_users
from testhide.processes import Core, core
from testhide.restore import find_artifacts, go_on
from testhide.settings import Settings, save_settings
from testhide.stack.offline import settings_of
from tests.support.forked_process import run_forked
from tests.support.sealing import seal_log
from tests.support.stacks import until
from tests.testhide.conftest import Python

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
STAMP = EventMetadata(NOW, "user:1")
CALLER = CommandContext("system:tests")


@pytest.fixture
def settings(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A server whose settings the environment names."""
    made = Settings(database_url=database, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path / "original"))
    (tmp_path / "original").mkdir()
    save_settings(made, tmp_path / "settings.json")
    monkeypatch.setenv("TESTHIDE_SETTINGS", str(tmp_path / "settings.json"))
    return made


@pytest.fixture
async def original(settings: Settings) -> AsyncIterator[Core]:
    """Its log has a connected node, two artifacts, one of a build that was deleted, and a checkpoint."""
    async with core(settings) as parts:
        await given_connected_node(parts, 1)
        await given_artifact(parts, settings, 1, b"kept")
        await given_artifact(parts, settings, 2, b"of a deleted build")
        deleted = BuildDeleted(build_id=2, job_id=5, project_id=1)
        await parts.log.append([Write(1, deleted)], STAMP)
        shutil.rmtree(Path(settings.data_dir, "blobs", "jobs", "5", "builds", "2"))
        await seal_log(parts)
        yield parts


async def given_connected_node(parts: Core, node_id: int) -> None:
    handler = Handler(parts.log, utcnow)
    await handler.execute(RegisterNode(node_id, f"node {node_id}", f"claim-{node_id}", b"hash", None), CALLER)
    await handler.execute(ConnectNode(node_id, "session", "1", "linux", "host", 2, 4.0), CALLER)


async def given_artifact(parts: Core, settings: Settings, number: int, content: bytes) -> None:
    key = blob_key(5, number, number)
    file = Path(settings.data_dir, "blobs", key)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    stored = ArtifactStored(
        artifact_id=number,
        build_id=number,
        job_id=5,
        project_id=1,
        type="log",
        size_bytes=len(content),
        blob=key,
        path=f"{number}.log",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    await parts.log.append([Write(1, stored)], STAMP)


async def append_forever(parts: Core) -> None:
    number = 0
    while True:
        number += 1
        await parts.log.append([Write(1, ClaimTaken(claim=f"busy-{number}", owner="user-1"))], STAMP)


async def run(*arguments: object) -> int:
    """Runs the command line, which has an event loop of its own."""
    return await asyncio.to_thread(main.main, [str(argument) for argument in arguments])


def manifest_of(backup: Path) -> Manifest:
    return msgspec.json.decode((backup / "backup.json").read_bytes(), type=Manifest)


async def test_a_backup_that_cannot_begin_leaves_the_umask_alone(settings: Settings, tmp_path: Path) -> None:
    os.umask(before := os.umask(0o022))
    with pytest.raises(FileNotFoundError):
        await back_up(settings, tmp_path / "missing" / "backup")
    assert os.umask(before) == before


async def test_a_backup_is_of_one_moment_and_the_restored_server_goes_on(
    original: Core, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup, restored = tmp_path / "backup", data / "restored"
    cache = tmp_path / "original" / "blobs" / "caches" / "5" / "a"
    cache.parent.mkdir(parents=True)
    cache.touch()
    before = await original.log.read_head()
    busy = asyncio.create_task(append_forever(original))
    assert await run("backup", backup) == 0
    busy.cancel()
    await asyncio.gather(busy, return_exceptions=True)
    position = manifest_of(backup).position
    assert before <= position < await original.log.read_head()
    assert capsys.readouterr().out.startswith(f"backed up to {backup}: position {position:,}, ")
    assert not [path for path in (backup, *backup.rglob("*")) if path.stat().st_mode & 0o077]
    assert not (backup / "blobs" / "caches").exists()

    assert await run("restore", backup, "--data", restored) == 0
    output = capsys.readouterr().out.splitlines()
    assert output == [
        f"restored up to position {position:,}",
        f"the log is the one of its checkpoint {before}",
        "artifacts: 1, missing or altered: 0",
        "agents that have to connect again, with their builds to run again: 1",
        f"start it: testhide up --data {restored}",
    ]
    with settings_of(restored, {}) as there:
        async with core(there) as parts:
            kept = await original.log.read(0, position + 10, up_to=position)
            assert await parts.log.read(0, position + 10, up_to=position) == kept
            (noted,) = (await parts.log.load([RESTORES.name]))[RESTORES.name]
            assert await parts.log.load_state(RESTORES) == position
            assert noted.position > position + SKIPPED
            assert await parts.ids.draw("builds") > SKIPPED
            assert await parts.ids.draw_range("results", 5) > 1_000 * SKIPPED
            node = await parts.log.load_state(NODE.at(1))
            assert node is not None
            assert node.session is None
            await seal_log(parts)
    assert (restored / "blobs" / blob_key(5, 1, 1)).read_bytes() == b"kept"


async def test_what_is_altered_or_lost_is_said(
    original: Core, settings: Settings, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = tmp_path / "backup"
    await given_artifact(original, settings, 3, b"soon missing")
    for number in (4, 5):
        queued = BuildQueued(build_id=number, job_id=5, project_id=1, branch="main")
        await original.log.append([Write(1, queued)], STAMP)
        await given_artifact(original, settings, number, b"deleted meanwhile")
    async with original.pool.connection() as connection:
        await connection.execute("UPDATE stored_events SET topic = 'node.released' WHERE notification_id = 2")
        async with connection.transaction():
            await connection.execute("LOCK TABLE flaky_tests")  # pg_dump waits for it with the snapshot
            running = asyncio.create_task(run("backup", backup))
            waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'flaky_tests'::regclass)"
            while await fetch_row(connection, waits) != (True,):
                await asyncio.sleep(0.01)
            await original.log.append([Write(2, BuildDeleted(build_id=4, job_id=5, project_id=1))], STAMP)
            blob = blob_key(5, 5, 5)
            deleted = ArtifactDeleted(artifact_id=5, build_id=5, job_id=5, project_id=1, blob=blob)
            await original.log.append([Write(2, deleted)], STAMP)
            for number in (4, 5):
                shutil.rmtree(Path(settings.data_dir, "blobs", "jobs", "5", "builds", str(number)))
    assert await running == 0
    (backup / "blobs" / blob_key(5, 1, 1)).write_bytes(b"forged")
    (backup / "blobs" / blob_key(5, 3, 3)).unlink()
    capsys.readouterr()
    assert await run("restore", backup, "--data", data) == 1
    output = capsys.readouterr().out
    assert "\nALTERED: the log is not the one of its checkpoint " in output
    assert "\nartifacts: 2, missing or altered: 2\nmissing: artifact 3 of build 3, 3.log\naltered: artifact 1" in output
    for number in (4, 5):
        assert f"deleted while the backup was made: artifact {number} of build {number}, {number}.log\n" in output
    with settings_of(data, {}) as there:
        async with core(there) as parts:
            assert [artifact.artifact_id for artifact in await find_artifacts(parts.log)] == [1, 3]


async def test_lost_tables_are_said_and_made_again(
    original: Core, settings: Settings, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with original.pool.connection() as connection:
        await connection.execute("DROP TABLE due_reactions, build_log_chunks")
        lost = "build_log_chunks, due_reactions; run `testhide repair`, which makes them again, empty"
        made = "made again, empty: build_log_chunks; lost with it: the logs of all builds, for good\n"
        assert await run("backup", tmp_path / "backup") == 1
        assert f"LOST: the backup is not whole: lost from the database: {lost}\n" in capsys.readouterr().out
        for verb in (("projections", "status"), ("migrate",)):
            assert await run(*verb) == 1
            assert capsys.readouterr().err == f"testhide: Tables are lost from the database: {lost}.\n"

        assert await run("restore", tmp_path / "backup", "--data", data) == 1
        assert made in capsys.readouterr().out
        assert await run("repair") == 0
        assert capsys.readouterr().out.startswith(made)
        assert await run("repair") == 0
        assert capsys.readouterr().out == "no table is lost\n"

        await connection.execute("ALTER TABLE audit_tiles RENAME TO elsewhere")
        try:
            assert await run("repair") == 1
            assert "restore audit_tiles from a backup (docs/backup.md). Nothing was" in capsys.readouterr().err
        finally:
            await connection.execute("ALTER TABLE elsewhere RENAME TO audit_tiles")


async def test_what_cannot_be_restored_leaves_nothing_behind(
    original: Core, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = tmp_path / "backup"
    assert await run("backup", backup) == 0
    key = (backup / "secret.key").read_text()

    async def refused(code: int, *arguments: object) -> str:
        capsys.readouterr()
        assert await run(*arguments) == code
        return capsys.readouterr().err.removeprefix("testhide: ")

    assert await refused(2, "backup", backup) == f"{backup} is there already: name a new folder.\n"
    assert await refused(2, "restore", tmp_path, "--data", data) == f"{tmp_path} is no backup: it has no backup.json.\n"
    assert (
        await refused(2, "restore", backup, "--data", tmp_path)
        == f"{tmp_path} is not empty: restore into a new folder.\n"
    )
    (backup / "secret.key").unlink()
    assert (await refused(2, "restore", backup, "--data", data)).endswith("put back what is missing: secret.key.\n")
    (backup / "secret.key").write_text(key.swapcase())
    assert (await refused(1, "restore", backup, "--data", data)).startswith(
        "The secret key does not open what is in the"
    )
    (backup / "database.dump").write_bytes((backup / "database.dump").read_bytes()[:5_000])
    assert (await refused(1, "restore", backup, "--data", data / "new")).startswith("pg_restore failed: ")
    assert list(data.iterdir()) == []


async def test_a_database_that_a_server_uses_is_not_made_safe_after_a_restore(
    original: Core, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    head = await original.log.read_head()
    conninfo = make_conninfo(settings.database_url, application_name="testhide process 4711 on ci-1")
    with psycopg.connect(conninfo):
        assert await run("after-restore") == 1
    stop_it = "testhide: A server runs on this database: stop it first (testhide process 4711 on ci-1).\n"
    assert capsys.readouterr().err == stop_it
    assert await original.log.read_head() == head
    assert await run("after-restore") == 0
    assert await original.log.read_head() > head + SKIPPED


async def test_a_folder_whose_restore_was_killed_is_refused(
    original: Core, data: Path, tmp_path: Path, python: Python
) -> None:
    """Killed as early as can be seen: nothing but the mark needs to be there."""
    backup, restored = tmp_path / "backup", data / "restored"
    assert await run("backup", backup) == 0
    restore = python("-m", "testhide", "restore", str(backup), "--data", str(restored))
    until(lambda: restored.exists() and any(restored.iterdir()), "the first file of the restore")
    restore.kill()
    restore.wait()
    (restored / "engines.json.new").touch()  # a file that the restore may have been writing
    for verb in (["up"], ["repair"], ["restore", str(backup)]):
        refused = run_forked(*verb, "--data", str(restored))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (
            f"testhide: The restore into {restored} has not finished. If it was interrupted, repeat it into an empty"
            " folder.\n"
        )
    shutil.rmtree(restored)


async def test_a_backup_that_fails_leaves_nothing_behind_nor_what_a_killed_one_left(
    original: Core, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTHIDE_POSTGRES_BIN", str(tmp_path))
    assert await run("backup", tmp_path / "new" / "backup") == 1
    (tmp_path / "new").mkdir()
    for name in ("backup", "back"):
        (tmp_path / "new" / f"{name}.unfinished-killed").mkdir()
        (tmp_path / "new" / f"{name}.unfinished-killed" / "secret.key").touch()
    assert await run("backup", tmp_path / "new" / "backup") == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["back.unfinished-killed"]


def test_a_verb_whose_database_fails_says_so_in_a_sentence(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    impatient = msgspec.structs.replace(
        settings, database_url=make_conninfo(settings.database_url, options="-c lock_timeout=1ms")
    )
    save_settings(impatient, tmp_path / "settings.json")
    asyncio.run(has_users(settings))  # makes the root key
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("LOCK TABLE stored_events")
        assert main.main(["backup", str(tmp_path / "backup")]) == 1
    assert capsys.readouterr().err == "testhide: The database failed: canceling statement due to lock timeout\n"
    assert not list(tmp_path.glob("backup*"))


async def test_positions_go_on_within_what_the_sealer_takes_for_a_gap(parts: Core) -> None:
    """The sequence of a dump is ahead of its events by all that was appended while it was made."""
    await parts.log.append([Write(1, ClaimTaken(claim="a", owner="user-1"))], STAMP)
    async with parts.pool.connection() as connection:
        await connection.execute("SELECT setval('stored_events_notification_id_seq', 5_000_000)")
    assert await go_on(parts) == 0
    assert await parts.log.read_head() == 1 + MAX_GAP + 1
    await seal_log(parts)
    tree = AuditTree(parts.pool)
    assert (checkpoint := await tree.checkpoint()) is not None
    assert checkpoint.size == await parts.log.read_head()
