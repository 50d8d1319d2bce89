"""A database is brought to the schema of a release, once for each version, and never to an older one."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from domain.claims import ClaimTaken
from domain.core.events import EventMetadata
from store.log.event_log import Write
from store.log.ids import KINDS
from store.log.recorder import GroupCommitRecorder, datastore
from store.migrations import baseline
from store.migrations.lost_tables import TABLES, LostTable, describe, find_lost_tables, make_again
from store.migrations.runner import MIGRATIONS, Migration, NewerSchema, migrate
from testhide.cli import main
from testhide.engines import Engines
from testhide.processes import core
from testhide.settings import Settings, save_settings

NEXT = MIGRATIONS[-1].version + 1
ADD_TABLE = Migration(NEXT, "add a table", ("CREATE TABLE added (id int)", "INSERT INTO added VALUES (7)"))


@pytest.fixture
def empty(engines: Engines) -> Iterator[str]:
    """The connection string of a database without any table."""
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
        yield make_conninfo(engines.database_url, dbname="migrated")
        connection.execute("DROP DATABASE migrated WITH (FORCE)")


def applied(conninfo: str) -> list[tuple[int, str, str]]:
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT version, name, release FROM schema_migrations ORDER BY version")
        return [(version, name, release) for version, name, release in rows]


def rows(conninfo: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute(query.encode()).fetchall()


def test_each_migration_runs_once(empty: str) -> None:
    migrate(empty, "1.0.0")
    assert applied(empty) == [(item.version, item.name, "1.0.0") for item in MIGRATIONS]
    before = rows(empty, "SELECT applied_at FROM schema_migrations")
    migrate(empty, "1.1.0")
    assert rows(empty, "SELECT applied_at FROM schema_migrations") == before
    migrate(empty, "1.2.0", (*MIGRATIONS, ADD_TABLE))
    migrate(empty, "1.2.0", (*MIGRATIONS, ADD_TABLE))
    assert applied(empty)[-1] == (NEXT, "add a table", "1.2.0")
    assert rows(empty, "SELECT id FROM added") == [(7,)]


def test_positions_stay_on_their_pages_beside_a_long_transaction(empty: str) -> None:
    """Each version on another page takes time in proportion to all versions that are kept."""
    migrate(empty, "1.0.0")
    with psycopg.connect(empty) as connection:
        connection.execute(
            "INSERT INTO projection_positions (name, version, position, tables)"
            " SELECT 'projection_' || n, 1, 0, '{some_table_v1}' FROM generate_series(1, 33) n"
        )
        for _ in range(30):
            connection.execute("UPDATE projection_positions SET position = position + 1")
        share = connection.execute(
            "SELECT pg_stat_get_xact_tuples_hot_updated(id) * 100 / pg_stat_get_xact_tuples_updated(id)"
            " FROM CAST('projection_positions'::regclass AS oid) id"
        ).fetchone()
    assert share is not None
    assert share[0] >= 85


def test_a_database_of_a_release_without_versions_goes_on(empty: str) -> None:
    """Its tables were made by the statements of the baseline, and hold what happened."""
    with psycopg.connect(empty, autocommit=True) as connection:
        for statement in baseline.STATEMENTS:
            connection.execute(statement.encode() if isinstance(statement, str) else statement)
        connection.execute("INSERT INTO reaction_positions VALUES ('tests', 3)")

    async def append(version: int) -> int:
        settings = Settings(database_url=empty, redis_url="", secret_key=b"s" * 32, data_dir="")
        async with core(settings, before_migration=True) as parts:
            metadata = EventMetadata(datetime(2026, 5, 20, tzinfo=UTC), "tests")
            await parts.log.append([Write(version, ClaimTaken(claim="a", owner="ann"))], metadata)
            return len(await parts.log.read(0, 10))

    assert asyncio.run(append(1)) == 1
    migrate(empty, "1.0.0")
    assert applied(empty)[0] == (1, "baseline", "1.0.0")
    assert rows(empty, "SELECT * FROM reaction_positions") == [("tests", 3)]
    assert asyncio.run(append(2)) == 2


def test_a_lost_record_of_migrations_is_made_again(empty: str) -> None:
    migrate(empty, "1.0.0")
    made, recorded = sorted(rows(empty, MADE)), applied(empty)
    with psycopg.connect(empty) as connection:
        connection.execute("INSERT INTO reaction_positions VALUES ('tests', 3)")
        connection.execute("DROP TABLE schema_migrations")
    migrate(empty, "1.0.0")
    assert (sorted(rows(empty, MADE)), applied(empty)) == (made, recorded)
    assert rows(empty, "SELECT * FROM reaction_positions") == [("tests", 3)]


def test_a_migration_that_fails_leaves_nothing(empty: str) -> None:
    migrate(empty, "1.0.0")
    broken = Migration(NEXT, "broken", (*ADD_TABLE.statements, "SELECT 1 / 0"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty, "1.1.0", (*MIGRATIONS, broken))
    assert applied(empty)[0] == (1, "baseline", "1.0.0")
    migrate(empty, "1.1.1", (*MIGRATIONS, ADD_TABLE))
    assert rows(empty, "SELECT id FROM added") == [(7,)]


def test_some_statements_run_outside_of_a_transaction(empty: str) -> None:
    index = "CREATE INDEX CONCURRENTLY IF NOT EXISTS due_reactions_at ON due_reactions (due_at)"
    migrate(empty, "1.0.0", (*MIGRATIONS, Migration(NEXT, "index", (index,), in_transaction=False)))
    assert [version for version, _, _ in applied(empty)] == list(range(1, NEXT + 1))


def test_two_processes_migrate_one_after_the_other(empty: str) -> None:
    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(migrate, empty, "1.0.0", (*MIGRATIONS, ADD_TABLE)) for _ in range(4)))

    asyncio.run(both())
    assert rows(empty, "SELECT id FROM added") == [(7,)]


def test_an_older_release_refuses(
    empty: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    migrate(empty, "9.1.0", (*MIGRATIONS, ADD_TABLE))
    sentence = (
        f"The database has schema version {NEXT}, made by release 9.1.0, and this is release 1.0.0, which knows"
        f" versions up to {NEXT - 1}: start release 9.1.0 or a newer one."
    )
    with pytest.raises(NewerSchema) as refused:
        migrate(empty, "1.0.0")
    assert str(refused.value) == sentence
    settings = Settings(database_url=empty, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path))
    save_settings(settings, tmp_path / "settings.json")
    monkeypatch.setenv("TESTHIDE_SETTINGS", str(tmp_path / "settings.json"))
    for verb in ("migrate", "prepare"):
        assert main.main([verb]) == 1
        assert f"testhide: The database has schema version {NEXT}, made by release 9.1.0" in capsys.readouterr().err


def test_a_release_refuses_tables_of_an_older_one(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(database_url=empty, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path))
    save_settings(settings, tmp_path / "settings.json")
    monkeypatch.setenv("TESTHIDE_SETTINGS", str(tmp_path / "settings.json"))
    needs = f"and this release needs {NEXT - 1}: run `testhide migrate` first."
    for verb in (["project"], ["projections", "status"]):
        assert main.main(verb) == 1
        assert capsys.readouterr().err == ("testhide: The database has no tables yet: run `testhide prepare` first.\n")
    migrate(empty, "0.9.0", MIGRATIONS[:1])
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("ALTER TABLE schema_migrations RENAME TO elsewhere")
        assert main.main(["projections", "status"]) == 1
        before = "The database has the tables of a release before schema versions: run `testhide migrate` first.\n"
        assert capsys.readouterr().err == f"testhide: {before}"
        connection.execute("ALTER TABLE elsewhere RENAME TO schema_migrations")
    assert main.main(["project"]) == 1
    assert f"testhide: The database has schema version 1, {needs}" in capsys.readouterr().err
    assert main.main(["migrate"]) == 0
    assert main.main(["projections", "status"]) == 0


def test_the_log_is_as_the_library_makes_it(empty: str, engines: Engines) -> None:
    """Column by column, index by index."""
    shape = (
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, c.reloptions::text"
        " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attnum > 0"
        " AND (c.relname LIKE 'stored_event%' OR c.relname LIKE 'es_%') ORDER BY c.relname, a.attnum"
    )
    recorder = GroupCommitRecorder(datastore(empty))
    recorder.create_table()
    recorder.close()
    recorder.datastore.close()
    by_library = rows(empty, shape)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    migrate(empty, "1.0.0")
    assert rows(empty, shape) == by_library


def test_every_kind_of_id_has_its_sequence(database: str) -> None:
    made = {name for (name,) in rows(database, "SELECT sequencename FROM pg_sequences")}
    assert made >= {f"{kind}_ids" for kind in KINDS}


MADE = """
    SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname,
        CASE c.relkind WHEN 'S' THEN 'last_value' ELSE string_agg(a.attname, ' ' ORDER BY a.attnum) END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname IN ('public', 'beside', 'previous') AND c.relkind IN ('r', 'S')
        AND c.relname <> 'schema_migrations' AND c.relname !~ '_id_seq$'
    GROUP BY n.nspname, c.relname, c.relkind
