"""The folder of checkpoints knows the log: the sealer signs nothing on top of a log that is another one."""

from pathlib import Path

import psycopg
import pytest

from integrations.checkpoints import CheckpointFolder
from store.audit.recheck import TreeDamaged
from store.audit.signed_notes import Checkpoint, SigningKey
from testhide.processes import Core
from tests.support.tampering import hide_in_the_tree
from tests.workers.test_sealing import NOW, Yard


async def test_a_folder_that_is_ahead_of_the_log_stops_the_sealer_until_its_checkpoints_are_moved_away(
    parts: Core, tmp_path: Path
) -> None:
    yard = Yard(parts, CheckpointFolder(tmp_path))
    await yard.sealer.compare_with_folder()
    for _ in range(2):
        await yard.happen(5)
        await yard.seal()
        await yard.sealer.compare_with_folder()
    # As a backup from between the two restores it.
    await yard.execute("DELETE FROM audit_checkpoints WHERE size = 11")
    with pytest.raises(TreeDamaged, match="ahead of the log: it has a checkpoint at 11, and the newest of the log is"):
        await yard.sealer.compare_with_folder()
    (tmp_path / "checkpoint-000000000011.txt").rename(tmp_path / "lost.txt")
    await yard.sealer.compare_with_folder()


async def test_a_folder_with_checkpoints_of_another_log_stops_the_sealer(parts: Core, tmp_path: Path) -> None:
    yard = Yard(parts, CheckpointFolder(tmp_path))
    await yard.happen(5)
    await yard.seal()
    await yard.execute("UPDATE stored_events SET topic = 'claim.released' WHERE notification_id = 3")
    with psycopg.connect(parts.conninfo, autocommit=True) as connection:
        hide_in_the_tree(connection)
    with pytest.raises(TreeDamaged, match="the log is not the one of the checkpoint at 6"):
        await yard.sealer.compare_with_folder()
    CheckpointFolder(tmp_path).publish(
        7, SigningKey.new("another").sign(Checkpoint("another", 7, bytes(32), NOW, None).text)
    )
    with pytest.raises(TreeDamaged, match=r"the newest checkpoint in .* is not one of this log"):
        await yard.sealer.compare_with_folder()


async def test_an_end_of_the_log_that_is_cut_off_while_the_sealer_runs(parts: Core, tmp_path: Path) -> None:
    """The rest fits together, and only the folder knows better."""
    yard = Yard(parts, CheckpointFolder(tmp_path))
    for _ in range(2):
        await yard.happen(5)
        await yard.seal()
    await yard.execute("DELETE FROM stored_events WHERE notification_id > 6")
    await yard.execute("DELETE FROM audit_checkpoints WHERE size > 6")
    await yard.execute("DELETE FROM audit_sealing")
    await yard.happen(9)
    with pytest.raises(TreeDamaged, match="ahead of the log: it has a checkpoint at 11, and the newest of the log is"):
        await yard.seal()
    newest = await yard.tree.checkpoint()
    assert newest is not None
    assert newest.size == 6
