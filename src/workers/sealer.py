"""Seals the log for audits: appends a leaf for each position to the audit tree, and signs checkpoints of the tree.

The sealer that holds an advisory lock leads; others wait for the lock. The connection that holds the lock also writes
the tree, so a leader that loses the lock can no longer write.
"""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import psycopg
import structlog
from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection
from psycopg.errors import UndefinedTable
from psycopg_pool import AsyncConnectionPool

from commands.audit import RequireRowMacs, new_signing_key
from commands.handler import CommandContext, Handler
from domain.audit import ROWS, SIGNING_KEY, SigningKeyChanged
from domain.core.errors import StreamDamaged
from domain.core.events import Recorded
from integrations.checkpoints import CheckpointFolder
from store.audit.checkpoints import (
    AuditTree,
    SealedCheckpoint,
    leaf_hash_of,
    load_edge,
    next_rows,
    signing_key,
    write_checkpoint,
    write_tiles,
)
from store.audit.merkle import Edge
from store.audit.recheck import RESTORE_LOG, RESTORE_TREE, Recheck, TreeDamaged
from store.audit.recheck_progress import SEALER_LOCK
from store.audit.root_key_checks import find_ring_damage
from store.audit.row_checks import RowChecks, load_row_checks
from store.audit.signed_notes import BadNote, Checkpoint, VerifierKey, note_hash, open_note
from store.crypto.secrets import SecretMismatch, Secrets
from store.log.append import AppendFailed
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.log.ids import MAX_GAP, fetch_last_position
from store.postgres.leader_lock import hold_leader_lock
from store.postgres.notifications import SEALS, Listener
from store.postgres.queries import fetch_rows
from store.tables.alarms import set_alarm
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

ALARM = "sealer"
CHECKPOINT_INTERVAL_S = 10.0
"""Longest time in seconds until a checkpoint covers an appended event. An export requests a checkpoint at once."""
CHECKPOINT_EVENTS = 10_000
"""Number of events after which a checkpoint is signed early, so that under load no checkpoint covers very many new
events.
"""
RECONNECT_DELAY_S = 0.2
"""Seconds from the loss of the connection until the sealer tries to lead again."""
RESTORE_ROW = (
    "put it back by `testhide audit put-back {position} --from BACKUP`, or if there is no other, accept it by"
    " `testhide audit accept {position} --reason TEXT`"
)

SET_BACK = (
    "the sequence of positions is at {drawn}, but the log has position {position}: the sequence was set back; run"
    " `testhide repair`"
)


