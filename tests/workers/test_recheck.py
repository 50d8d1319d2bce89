"""The sealer checks in turn what was sealed long ago, and says what differs."""

from typing import Any

import pytest
from psycopg import AsyncConnection

from domain.builds import BuildDeleted, BuildQueued
from domain.core.events import EventMetadata
from store.audit.leaves import hash_of, leaf_of
from store.audit.put_back import NotPutBack, put_rows_back
from store.audit.recheck import TreeDamaged
from store.audit.recheck_progress import SealingState, fetch_sealing_state
from store.log.event_log import Write
from testhide.cli.backup import describe_repaired
from testhide.processes import Core
from testhide.repair import repair
from testhide.settings import Settings
from tests.workers.test_sealing import NOW, Yard


@pytest.fixture
async def yard(parts: Core) -> Yard:
    """Three checkpoints, of the sizes 301, 601 and 901."""
    yard = Yard(parts)
    for _ in range(3):
        await yard.happen(300)
        await yard.seal()
    return yard


async def state(yard: Yard) -> SealingState:
    return await fetch_sealing_state(yard.parts.pool)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 7",
            "the row at position 7 is not what was sealed there; the table stored_events was changed: restore",
        ),
        (
            "DELETE FROM stored_events WHERE notification_id BETWEEN 20 AND 31",
            "the rows at positions 20, 21, 22, 23, 24, 25, 26, 27, 28, 29 and 2 more are not what was sealed there",
        ),
        (
            "INSERT INTO stored_events VALUES ('claim-x', 1, 'claim.taken', '', -4)",
            "a row was inserted at position -4, before the first",
        ),
        (
            "UPDATE audit_tiles SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1) WHERE (level, n) = (0, 1)",
            "the row at position 258 is not what was sealed there",
        ),
        ("DELETE FROM audit_tiles WHERE (level, n) = (0, 0)", "the rows at positions 1, 2, 3, "),
        ("DELETE FROM audit_checkpoints WHERE size = 301", "the checkpoint of size 601 does not follow"),
        ("DELETE FROM audit_checkpoints WHERE size = 601", "the checkpoint of size 901 does not follow"),
        (
            "UPDATE audit_checkpoints SET note = replace(note, 'time 2026', 'time 2025') WHERE size = 301",
            "the checkpoint of size 301 is not one of this log",
        ),
        (
            "UPDATE audit_checkpoints SET root = set_byte(root, 0, get_byte(root, 0) # 1) WHERE size = 601",
            "the tree no longer has the root that was signed at position 601",
        ),
        (
            "UPDATE audit_checkpoints SET (size, root) = (602, root) WHERE size = 601",
            "the tree no longer has the root that was signed at position 601",
        ),
    ],
)
async def test_what_was_sealed_long_ago_is_checked(yard: Yard, change: str, says: str) -> None:
    await yard.execute(change)
    await yard.happen(1)
    with pytest.raises(TreeDamaged) as damage:
        await yard.seal()
    assert says in str(damage.value)
    newest = await yard.tree.checkpoint()
    assert newest is not None
    assert newest.size == 901, "nothing is sealed on top of it"


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit_checkpoints WHERE size > 301",
        "DELETE FROM audit_checkpoints",
        "WITH gone AS (DELETE FROM audit_checkpoints), tiles AS (DELETE FROM audit_tiles)"
        " DELETE FROM stored_events WHERE notification_id > 400",
    ],
)
async def test_an_end_that_was_removed(yard: Yard, change: str) -> None:
    """The rest fits together, and would be sealed anew."""
    await yard.execute(change)
    with pytest.raises(TreeDamaged, match="but 601 had been sealed: the end of the log or"):
        await yard.seal()


@pytest.mark.parametrize("change", ["leaves_checked = -5", "leaves_checked = 9999999", "checkpoints_checked = 9999999"])
async def test_an_impossible_progress_begins_the_round_again(yard: Yard, change: str) -> None:
    await yard.execute(f"UPDATE audit_sealing SET {change}")
    await yard.happen(1)
    await yard.seal()
    assert (await state(yard)).checked_size == 901


async def test_more_was_sealed_than_there_ever_was(yard: Yard) -> None:
    await yard.execute("UPDATE audit_sealing SET checked_size = 9999999")
    with pytest.raises(TreeDamaged, match=r"audit_sealing says that 9999999 positions had been sealed.*repair"):
        await yard.seal()
    settings = Settings(database_url=yard.parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir="")
    assert "audit_sealing" in "".join(describe_repaired(await repair(settings)))
    assert not (await repair(settings)).is_sealing_reset
    await yard.happen(1)
    await yard.seal()
    assert (await state(yard)).checked_size == 901


