"""The key ring: the root keys of a server, stored in the database and wrapped with the server's secret key.

`root_keys` has a row for each root key. `root_key_wraps` has each root key in encrypted form, once for each key that
opens it. Normally only the secret key opens a root key. During a rotation the old secret key opens it, too, and the
previous root key opens the new one.

Each process opens the ring when it starts, and then follows the changes of the ring, since a rotation adds a root key
while processes run. A change brings the ring to its next stage (`stage_of`). Each process shows by an advisory lock
which stage it has loaded. So no process seals with a new root key until all processes have loaded this key.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

import psycopg
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import AsyncConnection

from store.crypto.secrets import (
    KEY_BYTES,
    WRONG_KEY,
    RingDamaged,
    RootKey,
    SecretMismatch,
    Secrets,
    decrypt,
    derive,
    encrypt,
)
from store.postgres.cancellation import cancel_and_wait, wait_for
from store.postgres.notifications import ROOT_KEYS, Listener
from store.postgres.queries import execute, fetch_row, fetch_rows

log = structlog.get_logger()

RING_TABLES = ("root_keys", "root_key_wraps")
FOLLOWER_LOCK = 0x726F6F74
"""First of the two numbers that name the advisory lock of a process. The second is the stage of the ring (`stage_of`)
that the process has loaded.
"""
POLL_INTERVAL_S = 5.0
"""Longest time between two reads of the ring, in case a notification is lost."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""Longest pause before a process connects again. Each failure doubles the pause, up to this limit."""
CONNECT_TIMEOUT_S = 5


def opener_of(secret_key: bytes) -> str:
    """Returns the name that stands for a secret key in the ring. The name reveals nothing about the key."""
    return f"key-{derive(secret_key, 'id of the secret key')[:8].hex()}"


def opener_of_root(root_id: int) -> str:
    return f"root-{root_id}"


def wrap_root(key: bytes, root: RootKey) -> bytes:
    return encrypt(AESGCM(derive(key, "root keys")), root.key, opener_of_root(root.id).encode())


def stage_of(newest_id: int, *, is_in_use: bool = False, are_older_limited: bool = False) -> int:
    """Returns the number of the stage of a ring. A rotation raises it three times: when a root key is added, when this
    root key comes into use, and when the older root keys get their last positions.
    """
    return 3 * newest_id + is_in_use + are_older_limited + 1


async def load_roots(
    connection: AsyncConnection, secret_keys: Sequence[bytes], opened: Mapping[int, RootKey], newest: int
) -> list[RootKey]:
    """Returns the root keys of the ring. `opened` has the root keys that this process has opened before. Opens each
    other root key with a secret key, or with the root key whose id is `newest`.

    Never opens a root key with an older root key than `newest`: somebody who has got hold of an old root key must not
    be able to add root keys.

    If a root key in use does not open, raises SecretMismatch for a wrong secret key, RingDamaged for any other reason.
    """
    rows = await fetch_rows(
        connection,
        "SELECT id, used_since, is_leaked, last_position, lead(used_since) OVER (ORDER BY id),"
        " ARRAY(SELECT opener FROM root_key_wraps WHERE root_id = id ORDER BY opener),"
        " ARRAY(SELECT wrapped FROM root_key_wraps WHERE root_id = id ORDER BY opener) FROM root_keys ORDER BY id",
    )
    lost = "SELECT root_id FROM root_key_wraps WHERE root_id NOT IN (SELECT id FROM root_keys) ORDER BY 1 LIMIT 1"
    if not opened and (row := await fetch_row(connection, lost)) is not None:
        raise RingDamaged(f"the root key {row[0]} is missing in root_keys")
    openers, roots = {opener_of(key): key for key in secret_keys}, list[RootKey]()
    openers |= {opener_of_root(root.id): root.key for root in opened.values() if root.id == newest}
    for root_id, used_since, is_leaked, last_position, retired_at, *wraps in rows:
        if root_id in opened:
            key = opened[root_id].key
        elif wrap := next((wrap for wrap in zip(*wraps, strict=True) if wrap[0] in openers), None):
            try:
                opener = AESGCM(derive(openers[wrap[0]], "root keys"))
                key = decrypt(opener, wrap[1], opener_of_root(root_id).encode())
            except SecretMismatch:
                raise RingDamaged(f"the wrap of the root key {root_id} in root_key_wraps was changed") from None
        elif used_since is None:
            continue
        elif not wraps[0] or any(opener in openers for *_, names, _ in rows for opener in names):
            raise RingDamaged(f"the wrap of the root key {root_id} is missing in root_key_wraps")
        else:
            raise SecretMismatch(WRONG_KEY)
        roots.append(
            RootKey(
                id=root_id,
                key=key,
                is_in_use=used_since is not None,
                retired_at=retired_at,
                last_position=last_position,
                is_leaked=is_leaked,
            )
        )
    return roots