@dataclass
class Sealer:
    conninfo: str
    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    secrets: Secrets
    clock: Callable[[], datetime]
    folder: CheckpointFolder | None = None
    """Folder outside the database to which each checkpoint is written as well."""
    interval_s: float = CHECKPOINT_INTERVAL_S
    max_events: int = CHECKPOINT_EVENTS

    def __post_init__(self) -> None:
        self._tree = AuditTree(self.pool)
        self._recheck = Recheck(self.pool, self.event_log)

    async def run(self, listener: Listener) -> None:
        """Seals the log while this process leads, and waits to lead otherwise. Runs until cancelled."""
        cursor = LogCursor(self.event_log, listener, poll_interval_s=self.interval_s)
        with cursor.listening(min_new=self.max_events), listener.subscribed(SEALS, lambda _: cursor.notify()):
            while True:
                try:
                    async with self.hold_lock() as connection:
                        log.info("sealing the log")
                        while True:
                            cursor.position = await self.seal(connection)
                            await set_alarm(self.pool, ALARM, None)
                            await cursor.wait()
                except (psycopg.OperationalError, AppendFailed) as error:
                    log.warning("the sealer lost its connection", error=str(error).strip())
                    await asyncio.sleep(RECONNECT_DELAY_S)
                except (TreeDamaged, StreamDamaged, SecretMismatch, LookupError, UndefinedTable) as error:
                    reason = str(error).partition("\n")[0]  # messages of PostgreSQL go on with the statement
                    log.error("the log is no longer sealed", error=reason)
                    async with tolerate_outages("alarm of the sealer"):
                        await set_alarm(self.pool, ALARM, f"the log is not sealed any more: {reason}")
                    await asyncio.sleep(self.interval_s)

    def hold_lock(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Waits until this process leads. Yields the connection that holds the lock."""
        return hold_leader_lock(self.conninfo, SEALER_LOCK)

    async def compare_with_folder(self) -> None:
        """Compares the log with the newest checkpoint in the folder outside the database. Raises TreeDamaged if they
        disagree.
        """
        if self.folder is None:
            return
        try:
            note = await asyncio.to_thread(self.folder.newest)
        except OSError as error:
            log.error("the folder of checkpoints could not be read", folder=str(self.folder), error=str(error))
            return
        if note is None:
            return
        last = await self._tree.checkpoint()
        size = last.size if last else 0
        try:
            signed = _open(note, await self._keys())
        except BadNote as error:
            raise TreeDamaged(f"the newest checkpoint in {self.folder} is not one of this log: {error}") from None
        if signed.size > size:
            raise TreeDamaged(
                f"{self.folder} is ahead of the log: it has a checkpoint at {signed.size}, and the newest of the log is"
                f" at {size}. What came between is lost, after a restore for example. Move the later checkpoints out of"
                " the folder, and keep them: they prove what there was"
            )
        if signed.root != await self._tree.root(signed.size):
            raise TreeDamaged(
                f"the log is not the one of the checkpoint at {signed.size} in {self.folder}; {RESTORE_TREE}"
            )

    async def seal(self, connection: AsyncConnection) -> int:
        """Extends the tree to the end of the log and signs a checkpoint of it. Returns the size of the tree.

        First checks the newest checkpoint, compares it with the folder outside the database, and checks the next sealed
        part of the log and the key ring. Raises TreeDamaged if any of these was changed.

        Stops at the first row that has no right MAC and that no operator accepted: signs a checkpoint up to this row,
        and raises TreeDamaged.
        """
        keys = await self._keys()
        last = await self._tree.checkpoint()
        if last is not None:
            await self._verify(last, keys)
        await self.compare_with_folder()
        await self._recheck.check_next(last.size if last else 0, lambda size: VerifierKey.parse(key_at(keys, size)))
        if damage := await find_ring_damage(self.pool, self.event_log, self.secrets):
            raise TreeDamaged(damage)
        checks = await self._row_checks()
        # Leaves after the last checkpoint are computed again: no signature covers the stored ones.
        edge = await load_edge(connection, last.size if last else 0)
        wrong: tuple[int, StoredEvent] | None = None
        is_right, drawn = True, 0
        while is_right and (rows := await next_rows(connection, edge.size)):
            drawn = await fetch_last_position(connection)
            right = list(itertools.takewhile(partial(_is_right, checks, drawn), rows))
            is_right = len(right) == len(rows)
            if not is_right:
                wrong = next((position, row) for position, row in rows[len(right) :] if row is not None)
                while right and right[-1][1] is None:
                    right.pop()  # the server's next events may come before a row that somebody else wrote
            if right:
                async with connection.transaction():
                    await write_tiles(connection, edge.append(leaf_hash_of(*item) for item in right))
            if edge.size - (last.size if last else 0) >= self.max_events:
                last = await self._sign(connection, edge, last, keys)
        if edge.size > (last.size if last else 0):
            await self._sign(connection, edge, last, keys)
        if wrong is not None:
            raise TreeDamaged(_describe_wrong(*wrong, checks, drawn))
        await self._check_end(edge.size)
        return edge.size

    async def _check_end(self, size: int) -> None:
        """Raises TreeDamaged if the log contains a position far beyond `size`, the last sealed position. Also raises
        TreeDamaged if the sequence of positions was set back, since the next event would get a position that is sealed
        already.
        """
        ((head,),) = await fetch_rows(self.pool, "SELECT coalesce(max(notification_id), 0) FROM stored_events")
        if head > size + MAX_GAP:
            raise TreeDamaged(f"position {head} follows {size}, which this server never does; {RESTORE_LOG}")
        if (drawn := await fetch_last_position(self.pool)) < size:
            raise TreeDamaged(SET_BACK.format(drawn=drawn, position=size))

    async def _row_checks(self) -> RowChecks:
        checks = await load_row_checks(self.pool, self.event_log, self.secrets, self.clock)
        if checks.required is not None or not checks.is_older_log:
            return checks
        await self.handler.execute(RequireRowMacs(), CommandContext("system:sealer"))
        checks = await load_row_checks(self.pool, self.event_log, self.secrets, self.clock)
        if checks.required is None:
            raise TreeDamaged(f"the events of {ROWS.name} are not those that this server wrote; {RESTORE_LOG}")
        return checks

    async def _verify(self, last: SealedCheckpoint, keys: list[Recorded]) -> None:
        """Raises TreeDamaged if the root of the stored tree differs from the root in the signed note of the checkpoint
        `last`.
        """
        try:
            signed = _open(last.note, keys)
        except BadNote as error:
            raise TreeDamaged(f"the newest checkpoint is not one of this log ({error}); {RESTORE_TREE}") from None
        if signed.size != last.size or not signed.root == last.root == await self._tree.root(last.size):
            raise TreeDamaged(
                f"the tree no longer has the root that was signed at position {signed.size}; {RESTORE_TREE}"
            )

    async def _sign(
        self, connection: AsyncConnection, edge: Edge, last: SealedCheckpoint | None, keys: list[Recorded]
    ) -> SealedCheckpoint:
        key = await signing_key(connection, self.secrets, key_at(keys, last.size if last else 0))
        # This server must also have the key of the next checkpoint: somebody may have appended an event with another
        # key.
        await signing_key(connection, self.secrets, key_at(keys, edge.size))
        previous = note_hash(last.note) if last else None
        checkpoint = Checkpoint(key.name, edge.size, edge.root, self.clock(), previous)
        sealed = SealedCheckpoint(edge.size, edge.root, key.sign(checkpoint.text), checkpoint.time)
        await write_checkpoint(connection, sealed)
        if self.folder is not None:
            try:
                await asyncio.to_thread(self.folder.publish, sealed.size, sealed.note)
            except OSError as error:  # the next checkpoint covers this one too
                log.error("a checkpoint could not be written out", size=sealed.size, error=str(error))
        return sealed

    async def _keys(self) -> list[Recorded]:
        keys = (await self.event_log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
        if keys:
            return keys
        await new_signing_key(self.handler, self.event_log, self.pool, self.secrets, CommandContext("system:sealer"))
        return await self._keys()


def _is_right(checks: RowChecks, drawn: int, item: tuple[int, StoredEvent | None]) -> bool:
    return item[0] <= drawn and checks.allow(*item)


def _describe_wrong(position: int, row: StoredEvent, checks: RowChecks, drawn: int) -> str:
    if checks.allow(position, row):
        return SET_BACK.format(drawn=drawn, position=position)
    return (
        f"the row at position {position} is not one that this server wrote, or was changed since, and is not sealed"
        f" yet; {RESTORE_ROW.format(position=position)}"
    )


def _open(note: str, keys: list[Recorded]) -> Checkpoint:
    """Returns the checkpoint in a note if one of the keys has signed it. Otherwise raises BadNote."""
    return Checkpoint.parse(open_note(note, [VerifierKey.parse(_public_key(recorded)) for recorded in keys]))


def key_at(keys: list[Recorded], size: int) -> str:
    """Returns the verifier key that is in force when the log has `size` positions. The next checkpoint after this size
    must have a signature that this key verifies.
    """
    in_force = [recorded for recorded in keys if recorded.position <= size] or keys[:1]
    return _public_key(in_force[-1])


def _public_key(recorded: Recorded) -> str:
    assert isinstance(recorded.event, SigningKeyChanged)
    return recorded.event.public_key
