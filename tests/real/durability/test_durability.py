"""An acknowledged append is on the disk. Needs strace (Debian package `strace`)."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from store.log.append import GroupCommit, Request
from testhide.engines import Engines
from testhide.preparation import migrate
from testhide.settings import Settings
from tests.support.engines import temporary_engines

from .crashes import crash
from .flushes import Trace, traced

CALLERS, EACH = 8, 5


@pytest.fixture
def own_engines() -> Iterator[Engines]:
    with temporary_engines() as engines:
        migrate(Settings(database_url=engines.database_url, redis_url="", secret_key=b"s" * 32, data_dir=""))
        yield engines


@pytest.fixture
def engines_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="testhide-crashes-"))
    folder.chmod(0o711)  # the engines' account has to get through
    yield folder
    shutil.rmtree(folder)


def appends_under_trace(engines: Engines) -> Trace:
    async def append() -> None:
        commit = GroupCommit(engines.database_url)
        for version in range(1, EACH + 1):
            events = [StoredEvent(f"stream-{n}", version, "thing.happened", b"state") for n in range(CALLERS)]
            await commit.append(Request(events[:1]))
            await asyncio.gather(*(commit.append(Request([event])) for event in events[1:]))
        await commit.close()

    with traced(engines.pids["postgres"]) as trace:
        asyncio.run(append())
    return trace


@pytest.mark.real("strace")
def test_the_log_is_flushed_before_an_append_is_acknowledged(own_engines: Engines) -> None:
    trace = appends_under_trace(own_engines)
    assert trace.acknowledged >= 2 * EACH
    assert trace.unflushed() == 0


@pytest.mark.real("strace")
def test_without_fsync_the_trace_shows_that_nothing_was_flushed(own_engines: Engines) -> None:
    with psycopg.connect(own_engines.database_url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    trace = appends_under_trace(own_engines)
    assert trace.unflushed() == trace.acknowledged > 0


@pytest.mark.real("strace")
def test_without_synchronous_commit_the_trace_shows_that_answers_came_too_early(own_engines: Engines) -> None:
    with psycopg.connect(own_engines.database_url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("SELECT pg_reload_conf()")
    trace = appends_under_trace(own_engines)
    assert trace.unflushed() > 0


def test_a_killed_database_loses_nothing_that_was_acknowledged(engines_folder: Path) -> None:
    written = crash(engines_folder, rounds=5, seed=1)
    assert written.kills == 5
    assert written.acknowledged
    assert written.lost == set()
    assert written.unasked == set()
