"""The sealer: the tree follows the log, gaps and damaged rows included, and what is signed can be followed."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from commands.audit import AcceptRow, ChangeSigningKey, new_signing_key
from commands.handler import CommandContext, Handler
from domain.audit import SIGNING_KEY
from domain.claims import ClaimTaken
from domain.core.events import EventMetadata
from integrations.checkpoints import CheckpointFolder
from store.audit.checkpoints import AuditTree, leaf_hash_of
from store.audit.leaves import GapLeaf, hash_of, leaf_of, row_of
from store.audit.merkle import Frontier
from store.audit.recheck import TreeDamaged
from store.audit.recheck_progress import SEALER_LOCK
from store.audit.signed_notes import BadNote, Checkpoint, SigningKey, VerifierKey, note_hash, open_note
from store.log.event_log import Write
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, SEALS, Listener
from store.tables.alarms import fetch_alarms
from testhide.processes import Core
from tests.support.damage import damaged
from tests.support.tampering import hide_in_the_tree
from workers.sealer import CHECKPOINT_EVENTS, Sealer, key_at

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
ANN = CommandContext("user:1")


class Yard:
    """A log, its sealer, and a clock that each checkpoint moves on."""

    def __init__(self, parts: Core, folder: CheckpointFolder | None = None) -> None:
        self.parts = parts
        self.handler = Handler(parts.log, lambda: NOW)
        self.tree = AuditTree(parts.pool)
        self._ticks = 0
        self.sealer = Sealer(parts.conninfo, parts.pool, parts.log, self.handler, parts.secrets, self._tick, folder)
        self._claims = 0

    def _tick(self) -> datetime:
        self._ticks += 1
        return NOW + timedelta(seconds=10 * self._ticks)

    async def happen(self, count: int) -> None:
        events = [ClaimTaken(claim=f"{self._claims + number}", owner="user-1") for number in range(count)]
        self._claims += count
        await self.parts.log.append([Write(1, event) for event in events], EventMetadata(NOW, "user:1"))

    async def seal(self) -> None:
        async with self.sealer.hold_lock() as connection:
            await self.sealer.seal(connection)

    async def rotate(self) -> VerifierKey:
        parts = self.parts
        return await new_signing_key(self.handler, parts.log, parts.pool, parts.secrets, ANN)

    async def accept(self, position: int) -> None:
        row = await self.tree.row(position)
        await self.handler.execute(AcceptRow(position, leaf_hash_of(position, row).hex(), "a test", "ann"), ANN)

    async def execute(self, query: str) -> None:
        async with self.parts.pool.connection() as connection:
            await connection.execute(query.encode())

    async def alarms(self) -> list[str]:
        async with self.parts.pool.connection() as connection:
            return await fetch_alarms(connection)

    async def root_of_the_log(self) -> bytes:
        """Folded from the rows as they are now."""
        async with self.parts.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
                " ORDER BY notification_id"
            )
            rows = await cursor.fetchall()
        tree = Frontier()
        for position, *columns in rows:
            while tree.size < position - 1:
                tree.append(hash_of(GapLeaf(tree.size + 1)))
            tree.append(hash_of(leaf_of(position, row_of(*columns))))
        return tree.root


@pytest.fixture
async def yard(parts: Core) -> Yard:
    return Yard(parts)


@pytest.mark.parametrize("count", [1, 254, 255, 256, 600])
async def test_the_tree_is_that_of_the_log(yard: Yard, count: int) -> None:
    await yard.happen(count)
    await yard.seal()
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert checkpoint.size == count + 1  # and the first signing key
    assert checkpoint.root == await yard.root_of_the_log() == await yard.tree.root(count + 1)


async def test_each_checkpoint_names_the_one_before(yard: Yard) -> None:
    for _ in range(3):
        await yard.happen(100)
        await yard.seal()
    third, second, first = await yard.tree.checkpoints_before(None, 10)
    (recorded,) = (await yard.parts.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
    key = VerifierKey.parse(key_at([recorded], 0))
    texts = [Checkpoint.parse(open_note(item.note, [key])) for item in (first, second, third)]
    assert [text.size for text in texts] == [101, 201, 301]
    assert [text.previous for text in texts] == [None, note_hash(first.note), note_hash(second.note)]
    assert [text.time for text in texts] == [NOW + timedelta(seconds=10 * n) for n in (1, 2, 3)]
    assert {text.origin for text in texts} == {key.name}
    assert await yard.tree.checkpoints_before(201, 10) == [first]


async def test_nothing_new_is_not_signed_again(yard: Yard) -> None:
    await yard.happen(1)
    await yard.seal()
    await yard.seal()
    assert len(await yard.tree.checkpoints_before(None, 10)) == 1


async def test_a_checkpoint_also_comes_after_many_events(yard: Yard) -> None:
    yard.sealer.max_events = 500
    await yard.happen(1_400)
    await yard.seal()
    sizes = [item.size for item in await yard.tree.checkpoints_before(None, 10)]
    assert sizes[0] == 1_401
    assert len(sizes) == 3
    for item in await yard.tree.checkpoints_before(None, 10):
        assert item.root == await yard.tree.root(item.size)


async def test_positions_without_a_row_have_leaves_too(yard: Yard) -> None:
    await yard.happen(3)
    await yard.execute("SELECT setval(pg_get_serial_sequence('stored_events', 'notification_id'), 700)")
    await yard.happen(3)
    await yard.seal()
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.size, checkpoint.root) == (704, await yard.root_of_the_log())
    assert await yard.tree.leaves([4]) == [hash_of(GapLeaf(4))]


async def test_a_row_far_beyond_is_not_sealed_and_said(yard: Yard) -> None:
    await yard.happen(3)
    await yard.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)"
        " VALUES ('claim-far', 1, 'claim.taken', '', 1000000000000)"
    )
    for size in (4, 7):
        with pytest.raises(TreeDamaged, match=f"position 1000000000000 follows {size}, which this server never does"):
            await yard.seal()
        await yard.happen(3)
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert checkpoint.size == 7


async def test_a_new_key_is_handed_to_by_the_old_one(yard: Yard) -> None:
    await yard.happen(3)
    await yard.seal()
    second = await yard.rotate()
    await yard.seal()
    await yard.happen(3)
    await yard.seal()
    keys = (await yard.parts.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
    first = VerifierKey.parse(key_at(keys, 0))
    assert second.name == first.name
    after, handover, before = [item.note for item in await yard.tree.checkpoints_before(None, 10)]
    for note, key, other in ((before, first, second), (handover, first, second), (after, second, first)):
        open_note(note, [key])
        with pytest.raises(BadNote):
            open_note(note, [other])


async def test_nothing_is_handed_over_to_a_key_that_somebody_else_made(yard: Yard) -> None:
    await yard.happen(3)
    await yard.seal()
    current = await yard.parts.log.load_state(SIGNING_KEY)
    forged = SigningKey.new("testhide/forged").verifier
    await yard.handler.execute(ChangeSigningKey(str(forged), current), ANN)
    with pytest.raises(LookupError, match="this server did not make it"):
        await yard.seal()
    assert len(await yard.tree.checkpoints_before(None, 10)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE audit_tiles SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1) WHERE level = 0",
        "DELETE FROM audit_tiles",
        "DELETE FROM audit_tiles WHERE level = 0",
        "UPDATE audit_checkpoints SET root = set_byte(root, 0, get_byte(root, 0) # 1)",
        "UPDATE audit_checkpoints SET size = size - 1",
        "UPDATE audit_checkpoints SET note = replace(note, 'time 2026', 'time 2025')",
        "UPDATE audit_checkpoints SET note = 'signed'",
    ],
)
async def test_nothing_is_signed_on_top_of_a_damaged_tree(yard: Yard, damage: str) -> None:
    await yard.happen(300)
    await yard.seal()
    await yard.execute(damage)
    await yard.happen(1)
    with pytest.raises(TreeDamaged, match="restore"):
        await yard.seal()
    assert len(await yard.tree.checkpoints_before(None, 10)) == 1


@pytest.mark.parametrize(
    "more",
    [
        "UPDATE audit_tiles SET hashes = hashes || '\\x00' WHERE level = 0 AND n = 1",
        "UPDATE audit_tiles SET hashes = hashes || hashes WHERE level = 0 AND n = 1",
        "INSERT INTO audit_tiles SELECT level, 1000, hashes FROM audit_tiles WHERE level = 0 AND n = 1",
    ],
)
async def test_what_somebody_put_behind_the_signed_tree_is_not_signed(yard: Yard, more: str) -> None:
    await yard.happen(300)
    await yard.seal()
    await yard.execute(more)
    await yard.happen(300)
    await yard.seal()
    last = await yard.tree.checkpoint()
    assert last is not None
    assert (last.size, last.root) == (await yard.parts.log.read_head(), await yard.root_of_the_log())


async def test_nothing_is_signed_on_top_of_a_tree_that_was_made_to_fit(yard: Yard) -> None:
    """Rows, tree and the root beside the checkpoint's note: all changed by one who has the database alone."""
    await yard.happen(300)
    await yard.seal()
    await yard.execute("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 7")
    with psycopg.connect(yard.parts.conninfo, autocommit=True) as connection:
        hide_in_the_tree(connection)
    last = await yard.tree.checkpoint()
    assert last is not None
    root = await yard.tree.root(last.size)
    assert root != last.root
    await yard.execute(f"UPDATE audit_checkpoints SET root = '\\x{root.hex()}'")
    await yard.happen(1)
    with pytest.raises(TreeDamaged, match="restore"):
        await yard.seal()


