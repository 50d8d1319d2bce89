"""What a process says when it cannot start."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psycopg
import pytest

from integrations.blobs import open_blobs
from store.postgres.queries import fetch_rows
from testhide.artifact_store import refuse_other_store
from testhide.preparation import create_first_admin
from testhide.processes import Core
from testhide.settings import Settings, save_settings
from tests.support.forked_process import run_forked

from .conftest import Python

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
NO_REDIS = "redis://127.0.0.1:1"
BREAK_WAITING_CONNECTION = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND %s = ANY (pg_blocking_pids(pid))
"""
"""Ends the connections that wait for a lock of the backend with this process id."""


def test_a_process_without_a_database_says_so_in_a_sentence(tmp_path: Path, python: Python) -> None:
    settings = Settings(database_url=NOWHERE, redis_url=NO_REDIS, secret_key=b"s" * 32, data_dir=str(tmp_path))
    file = tmp_path / "settings.json"
    save_settings(settings, file)
    for process in [python("-m", "testhide", verb, env={"TESTHIDE_SETTINGS": str(file)}) for verb in ("serve", "work")]:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Traceback" not in errors
        assert errors.splitlines()[-1] == "testhide: The database cannot be reached."


@pytest.mark.parametrize(
    ("verb", "table"), [("serve", "webhook_deliveries"), ("serve", "blob_store"), ("work", "blob_store")]
)
async def test_a_process_that_loses_the_database_while_it_starts_says_so_in_a_sentence(
    parts: Core, tmp_path: Path, verb: str, table: str
) -> None:
    settings = Settings(database_url=parts.conninfo, redis_url=NO_REDIS, secret_key=b"s" * 32, data_dir=str(tmp_path))
    file = tmp_path / "settings.json"
    save_settings(settings, file)
    async with parts.pool.connection() as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        starting = asyncio.create_task(asyncio.to_thread(run_forked, verb, TESTHIDE_SETTINGS=str(file)))
        while not await fetch_rows(parts.pool, BREAK_WAITING_CONNECTION, (connection.info.backend_pid,)):
            assert not starting.done(), starting.result().stderr
            await asyncio.sleep(0.02)  # between two looks
    ended = await starting
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == "testhide: The database cannot be reached."


async def test_every_process_refuses_a_secret_key_that_does_not_open_what_is_there(
    database: str, tmp_path: Path
) -> None:
    settings = Settings(database_url=database, redis_url=NO_REDIS, secret_key=b"s" * 32, data_dir=str(tmp_path))
    await create_first_admin(settings)
    stored = "SELECT (SELECT count(*) FROM stored_events), (SELECT count(*) FROM stored_events_keys)"
    with psycopg.connect(database, autocommit=True) as connection:
        before = connection.execute(stored).fetchone()
        other = tmp_path / "settings.json"
        save_settings(msgspec.structs.replace(settings, secret_key=b"t" * 32), other)
        for verb in ("serve", "project", "dispatch", "work", "migrate", "prepare"):
            refused = run_forked(verb, TESTHIDE_SETTINGS=str(other))
            assert refused.returncode == 1
            assert refused.stderr.startswith("testhide: The secret key does not open what is in the database")
            assert refused.stderr.count("\n") == 1
        assert connection.execute(stored).fetchone() == before


async def test_processes_that_use_artifacts_refuse_those_of_another_machine(parts: Core, tmp_path: Path) -> None:
    folder = str(tmp_path / "b")
    settings = Settings(database_url=parts.conninfo, redis_url=NO_REDIS, secret_key=b"s" * 32, data_dir=folder)
    file, there = tmp_path / "settings.json", (tmp_path / "a" / "blobs").as_uri()
    save_settings(settings, file)
    await refuse_other_store(parts.pool, open_blobs(there), there)
    for verb in ("serve", "work"):
        refused = await asyncio.to_thread(run_forked, verb, TESTHIDE_SETTINGS=str(file))
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert refused.stderr.startswith(
            f"testhide: The artifacts of this database are not at {settings.blobs}, which has no"
        )


async def test_the_first_administrator_is_made_by_prepare_and_never_with_a_weak_password(
    database: str, tmp_path: Path
) -> None:
    settings = Settings(database_url=database, redis_url=NO_REDIS, secret_key=b"s" * 32, data_dir=str(tmp_path))
    file = tmp_path / "settings.json"

    def run(verb: str, password: str) -> tuple[int, str, str]:
        save_settings(msgspec.structs.replace(settings, admin_password=password), file)
        done = run_forked(verb, TESTHIDE_SETTINGS=str(file))
        return done.returncode, done.stdout, done.stderr

    assert run("migrate", "")[1].startswith("There is no user yet: `testhide prepare` makes the first administrator")
    for weak, why in (("hunter2", "shorter than 8 characters"), ("Password1", "one of the commonest passwords")):
        code, _, errors = run("prepare", weak)
        assert code == 2
        assert errors == f"testhide: TESTHIDE_ADMIN_PASSWORD is {why}: choose another one.\n"
    assert run("prepare", "correct horse battery") == (0, "", "")
    assert run("migrate", "") == (0, "", "")
    code, output, _ = run("prepare", "another good one")
    assert code == 0
    assert output == "TESTHIDE_ADMIN_EMAIL and TESTHIDE_ADMIN_PASSWORD are not applied: there are users already.\n"


def test_an_output_that_nobody_reads_is_no_failure(database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database, redis_url=NO_REDIS, secret_key=b"s" * 32, data_dir=str(tmp_path))
    save_settings(settings, tmp_path / "settings.json")
    arguments = [sys.executable, "-P", "-m", "testhide", "repair"]
    environ = {**os.environ, "TESTHIDE_SETTINGS": str(tmp_path / "settings.json")}
    with subprocess.Popen(arguments, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
