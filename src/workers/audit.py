"""The sealer: follows the log, appends each position's leaf to the audit tree, and signs checkpoints.

One leads by advisory lock, others stand by. The tree is written by the connection that holds the lock, so a leader
that lost it writes no more.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commands.handler import CommandContext, Handler
from commands.sealing import new_signing_key
from domain.core.errors import StreamDamaged
from domain.core.events import Recorded
from domain.sealing import SIGNING_KEY, SigningKeyChanged
from store.audit.checkpoints import (
    AuditTree,
    SealedCheckpoint,
    load_edge,
    next_leaves,
    signing_key,
    write_checkpoint,
    write_tiles,
)
from store.audit.merkle import Edge
from store.audit.signed_notes import BadNote, Checkpoint, VerifierKey, note_hash, open_note
from store.crypto.secrets import SecretMismatch, Secrets
from store.log.append import AppendFailed
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.leader_lock import hold_leader_lock
from store.postgres.notifications import Listener

log = structlog.get_logger()

LOCK = "testhide sealer"
EVERY_S = 10.0
EVERY = 10_000
"""Events: a checkpoint also comes after so many."""

RESTORE = "the tables audit_tiles or audit_checkpoints were changed: restore them from a backup"

Publish = Callable[[int, str], None]
"""Takes a checkpoint's size and note out of the house. May block, may raise OSError."""


class TreeDamaged(Exception):
    """The stored tree no longer is what was signed; nothing more is sealed on top of it."""


class Sealer:
    def __init__(
        self,
        conninfo: str,
        pool: AsyncConnectionPool,
        event_log: EventLog,
        handler: Handler,
        secrets: Secrets,
        clock: Callable[[], datetime],
        publish: Publish | None = None,
    ) -> None:
        self._conninfo = conninfo
        self._pool = pool
        self._log = event_log
        self._handler = handler
        self._secrets = secrets
        self._clock = clock
        self._publish = publish
        self._tree = AuditTree(pool)

    async def run(self, listener: Listener) -> None:
        """Leads whenever it can, until it is cancelled."""
        cursor = LogCursor(self._log, listener, poll_interval_s=EVERY_S)
        with cursor.listening(min_new=EVERY):
            while True:
                try:
                    async with self.hold_lock() as connection:
                        log.info("sealing the log")
                        while True:
                            cursor.position = await self.seal(connection)
                            await cursor.wait()
                except (psycopg.OperationalError, AppendFailed) as error:
                    log.warning("the sealer lost its connection", error=str(error).strip())
                    await asyncio.sleep(0.2)
                except (TreeDamaged, StreamDamaged, SecretMismatch, LookupError) as error:
                    log.error("the log is not sealed any more", error=str(error))
                    await asyncio.sleep(EVERY_S)

    @contextlib.asynccontextmanager
    async def hold_lock(self) -> AsyncIterator[AsyncConnection]:
        """The connection that holds the lock, as soon as nobody else does."""
        async with hold_leader_lock(self._conninfo, LOCK) as connection:
            yield connection

    async def seal(self, connection: AsyncConnection) -> int:
        """Brings the tree to the log's end, with a checkpoint there; returns its size. Raises TreeDamaged."""
        keys = await self._keys()
        last = await self._tree.checkpoint()
        if last is not None:
            await self._must_fit(last, keys)
        # What was not signed yet is made anew: somebody may have put it there.
        edge = await load_edge(connection, last.size if last else 0)
        while leaves := await next_leaves(connection, edge.size):
            async with connection.transaction():
                await write_tiles(connection, edge.append(leaves))
            if edge.size - (last.size if last else 0) >= EVERY:
                last = await self._sign(connection, edge, last, keys)
        if edge.size > (last.size if last else 0):
            await self._sign(connection, edge, last, keys)
        return edge.size

    async def _must_fit(self, last: SealedCheckpoint, keys: list[Recorded]) -> None:
        """What the note says, which none but this server has signed; not the columns beside it."""
        try:
            signers = [VerifierKey.parse(_public_key(recorded)) for recorded in keys]
            signed = Checkpoint.parse(open_note(last.note, signers))
        except BadNote as error:
            raise TreeDamaged(f"the newest checkpoint is not one of this log ({error}); {RESTORE}") from None
        if signed.size != last.size or not signed.root == last.root == await self._tree.root(last.size):
            raise TreeDamaged(f"the tree no longer has the root that was signed at position {signed.size}; {RESTORE}")

    async def _sign(
        self, connection: AsyncConnection, edge: Edge, last: SealedCheckpoint | None, keys: list[Recorded]
    ) -> SealedCheckpoint:
        key = await signing_key(connection, self._secrets, key_at(keys, last.size if last else 0))
        # Nothing is handed over to a key of somebody else, who may have written its event into the log.
        await signing_key(connection, self._secrets, key_at(keys, edge.size))
        previous = note_hash(last.note) if last else None
        checkpoint = Checkpoint(key.name, edge.size, edge.root, self._clock(), previous)
        sealed = SealedCheckpoint(edge.size, edge.root, key.sign(checkpoint.text), checkpoint.time)
        await write_checkpoint(connection, sealed)
        if self._publish is not None:
            try:
                await asyncio.to_thread(self._publish, sealed.size, sealed.note)
            except OSError as error:  # the next one vouches for this one too
                log.error("a checkpoint could not be written out", size=sealed.size, error=str(error))
        return sealed

    async def _keys(self) -> list[Recorded]:
        keys = (await self._log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
        if keys:
            return keys
        await new_signing_key(self._handler, self._log, self._pool, self._secrets, CommandContext("system:sealer"))
        return await self._keys()


def key_at(keys: list[Recorded], size: int) -> str:
    """The verifier key of the checkpoint that follows one of this size."""
    covered = [recorded for recorded in keys if recorded.position <= size] or keys[:1]
    return _public_key(covered[-1])


def _public_key(recorded: Recorded) -> str:
    assert isinstance(recorded.event, SigningKeyChanged)
    return recorded.event.public_key