"""


def test_what_the_migrations_make_is_known(empty: str) -> None:
    migrate(empty, "1.0.0")
    assert sorted(rows(empty, MADE)) == sorted((name, table.columns) for name, table in TABLES.items())


async def test_each_lost_table_is_found_and_made_again(empty: str) -> None:
    async with await AsyncConnection.connect(empty, autocommit=True) as connection:
        assert await find_lost_tables(connection) == []
        await asyncio.to_thread(migrate, empty, "1.0.0")
        made = rows(empty, MADE)
        for name, table in TABLES.items():
            if table.lost is not None:
                await connection.execute(f"DROP TABLE {name}".encode())
        lost = await find_lost_tables(connection)
        assert lost == [LostTable(name, None) for name, table in TABLES.items() if table.lost is not None]
        assert describe(lost).endswith("run `testhide repair`, which makes them again, empty")
        async with connection.transaction():
            await make_again(connection)
        assert await find_lost_tables(connection) == []
        assert sorted(rows(empty, MADE)) == sorted(made)

        await connection.execute("ALTER TABLE due_reactions DROP COLUMN tries, DROP COLUMN error")
        await connection.execute("DROP SEQUENCE builds_ids")
        lost = await find_lost_tables(connection)
        assert lost == [LostTable("due_reactions", "tries"), LostTable("builds_ids", None)]
        assert "restore due_reactions (its column tries), builds_ids from a backup" in describe(lost)
        await connection.execute(f"UPDATE schema_migrations SET version = {NEXT} WHERE version = 1".encode())
        assert await find_lost_tables(connection) == [], "another release has other tables"
