"""Rotates the server's secret key while the server runs.

1. Each root key is wrapped with the new secret key, too, and a new root key is added. From now on both secret keys open
   the ring.
2. When all processes know the new root key, it comes into use: it seals and signs from then on.
3. Whatever older root keys encrypted is encrypted anew with the new root key: topmost data keys (those that no other
   data key wraps), sealed values and stored responses.
4. The event `secret_key.rotated` is appended, with the root keys as the ring has them now.
5. The wraps that the old secret key opens are deleted.

Each step may be repeated, so a rotation that was interrupted goes on where it stopped.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.errors import UndefinedColumn, UndefinedTable
from psycopg.sql import SQL, Composable, Identifier

from store.crypto.secrets import HEAD_BYTES, KEY_BYTES, RootKey, SecretMismatch, Secrets
from store.key_ring.ring import (
    fetch_followers_behind,
    has_tables,
    insert_wraps,
    opener_of,
    opener_of_root,
    stage_of,
)
from store.log.ids import APPEND_LOCK, LAST_POSITION
from store.postgres.leader_lock import fetch_leaders
from store.postgres.notifications import ROOT_KEYS
from store.postgres.queries import execute, fetch_row, fetch_rows

LOCK = "testhide rotation of the secret key"
BATCH_SIZE = 500
LOAD_TIMEOUT_S = 60.0
"""Longest time in seconds for which a rotation waits until all processes have loaded a change of the ring. Normally
this takes milliseconds.
"""
POLL_INTERVAL_S = 0.05

SEALED_COLUMNS = """
    SELECT n.nspname, c.relname, a.attname FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'beside', 'previous') AND c.relkind = 'r' AND a.atttypid = 'bytea'::regtype
        AND a.attname LIKE 'sealed%' AND NOT a.attisdropped ORDER BY 1, 2, 3