async def test_data_keys_are_checked(yard: Yard) -> None:
    parts, key = yard.parts, "project-1/job-2/build-3"
    ids: dict[str, Any] = {"build_id": 3, "job_id": 2, "project_id": 1}
    queued, deleted = BuildQueued(**ids, branch="main"), BuildDeleted(**ids)
    await parts.log.append([Write(1, queued)], EventMetadata(NOW, "user:1"))
    await yard.seal()
    await yard.seal()
    for change, says in (
        (f"UPDATE stored_events_keys SET name = 'x' WHERE name = '{key}'", f"the data key {key} is missing"),
        ("UPDATE stored_events_keys SET wrapped = '\\x00'", f"the data key {key} does not open"),
        ("UPDATE stored_events_keys SET wrapped = NULL", f"the data key {key} was destroyed, but no event deletes it"),
    ):
        await yard.execute("CREATE TABLE kept AS TABLE stored_events_keys")
        await yard.execute(change)
        parts.log.data_keys.clear_cache()
        with pytest.raises(TreeDamaged, match=says):
            await yard.seal()
        await yard.execute("TRUNCATE stored_events_keys")
        await yard.execute("INSERT INTO stored_events_keys TABLE kept")
        await yard.execute("DROP TABLE kept")
    await yard.execute("CREATE TABLE kept AS TABLE stored_events_keys")
    await parts.log.append([Write(2, deleted)], EventMetadata(NOW, "user:1"))
    parts.log.data_keys.clear_cache()
    await yard.seal()
    await yard.execute("UPDATE stored_events_keys k SET wrapped = kept.wrapped FROM kept WHERE kept.name = k.name")
    with pytest.raises(TreeDamaged, match=f"the data key {key} was destroyed at position 903, and is there again"):
        await yard.seal()


@pytest.mark.parametrize(
    ("change", "first", "last"),
    [
        ("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 7", 7, 7),
        ("DELETE FROM stored_events WHERE notification_id BETWEEN 20 AND 31", 1, 300),
        (
            "DELETE FROM stored_events WHERE notification_id = 7;"
            " UPDATE stored_events SET notification_id = 7 WHERE notification_id = 6",
            6,
            7,
        ),
    ],
)
async def test_rows_are_put_back_as_they_were(yard: Yard, change: str, first: int, last: int) -> None:
    pool, secrets = yard.parts.pool, yard.parts.secrets
    await yard.execute("DROP SCHEMA IF EXISTS kept CASCADE; CREATE SCHEMA kept")
    await yard.execute("CREATE TABLE kept.stored_events AS TABLE stored_events")
    await yard.execute(change)
    async with await AsyncConnection.connect(yard.parts.conninfo, autocommit=True) as other:
        await other.execute("SET search_path = kept")
        with pytest.raises(TreeDamaged):
            await yard.seal()
        await other.execute("UPDATE stored_events SET topic = 'claim.lost' WHERE notification_id = 400")
        await put_rows_back(pool, secrets, other, range(first, last + 1))
        await yard.seal()
        await yard.execute("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 400")
        with pytest.raises(NotPutBack, match="position 400 of the other database is not the one"):
            await put_rows_back(pool, secrets, other, range(399, 402))


async def test_leaves_and_tree_that_fit_each_other_but_not_the_tiles_above(yard: Yard) -> None:
    """The newest root needs neither the leaves nor the rows of a full tile."""
    await yard.execute("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 7")
    await yard.execute(
        "UPDATE audit_tiles SET hashes = overlay(hashes PLACING"
        f" '\\x{(await leaf_at(yard, 7)).hex()}'::bytea FROM 193 FOR 32) WHERE (level, n) = (0, 0)"
    )
    with pytest.raises(TreeDamaged, match="the tree over positions 1 to 256 is not that of its leaves"):
        await yard.seal()


async def leaf_at(yard: Yard, position: int) -> bytes:
    row = await yard.tree.row(position)
    assert row is not None
    return hash_of(leaf_of(position, row))


async def test_a_long_log_is_checked_in_parts_by_whichever_process_leads(yard: Yard) -> None:
    await yard.happen(2_600)
    await yard.seal()  # which checks what was sealed before
    assert (await state(yard)).leaves_checked == 0
    await yard.execute("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 3400")
    await yard.seal()
    first = await state(yard)
    assert (first.leaves_checked, first.checkpoints_checked) == (2_560, 3_501)
    other = Yard(yard.parts)
    with pytest.raises(TreeDamaged, match="position 3400 "):
        await other.seal()
    assert await state(yard) == first
    await yard.execute("UPDATE stored_events SET topic = 'claim.taken' WHERE notification_id = 3400")
    await other.seal()
    last = await state(yard)
    assert (last.leaves_checked, last.checkpoints_checked) == (0, 0)
    assert first.checked_at is not None
    assert last.checked_at is not None
    assert last.checked_at > first.checked_at