def keep_known(known: Mapping[int, RootKey], read: Iterable[RootKey]) -> list[RootKey]:
    """Returns the root keys in `known` and `read` together, ordered by id. `read` comes from the database.

    A root key that is in use, retired or leaked in `known`, or has a last position there, stays so whatever `read`
    says. The server never undoes this, so somebody else must have changed the row.
    """
    roots = dict(known)
    for root in read:
        if (before := known.get(root.id)) is None:
            roots[root.id] = root
            continue
        roots[root.id] = RootKey(
            id=root.id,
            key=root.key,
            is_in_use=before.is_in_use or root.is_in_use,
            retired_at=before.retired_at or root.retired_at,
            last_position=root.last_position if before.last_position is None else before.last_position,
            is_leaked=before.is_leaked or root.is_leaked,
        )
    return sorted(roots.values(), key=lambda root: root.id)


async def make_ring(connection: AsyncConnection, secret_key: bytes) -> None:
    """Makes the first root key, unless the ring has root keys. If the log is empty, the first root key is random. If a
    release without root keys began the log, the first root key is the secret key, from which that release derived all
    keys.
    """
    async with connection.transaction():
        await connection.execute("LOCK TABLE root_keys IN EXCLUSIVE MODE")
        if await fetch_row(connection, "SELECT 1 FROM root_keys LIMIT 1"):
            return
        is_older_log = await fetch_row(connection, "SELECT 1 FROM stored_events LIMIT 1") is not None
        root = RootKey(id=0, key=secret_key) if is_older_log else RootKey(id=1, key=os.urandom(KEY_BYTES))
        await execute(connection, "INSERT INTO root_keys (id, used_since) VALUES (%s, now())", (root.id,))
        await insert_wraps(connection, [(root, opener_of(secret_key), secret_key)])


async def insert_wraps(connection: AsyncConnection, wraps: Sequence[tuple[RootKey, str, bytes]]) -> None:
    """Encrypts root keys and stores them. Each item of `wraps` is (root key, name of an opener, opener): the opener is
    the key that encrypts the root key. Skips wraps that are stored already.
    """
    for root, opener, key in wraps:
        await execute(
            connection,
            "INSERT INTO root_key_wraps (root_id, opener, wrapped) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (root.id, opener, wrap_root(key, root)),
        )


async def has_tables(connection: AsyncConnection) -> bool:
    """Returns whether the database has the tables of the ring, even if they are empty."""
    query = "SELECT count(to_regclass(name)) FROM unnest(%s::text[]) AS name"
    return await fetch_row(connection, query, (list(RING_TABLES),)) == (len(RING_TABLES),)