"""
"""Query that finds the columns of sealed values: those whose names begin with `sealed`. A sealed value in a column with
another name would stay encrypted with an older root key.
"""

OnProgress = Callable[[str, int], None]
"""Callback that shows progress. Its arguments are the name of the values that are being encrypted anew, and the number
of values encrypted so far.
"""


class RotationRefused(Exception):
    """The rotation cannot go on now; the message says why. The next run continues after the completed steps."""


async def add_root(connection: AsyncConnection, secrets: Secrets, secret_keys: Sequence[bytes]) -> bool:
    """Begins a rotation to the first key of `secret_keys`. The other keys are older secret keys. Returns False, and
    does nothing, if the first key is already the only one that opens the ring.
    """
    new = secret_keys[0]
    async with connection.transaction():
        await connection.execute("LOCK TABLE root_keys IN EXCLUSIVE MODE")
        openers = await fetch_openers(connection)
        if openers == {opener_of(new)}:
            return False
        roots = list(secrets.roots.values())
        wraps = [(root, opener_of(new), new) for root in roots]
        is_added = await fetch_row(connection, "SELECT 1 FROM root_keys WHERE used_since IS NULL") is not None
        if opener_of(new) not in openers and not is_added:
            root = RootKey(id=roots[-1].id + 1, key=os.urandom(KEY_BYTES), is_in_use=False)
            await execute(connection, "INSERT INTO root_keys (id) VALUES (%s)", (root.id,))
            wraps += [
                (root, opener_of(key), key) for key in secret_keys if opener_of(key) in openers | {opener_of(new)}
            ]
            wraps.append((root, opener_of_root(secrets.newest), secrets.roots[secrets.newest].key))
        await insert_wraps(connection, wraps)
    await connection.execute(f"NOTIFY {ROOT_KEYS}".encode())
    return True


async def fetch_openers(connection: AsyncConnection) -> set[str]:
    """Returns the names of the keys that open the ring. There are several while a rotation is not complete, and none in
    a database without a ring.
    """
    if not await has_tables(connection):
        return set()
    rows = await fetch_rows(connection, "SELECT DISTINCT opener FROM root_key_wraps")
    return {opener for (opener,) in rows}


async def is_interrupted(connection: AsyncConnection) -> bool:
    """Returns True if a rotation is incomplete and no process is working on it."""
    return len(await fetch_openers(connection)) > 1 and not await fetch_leaders(connection, [LOCK])


async def use_root(connection: AsyncConnection, *, is_leaked: bool = False) -> None:
    """Brings the new root key into use once all processes know it. With `is_leaked`, ends the sessions and links that
    the older root keys signed.

    Returns when all processes use the new root key and refuse new rows whose MAC an older root key made. Raises
    RotationRefused if a process has not loaded a change of the ring after LOAD_TIMEOUT_S.
    """
    ((newest,),) = await fetch_rows(connection, "SELECT max(id) FROM root_keys")
    await _wait_for_processes(connection, stage_of(newest))
    await execute(connection, "UPDATE root_keys SET used_since = now() WHERE id = %s AND used_since IS NULL", (newest,))
    if is_leaked:
        await execute(connection, "UPDATE root_keys SET is_leaked = true WHERE id < %s", (newest,))
    await connection.execute(f"NOTIFY {ROOT_KEYS}".encode())
    await _wait_for_processes(connection, stage_of(newest, is_in_use=True))
    async with connection.transaction():
        # All rows with MACs by older root keys are in the log: each process has waited for its rows, and the lock waits
        # for the rows of processes that ended meanwhile.
        await execute(connection, APPEND_LOCK)
        limit = f"UPDATE root_keys SET last_position = {LAST_POSITION} WHERE id < %s AND last_position IS NULL"
        await execute(connection, limit, (newest,))
    await connection.execute(f"NOTIFY {ROOT_KEYS}".encode())
    await _wait_for_processes(connection, stage_of(newest, is_in_use=True, are_older_limited=True))


async def _wait_for_processes(connection: AsyncConnection, stage: int) -> None:
    deadline = asyncio.get_running_loop().time() + LOAD_TIMEOUT_S
    while behind := await fetch_followers_behind(connection, stage):
        if asyncio.get_running_loop().time() > deadline:
            raise RotationRefused(
                f"{len(behind)} processes of the server do not take over the new key (their connections have the pids"
                f" {', '.join(map(str, behind))} in pg_stat_activity): end them, and run this again"
            )
        await asyncio.sleep(POLL_INTERVAL_S)


class EncryptedColumn(NamedTuple):
    """A column with encrypted values."""

    name: str
    """Name of the values in messages that show progress."""
    table: Composable
    column: Composable
    move: Callable[[bytes, str], bytes]
    """Function of an encrypted value and its context. Returns the value, encrypted with the newest root key instead.
    Raises SecretMismatch if the value does not decrypt.
    """
    context: Composable = SQL("''")
    condition: Composable = SQL("true")


async def _find_columns(connection: AsyncConnection, secrets: Secrets) -> list[EncryptedColumn]:
    def rewrap(wrapped: bytes, name: str) -> bytes:
        return secrets.rewrap(name, wrapped)

    def reseal_response(sealed: bytes, scope: str) -> bytes:
        return secrets.reseal_response(bytes.fromhex(scope), sealed)

    def reseal(sealed: bytes, _: str) -> bytes:
        return secrets.reseal(sealed)

    keys, once = Identifier("public", "stored_events_keys"), Identifier("public", "stored_events_once")
    topmost = SQL("strpos(name, '/') = 0")
    return [
        EncryptedColumn("data keys", keys, Identifier("wrapped"), rewrap, SQL("name"), topmost),
        EncryptedColumn("stored responses", once, Identifier("answer"), reseal_response, SQL("encode(scope, 'hex')")),
        *(
            EncryptedColumn(f"{table}.{column}", Identifier(schema, table), Identifier(column), reseal)
            for schema, table, column in await fetch_rows(connection, SEALED_COLUMNS)
        ),
    ]


async def move_values(connection: AsyncConnection, secrets: Secrets, on_progress: OnProgress) -> dict[str, int]:
    """Encrypts with the newest root key all values that older root keys encrypted, in batches.

    Leaves alone values that do not decrypt: nobody could read them before, either. Returns name of a column
    (`EncryptedColumn.name`) -> number of values in this column that do not decrypt.
    """
    unreadable: dict[str, int] = {}
    for column in await _find_columns(connection, secrets):
        moved, left = 0, list[bytes]()
        try:
            for whole_batches in (True, False):
                while count := await _move_batch(connection, secrets, column, left, whole_batches=whole_batches):
                    moved += count
                    on_progress(column.name, moved)
        except (UndefinedTable, UndefinedColumn):
            continue  # a read model that was dropped meanwhile
        if left:
            unreadable[column.name] = len(left)
    return unreadable


async def _move_batch(
    connection: AsyncConnection, secrets: Secrets, column: EncryptedColumn, left: list[bytes], *, whole_batches: bool
) -> int:
    """Encrypts the next values of a column with the newest root key. Returns how many values it found. Adds to `left`
    the values that do not decrypt.

    With `whole_batches`, takes up to BATCH_SIZE rows and skips locked rows. Otherwise takes one row and waits for its
    lock. So the transaction never waits for a lock while it holds locks of other rows, which could cause a deadlock.
    """
    head = secrets.roots[secrets.newest].head
    async with connection.transaction():
        cursor = await connection.execute(
            SQL(
                "SELECT ctid::text, {column}, {context} FROM {table} WHERE {condition} AND {column} <> ''"
                " AND substr({column}, 1, %s) <> %s AND {column} <> ALL (%s) LIMIT %s FOR UPDATE {unless_locked}"
            ).format(**column._asdict(), unless_locked=SQL("SKIP LOCKED" if whole_batches else "")),
            (HEAD_BYTES, head, left, BATCH_SIZE if whole_batches else 1),
        )
        rows = await cursor.fetchall()
        moved: list[tuple[str, bytes]] = []
        for row, value, context in rows:
            try:
                moved.append((row, column.move(value, context)))
            except SecretMismatch:
                left.append(value)
        await connection.execute(
            SQL(
                "UPDATE {table} AS t SET {column} = moved.value"
                " FROM unnest(%s::tid[], %s::bytea[]) AS moved(row, value) WHERE t.ctid = moved.row"
            ).format(**column._asdict()),
            ([row for row, _ in moved], [value for _, value in moved]),
        )
    return len(rows)


async def fetch_wrapped_roots(connection: AsyncConnection, secret_key: bytes) -> list[tuple[Any, ...]]:
    """Returns (id, time of first use, last position, whether the key is leaked, hash) for each root key that
    `secret_key` opens, the oldest first. The hash is the SHA-256, in hex, of the root key as encrypted with
    `secret_key`.
    """
    return await fetch_rows(
        connection,
        "SELECT id::int, used_since, last_position, is_leaked, encode(sha256(wrapped), 'hex')"
        " FROM root_keys JOIN root_key_wraps ON root_id = id WHERE opener = %s ORDER BY id",
        (opener_of(secret_key),),
    )


async def remove_old_keys(connection: AsyncConnection, secret_key: bytes) -> None:
    """Deletes all wraps except those that `secret_key` opens."""
    await execute(connection, "DELETE FROM root_key_wraps WHERE opener <> %s", (opener_of(secret_key),))
    # Deleted rows stay in the file of a table until it is rewritten.
    await connection.execute("VACUUM FULL root_key_wraps")