async def test_a_signing_key_that_cannot_be_read_is_an_alarm_and_waited_for(yard: Yard) -> None:
    yard.sealer.interval_s = 0.05
    await yard.happen(1)
    await yard.seal()
    (key,) = (await yard.parts.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
    await yard.happen(1)
    listener = Listener(yard.parts.conninfo, EVENTS, SEALS)
    await listener.start()
    with damaged(yard.parts.conninfo, key.position):
        running = asyncio.create_task(yard.sealer.run(listener))
        async with asyncio.timeout(20):
            while not (messages := await yard.alarms()):
                await asyncio.sleep(0.02)
        assert messages[0].startswith(f"the log is not sealed any more: {SIGNING_KEY.name} cannot be used")
        assert not running.done()
    async with asyncio.timeout(20):
        while len(await yard.tree.checkpoints_before(None, 10)) < 2 or await yard.alarms():
            await asyncio.sleep(0.02)  # between two looks at what no notification tells
    await cancel_and_wait(running)
    await listener.close()


async def test_private_keys_are_sealed(yard: Yard) -> None:
    await yard.happen(1)
    await yard.seal()
    async with yard.parts.pool.connection() as connection:
        cursor = await connection.execute("SELECT vkey, sealed FROM audit_keys")
        ((vkey, sealed),) = await cursor.fetchall()
    private = base64.b64decode(yard.parts.secrets.unseal(sealed))
    assert len(private) == 32
    assert private not in sealed
    assert VerifierKey.parse(vkey)


async def test_checkpoints_go_to_a_folder(parts: Core, tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "here"
    yard = Yard(parts, CheckpointFolder(folder))
    for _ in range(2):
        await yard.happen(5)
        await yard.seal()
    second, first = await yard.tree.checkpoints_before(None, 10)
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {"checkpoint-000000000006.txt": first.note, "checkpoint-000000000011.txt": second.note}


async def test_a_folder_that_cannot_be_written_stops_nothing(parts: Core, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    yard = Yard(parts, CheckpointFolder(tmp_path / "file"))
    await yard.happen(5)
    await yard.seal()
    assert await yard.tree.checkpoint() is not None


async def test_it_follows_the_log_and_one_leads(parts: Core) -> None:
    async with sealing_processes(parts, 2, max_events=50) as wait_for:
        yard = Yard(parts)
        await yard.happen(60)
        await wait_for(lambda: 61)
        await yard.happen(60)
        await wait_for(lambda: 121)
        assert await yard.tree.root(121) == await yard.root_of_the_log()


@contextlib.asynccontextmanager
async def sealing_processes(
    parts: Core, count: int, max_events: int = CHECKPOINT_EVENTS
) -> AsyncIterator[Callable[[Callable[[], int]], Any]]:
    """Runs that many sealers; yields a function that waits for a checkpoint that covers a position."""
    listener = Listener(parts.conninfo, EVENTS, SEALS)
    await listener.start()
    yards = [Yard(parts) for _ in range(count)]
    for yard in yards:
        yard.sealer.max_events = max_events
    tasks = [asyncio.create_task(yard.sealer.run(listener)) for yard in yards]

    async def wait_for(size: Callable[[], int]) -> None:
        async with asyncio.timeout(15):
            while await yards[0].tree.covering(size()) is None:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.02)

    try:
        yield wait_for
    finally:
        await cancel_and_wait(*tasks)
        await listener.close()


async def test_standbys_wait(parts: Core) -> None:
    yard = Yard(parts)
    async with yard.sealer.hold_lock() as leader:
        assert not leader.closed
        async with await psycopg.AsyncConnection.connect(parts.conninfo, autocommit=True) as other:
            cursor = await other.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (SEALER_LOCK,))
            assert await cursor.fetchone() == (False,)
