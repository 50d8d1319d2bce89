"""Fixtures of all tests: engines, a database, and a whole server, one of each for each worker of the test run."""

import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from msgspec import structs

from testhide.engines import Engines
from testhide.processes import Core, core
from testhide.settings import Settings

pytest.register_assert_rewrite("tests.support")
from tests.support.engines import temporary_engines  # noqa: E402
from tests.support.server import Server, make_database, server_on_new_database  # noqa: E402 - its assertions are rewritten, too

WIPE = """
    CREATE FUNCTION pg_temp.wipe(kept text[]) RETURNS void LANGUAGE plpgsql AS $body$
    DECLARE
        place text;
        thing text;
    BEGIN
        LOOP
            PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';
            EXIT WHEN NOT FOUND;
            PERFORM pg_sleep(0.001), pg_stat_clear_snapshot(); -- its own wait looks every 100 ms only
        END LOOP;
        FOR place, thing IN
            SELECT schemaname, tablename FROM pg_tables
            WHERE schemaname IN ('public', 'beside', 'previous') AND tablename <> 'schema_migrations'
        LOOP
            EXECUTE format(
                CASE WHEN place || '.' || thing = ANY (kept) THEN 'DELETE FROM %I.%I' ELSE 'DROP TABLE %I.%I' END,
                place, thing
            );
        END LOOP;
        PERFORM setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences WHERE schemaname = 'public';
    END
    $body$
"""
"""Disconnects everybody else, drops the tables that tests have made, and empties the others, which takes milliseconds.
Copying one takes some ten times as long.
"""


class ReusedDatabase:
    """A migrated database that is emptied again and again, by a connection that stays: a new one takes five times as
    long, since it opens every table for the first time.
    """

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self._connection = self._connect()
        self._tables = self._connection.execute(
            "SELECT array_agg(schemaname || '.' || tablename) FROM pg_tables"
            " WHERE schemaname IN ('public', 'beside', 'previous') AND tablename <> 'schema_migrations'"
        ).fetchone()

    def empty(self) -> None:
        try:
            self._wipe()
        except psycopg.OperationalError:  # tests disconnect others, too
            self._connection.close()
            self._connection = self._connect()
            self._wipe()

    def close(self) -> None:
        self._connection.close()

    def _wipe(self) -> None:
        self._connection.execute("SELECT pg_temp.wipe(%s)", self._tables)

    def _connect(self) -> psycopg.Connection:
        connection = psycopg.connect(self.conninfo, autocommit=True)
        connection.execute(WIPE)
        return connection


settings.register_profile("short", max_examples=25, deadline=None)
settings.load_profile("short")
"""A quarter of the examples that hypothesis tries by default; `--hypothesis-profile default` tries these. An example
may take long on a busy machine.
"""

LONG_FILES = (
    "tests/real/runners/test_verdicts.py",
    "tests/real/stacks/test_drill.py",
    "tests/agent/test_pytest_junit.py",
    "tests/real/runners/test_selection.py",
    "tests/real/runners/test_dotnet.py",
    "tests/permissions/test_permissions.py",
    "tests/projections/test_live_rebuild.py",
    "tests/real/runners/test_gradle.py",
    "tests/agent/test_selection.py",
    "tests/testhide/test_engines.py",
    "tests/real/description/test_description.py",
    "tests/testhide/test_backup.py",
    "tests/real/stacks/test_local_agent.py",
    "tests/e2e/test_language_model.py",
    "tests/real/stacks/test_production.py",
    "tests/workers/test_dispatch.py",
    "tests/workers/test_dispatcher.py",
    "tests/workers/test_changes.py",
    "tests/workers/test_recheck.py",
    "tests/workers/test_needs.py",
    "tests/workers/test_autoscaling_races.py",
    "tests/workers/test_reaction_dispatcher.py",
    "tests/testhide/test_processes.py",
    "tests/testhide/test_repair.py",
    "tests/api/test_historical_states.py",
    "tests/contract/test_positions.py",
    "tests/api/test_catching_up.py",
    "tests/api/test_evals.py",
    "tests/api/test_diagnoses.py",
    "tests/contract/test_bodies.py",
    "tests/contract/test_refusals.py",
    "tests/contract/test_answers.py",
    "tests/store/test_key_ring.py",
    "tests/store/test_verifier.py",
    "tests/api/test_chat.py",
    "tests/api/test_semantic_search.py",
    "tests/api/test_build_actions.py",
    "tests/api/test_builds.py",
    "tests/api/test_audit_proofs.py",
    "tests/agent/test_setup.py",
    "tests/e2e/test_planted_secrets.py",
    "tests/e2e/test_pushing.py",
    "tests/e2e/test_selection.py",
    "tests/e2e/test_erasure.py",
    "tests/projections/test_rebuild.py",
    "tests/workers/test_read_models.py",
    "tests/workers/test_failing_receivers.py",
    "tests/api/test_large_reports.py",
    "tests/real/durability/test_durability.py",
)
"""Run first, so that no worker is left with one of them at the end while the others have none."""


APART = ("check", "real")
"""Folders of tests that are run by their names only."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Leaves tests/real and tests/check, which `./dev check` runs, out of a run without paths. Lets each of its workers
    begin with other folders, and find the rest compiled by the others. In step, each of them would compile every file
    of a new checkout: 10 s of CPU time.
    """
    gc.disable()  # nothing that is imported is garbage, and to look for some takes a sixth of the time
    if session.config.args != session.config.getini("testpaths"):
        return
    folders = sorted(str(path) for path in Path(__file__).parent.iterdir() if path.is_dir() and path.name not in APART)
    worker = getattr(session.config, "workerinput", {"workerid": "gw0", "workercount": 1})
    first = len(folders) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    session.config.args = folders[first:] + folders[:first]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONG_FILES)}

    def rank(item: pytest.Item) -> tuple[int, str]:
        file = item.nodeid.partition("::")[0]
        return order.get(file, len(LONG_FILES)), file

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Keeps what was imported from being looked through for garbage again and again, a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    with temporary_engines() as started:
        yield started


@pytest.fixture(scope="session")
def _reused_database(engines: Engines) -> Iterator[ReusedDatabase]:
    with contextlib.closing(ReusedDatabase(make_database(engines))) as reused:
        yield reused


@pytest.fixture
def database(_reused_database: ReusedDatabase) -> Iterator[str]:
    """The connection string of a migrated database in which nothing has happened yet."""
    yield _reused_database.conninfo
    _reused_database.empty()


@pytest.fixture
async def parts(database: str) -> AsyncIterator[Core]:
    """What every process of the server has, on a database of its own."""
    # Without looks for risks and lost tables, half of the time that it takes.
    async with core(structs.replace(_settings(database), unsafe=True), before_migration=True) as made:
        yield made


def _settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, redis_url="", secret_key=b"s" * 32, data_dir="")


@pytest.fixture(scope="session")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_on_new_database(engines, tmp_path_factory.mktemp("data"), "serve", "project", "dispatch") as started:
        yield started
