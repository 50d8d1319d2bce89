"""Checks of the database before a process does its work. They raise Fault, so the operator sees a sentence."""

import contextlib
from collections.abc import Iterator

from psycopg import OperationalError
from psycopg.errors import UndefinedTable
from psycopg_pool import AsyncConnectionPool

from store.migrations.lost_tables import describe, find_lost_tables
from store.migrations.runner import MIGRATIONS
from store.postgres.connection_settings import find_durability_risks
from store.postgres.queries import fetch_rows
from testhide.operator_errors import Fault


@contextlib.contextmanager
def refuse_outage() -> Iterator[None]:
    """Raise Fault if the database cannot be reached, or is lost, while the block reads it. Only for the start of a
    process: what runs later waits until the database is back.
    """
    try:
        yield
    except OperationalError:
        raise Fault("The database cannot be reached.") from None


async def refuse_risks(pool: AsyncConnectionPool) -> None:
    async with pool.connection() as connection:
        found = await find_durability_risks(connection)
    if found:
        raise Fault(
            f"This PostgreSQL does not keep what it acknowledges: {'; '.join(found)}. Switch it on, or accept that"
            " by --unsafe or TESTHIDE_UNSAFE=1."
        )


async def refuse_older_schema(pool: AsyncConnectionPool) -> None:
    newest = MIGRATIONS[-1].version
    try:
        ((version,),) = await fetch_rows(pool, "SELECT coalesce(max(version), 0) FROM schema_migrations")
    except UndefinedTable:
        version = 0
    if version == 0:
        ((log,),) = await fetch_rows(pool, "SELECT to_regclass('stored_events')")
        if log is None:
            raise Fault("The database has no tables yet: run `testhide prepare` first.")
        raise Fault("The database has the tables of a release before schema versions: run `testhide migrate` first.")
    if version < newest:
        raise Fault(
            f"The database has schema version {version}, and this release needs {newest}: run `testhide migrate` first."
        )


async def refuse_lost_tables(pool: AsyncConnectionPool) -> None:
    """Raise Fault if tables are lost. Otherwise each process would fail later, at a point of its own."""
    async with pool.connection() as connection:
        if lost := await find_lost_tables(connection):
            raise Fault(f"Tables are {describe(lost)}.")
