"""Fixtures of all tests: engines, a database, and a whole server, one of each for each worker of the test run."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from testhide.engines import Engines
from testhide.preparation import create_first_admin, migrate
from testhide.processes import Core, core
from testhide.settings import Settings

pytest.register_assert_rewrite("tests.support")
from tests.support.engines import temporary_engines  # noqa: E402
from tests.support.server import Server, running_server  # noqa: E402 - its assertions are rewritten, too

DISCONNECT_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
WIPE = """
    CREATE FUNCTION pg_temp.wipe(kept text[]) RETURNS void LANGUAGE plpgsql AS $body$
    DECLARE
        place text;
        thing text;
    BEGIN
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
"""Emptying tables takes milliseconds, making a database half a second."""

LONG_FILES = (
    "tests/projections/test_live_rebuild.py",
    "tests/real/runners/test_verdicts.py",
    "tests/real/runners/test_selection.py",
    "tests/real/runners/test_dotnet.py",
    "tests/real/runners/test_go.py",
    "tests/testhide/test_drill.py",
    "tests/testhide/test_engines.py",
    "tests/contract/test_schemathesis.py",
    "tests/permissions/test_permissions.py",
    "tests/api/test_historical_states.py",
    "tests/e2e/test_lifecycle.py",
    "tests/store/test_verifier.py",
    "tests/agent/test_selection.py",
    "tests/real/durability/test_durability.py",
    "tests/projections/test_rebuild.py",
    "tests/e2e/test_erasure.py",
    "tests/api/test_large_reports.py",
    "tests/integrations/test_outgoing.py",
)
"""Run first, so that no worker is left with one of them at the end while the others have none."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(LONG_FILES)))


def pytest_collection_finish() -> None:
    """Keeps what was imported from being looked through for garbage again and again, a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    with temporary_engines() as started:
        yield started


@pytest.fixture(scope="session")
def _reused_database(engines: Engines) -> tuple[str, list[str]]:
    """A migrated database and the names of its tables."""
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE tests")
    conninfo = make_conninfo(engines.database_url, dbname="tests")
    migrate(_settings(conninfo))
    with psycopg.connect(conninfo) as connection:
        names = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables"
            " WHERE schemaname IN ('public', 'beside', 'previous') AND tablename <> 'schema_migrations'"
        ).fetchall()
    return conninfo, [name for (name,) in names]


@pytest.fixture
def database(_reused_database: tuple[str, list[str]]) -> Iterator[str]:
    """The connection string of a migrated database in which nothing has happened yet."""
    conninfo, tables = _reused_database
    yield conninfo
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(DISCONNECT_OTHERS)
        connection.execute(WIPE)
        connection.execute("SELECT pg_temp.wipe(%s)", (tables,))


@pytest.fixture
async def parts(database: str) -> AsyncIterator[Core]:
    """What every process of the server has, on a database of its own."""
    async with core(_settings(database)) as made:
        yield made


def _settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, redis_url="", secret_key=b"s" * 32, data_dir="")


@pytest.fixture(scope="session")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(engines, tmp_path_factory.mktemp("data"), "serve", "project", "dispatch") as started:
        asyncio.run(create_first_admin(started.settings))
        started.wait_until_projected()
        yield started