class KeyRing:
    """Opens the ring with the secret keys. Keeps `secrets` up to date with the ring until `close`."""

    def __init__(
        self,
        conninfo: str,
        secret_keys: Sequence[bytes],
        wait_until_written: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`wait_until_written` waits until the database has all rows for which this process has made MACs. Pass None in
        a process that makes no MACs.
        """
        self._conninfo = conninfo
        self._secret_keys = secret_keys
        self._wait_until_written = wait_until_written
        self._task: asyncio.Task[None] | None = None
        self._stage = 0
        self._connection: AsyncConnection | None = None
        self._is_there = False
        self._changed = asyncio.Event()
        self._listens = True
        self._opened: dict[int, RootKey] = {}
        self.secrets = Secrets.without_ring(secret_keys[0])

    async def open(self) -> None:
        """Opens the ring, if the database has one.

        Raises SecretMismatch if no secret key opens the ring, RingDamaged if root keys are missing or damaged, and
        psycopg.OperationalError if the database cannot be reached.
        """
        self._connection = await self._connect()
        self._is_there = await has_tables(self._connection)
        if self._is_there:
            await self._refresh(self._connection)

    async def follow(self) -> None:
        """Follows changes of the ring in the background. Before that, adds a root key if the ring is empty. The caller
        must have checked the secret key.
        """
        assert self._connection is not None, "open comes first"
        if self._is_there:
            if not self._opened:
                await make_ring(self._connection, self._secret_keys[0])
                await self._refresh(self._connection)
            self._task = asyncio.create_task(self._run(self._connection), name="key ring")

    @contextlib.contextmanager
    def notified_by(self, listener: Listener) -> Iterator[None]:
        """Lets `listener` notify the ring as long as this context manager is open. Meanwhile the ring's connection does
        not listen. This saves work, since PostgreSQL wakes every listening connection for each notification.
        """
        with listener.subscribed(ROOT_KEYS, lambda _: self._changed.set()):
            self._listens = False
            self._changed.set()
            try:
                yield
            finally:
                self._listens = True
                self._changed.set()

    async def close(self) -> None:
        try:
            if self._task is not None:
                await cancel_and_wait(self._task)
        finally:
            if self._connection is not None:
                await self._connection.close()

    async def _connect(self) -> AsyncConnection:
        connection = await AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        try:
            # Taken before the ring is read, so that no rotation goes on between the read and the lock.
            await execute(connection, "SELECT pg_advisory_lock_shared(%s::int, 0)", (FOLLOWER_LOCK,))
        except BaseException:  # cancellation too
            await connection.close()
            raise
        self._stage = 0
        return connection

    async def _refresh(self, connection: AsyncConnection) -> None:
        read = await load_roots(connection, self._secret_keys, self._opened, self.secrets.newest)
        roots = keep_known(self._opened, read)
        if not roots:
            return
        if not any(root.is_in_use for root in roots):
            raise RingDamaged("no root key in root_keys is in use")
        self.secrets.replace(roots)
        self._opened = self.secrets.roots
        is_in_use = roots[-1].is_in_use
        are_older_limited = is_in_use and all(root.last_position is not None for root in roots[:-1])
        stage = stage_of(roots[-1].id, is_in_use=is_in_use, are_older_limited=are_older_limited)
        if stage != self._stage:
            if self._wait_until_written is not None:
                await self._wait_until_written()
            await execute(connection, "SELECT pg_advisory_lock_shared(%s::int, %s::int)", (FOLLOWER_LOCK, stage))
            unlock = "SELECT pg_advisory_unlock_shared(%s::int, %s::int)"
            await execute(connection, unlock, (FOLLOWER_LOCK, self._stage))
            self._stage = stage

    async def _run(self, connection: AsyncConnection | None) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with connection or await self._connect() as following:
                    following.add_notify_handler(lambda _: self._changed.set())
                    while True:
                        self._changed.clear()
                        await following.execute(f"{'LISTEN' if self._listens else 'UNLISTEN'} {ROOT_KEYS}".encode())
                        await self._refresh(following)
                        pause_s = FIRST_PAUSE_S
                        await self._wait(following)
            except psycopg.Error as error:
                log.warning("key ring lost its connection", error=str(error).strip(), again_in_s=pause_s)
            except RingDamaged as error:
                log.error("the key ring is damaged", error=str(error), again_in_s=pause_s)
            except SecretMismatch:
                log.error("the secret key was rotated while this process had no connection: start it with the new key")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            connection = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _wait(self, connection: AsyncConnection) -> None:
        """Waits for a notification, for the end of the connection, or for the end of the poll interval."""
        loop, socket = asyncio.get_running_loop(), connection.pgconn.socket
        loop.add_reader(socket, self._changed.set)
        try:
            await wait_for(self._changed, POLL_INTERVAL_S)
        finally:
            loop.remove_reader(socket)


async def load_secrets(conninfo: str, secret_key: bytes) -> Secrets:
    """Opens the ring once, and returns the secrets. Raises SecretMismatch if the secret key does not open the ring,
    RingDamaged if root keys are missing or damaged, and psycopg.OperationalError if the database cannot be reached.
    """
    ring = KeyRing(conninfo, [secret_key])
    try:
        await ring.open()
    finally:
        await ring.close()
    return ring.secrets


async def fetch_followers_behind(connection: AsyncConnection, stage: int) -> list[int]:
    """Returns the pids (in pg_stat_activity) of the connections of all processes that have not loaded this stage of the
    ring yet.
    """
    rows = await fetch_rows(
        connection,
        "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = %s"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND objid < %s ORDER BY pid",
        (FOLLOWER_LOCK, stage),
    )
    return [pid for (pid,) in rows]
