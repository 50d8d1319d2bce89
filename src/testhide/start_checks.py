"""Checks of the database before a process does its work. They raise Fault, so the operator sees a sentence."""

import contextlib
from collections.abc import Iterator

from psycopg import OperationalError
from psycopg.errors import UndefinedTable
from psycopg_pool import AsyncConnectionPool

from store.crypto.secrets import RingDamaged, SecretMismatch
from store.key_ring.ring import RING_TABLES, KeyRing
from store.log.event_log import EventLog
from store.migrations.lost_tables import describe, find_lost_tables
from store.migrations.runner import MIGRATIONS
from store.postgres.connection_settings import find_durability_risks
from store.postgres.queries import fetch_rows
from testhide.operator_errors import Fault


@contextlib.contextmanager
def refuse_outage() -> Iterator[None]:
    """Raise Fault if the database cannot be reached, or stops answering, while the block reads from it. Only for the
    start of a process: later, a process waits until the database is back.
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
    """Raise Fault if tables are lost. Without this check, each process would only fail when it needs one of these
    tables.
    """
    async with pool.connection() as connection:
        if lost := await find_lost_tables(connection):
            raise Fault(f"Tables are {describe(lost)}.")


async def open_ring(ring: KeyRing, pool: AsyncConnectionPool, log: EventLog) -> None:
    """Open the key ring and follow its changes. Raises Fault if the ring is damaged or the secret key does not open
    what is in the database. With a wrong key, this process would write data that other processes cannot read.
    """
    try:
        await ring.open()
        # Without the question, PostgreSQL would log an error at the first start.
        ((keys,),) = await fetch_rows(pool, "SELECT to_regclass('stored_events_keys')")
        if keys is None:
            return  # a new database, before its migration
        await log.data_keys.check_secret()
        await ring.follow()
    except RingDamaged as error:
        raise Fault(
            f"The key ring is damaged: {error}. Put back the rows of root_keys and root_key_wraps from a backup."
            " Nothing was changed."
        ) from None
    except SecretMismatch:
        async with pool.connection() as connection:
            if lost := [table for table in await find_lost_tables(connection) if table.name in RING_TABLES]:
                raise Fault(f"Tables are {describe(lost)}.") from None
        raise Fault(
            "The secret key does not open what is in the database: start with the one that it was written with, or"
            " that it was rotated to (TESTHIDE_SECRET_KEY, or secret.key in the data folder). Nothing was changed."
        ) from None
