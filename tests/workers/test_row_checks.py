"""Rows that this server did not write, or not so, are not sealed: until they are put back, or accepted as they are."""

import pytest

from store.audit.recheck import TreeDamaged
from store.log.ids import use_positions
from testhide.processes import Core
from tests.workers.test_sealing import Yard

BY_HAND = (
    "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
    " VALUES ('claim-x', 1, 'claim.taken', '')"
)


@pytest.fixture
async def yard(parts: Core) -> Yard:
    return Yard(parts)


@pytest.mark.parametrize("state", ["''", "'\\x90'", "NULL", "'\\x9a0000'"])
async def test_rows_that_are_no_events_are_sealed_as_they_are_once_they_are_accepted(yard: Yard, state: str) -> None:
    await yard.happen(3)
    await yard.seal()
    await yard.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
        f" VALUES ('claim-x', 1, 'claim.taken', {state})"
    )
    await yard.happen(1)
    with pytest.raises(TreeDamaged, match="the row at position 5 is not one that this server wrote"):
        await yard.seal()
    await yard.accept(5)
    await yard.seal()
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.size, checkpoint.root) == (7, await yard.root_of_the_log())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE stored_events SET state = set_byte(state, 12, get_byte(state, 12) # 1) WHERE notification_id = 6",
        "UPDATE stored_events SET state = set_byte(state, length(state) - 1, 0) WHERE notification_id = 6",
        "UPDATE stored_events SET originator_id = 'claim-x' WHERE notification_id = 6",
        "UPDATE stored_events SET originator_version = 2 WHERE notification_id = 6",
        "UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 6",
        "UPDATE stored_events SET state = '\\x9a' || substr(state, 2, length(state) - 19) WHERE notification_id = 6",
    ],
)
async def test_a_row_that_was_changed_before_it_was_sealed(yard: Yard, change: str) -> None:
    """The log is sealed up to it, and goes on by itself once the row is as it was written."""
    await yard.happen(3)
    await yard.seal()
    await yard.happen(5)
    await yard.execute("CREATE TABLE kept AS TABLE stored_events")
    await yard.execute(change)
    for _ in range(2):
        with pytest.raises(TreeDamaged, match="the row at position 6 is not one that this server wrote"):
            await yard.seal()
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert checkpoint.size == 5
    await yard.execute("DELETE FROM stored_events WHERE notification_id = 6")
    await yard.execute("INSERT INTO stored_events SELECT * FROM kept WHERE notification_id = 6")
    await yard.seal()
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.size, checkpoint.root) == (9, await yard.root_of_the_log())


async def test_only_the_row_that_was_accepted_is_sealed(yard: Yard) -> None:
    await yard.happen(3)
    await yard.seal()
    await yard.execute(BY_HAND)
    await yard.accept(5)
    await yard.execute("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 5")
    with pytest.raises(TreeDamaged, match="position 5 "):
        await yard.seal()


async def test_an_acceptance_that_this_server_did_not_write_counts_for_nothing(yard: Yard) -> None:
    await yard.happen(3)
    await yard.seal()
    await yard.execute(BY_HAND)
    await yard.accept(5)
    await yard.execute(
        "UPDATE stored_events SET state = set_byte(state, length(state) - 1, 0) WHERE originator_id = 'rows-log'"
    )
    with pytest.raises(TreeDamaged, match="position 5 "):
        await yard.seal()


async def test_a_log_that_an_older_release_began_requires_macs_from_now_on(yard: Yard) -> None:
    without_mac = "UPDATE stored_events SET state = '\\x9a' || substr(state, 2, length(state) - 19)"
    await yard.happen(3)
    await yard.execute(without_mac)
    await yard.seal()
    await yard.happen(2)
    await yard.execute(f"{without_mac} WHERE notification_id > 5")  # by a process of the older release
    await yard.seal()
    for _ in range(400):
        yard.sealer.clock()
    await yard.happen(2)
    await yard.seal()
    await yard.happen(1)
    await yard.execute(f"{without_mac} WHERE notification_id > 9")
    with pytest.raises(TreeDamaged, match="position 10 is not one that this server wrote"):
        await yard.seal()


async def test_a_row_far_behind_the_end_is_accepted_and_the_log_goes_on_behind_it(yard: Yard) -> None:
    """Until then, the server's own events come before it: nobody seals these positions, or reads beyond them."""
    log = yard.parts.log
    await yard.happen(3)
    await yard.seal()
    await yard.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)"
        " VALUES ('claim-x', 1, 'claim.taken', '', 100)"
    )
    for size in (4, 6):
        with pytest.raises(TreeDamaged, match="the row at position 100 is not one that this server wrote"):
            await yard.seal()
        checkpoint = await yard.tree.checkpoint()
        assert checkpoint is not None
        assert checkpoint.size == await log.read_head() == (await log.read_batch(0, 500)).position == size
        await yard.happen(2)
    assert await use_positions(yard.parts.pool, 100)
    assert not await use_positions(yard.parts.pool, 100)
    await yard.accept(100)
    await yard.happen(1)
    await yard.seal()
    checkpoint = await yard.tree.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.size, checkpoint.root) == (102, await yard.root_of_the_log())
    assert [item.position for item in await log.read(4, 500)] == [5, 6, 7, 8, 100, 101, 102]


async def test_a_sequence_of_positions_that_was_set_back(yard: Yard) -> None:
    await yard.happen(3)
    await yard.seal()
    await yard.execute("SELECT setval('stored_events_notification_id_seq', 2)")
    with pytest.raises(TreeDamaged, match="the sequence of positions is at 2, but the log has position 4"):
        await yard.seal()
    assert await use_positions(yard.parts.pool, 4)
    await yard.happen(1)
    await yard.seal()
