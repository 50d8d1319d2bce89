"""Stores how far the sealer has checked the audit tree again. Asks the sealer for a checkpoint."""

from datetime import datetime

import msgspec

from store.postgres.notifications import SEALS
from store.postgres.queries import Source, execute, fetch_row

SEALER_LOCK = "testhide sealer"
"""Name of the advisory lock that makes one sealer the leader."""


class SealingState(msgspec.Struct, frozen=True):
    leaves_checked: int = 0
    """Leaves of the tree that this round has compared with the log."""
    checkpoints_checked: int = 0
    """Size of the last checkpoint that this round has compared with the tree."""
    checked_size: int = 0
    """Size of the tree when a round last ended. That round found no difference."""
    checked_at: datetime | None = None
    """Time when a round last ended."""


async def fetch_sealing_state(source: Source) -> SealingState:
    row = await fetch_row(source, f"SELECT {', '.join(SealingState.__struct_fields__)} FROM audit_sealing")
    return SealingState() if row is None else SealingState(*row)


async def store_progress(source: Source, leaves: int, checkpoints: int) -> None:
    """Records how far the current round has come."""
    await execute(
        source,
        "INSERT INTO audit_sealing AS s (leaves_checked, checkpoints_checked) VALUES (%s, %s)"
        " ON CONFLICT (id) DO UPDATE SET leaves_checked = excluded.leaves_checked,"
        " checkpoints_checked = excluded.checkpoints_checked",
        (leaves, checkpoints),
    )


async def store_round(source: Source, size: int) -> None:
    """Records that a round over `size` leaves has ended. The next round begins with the first leaf."""
    await execute(
        source,
        "INSERT INTO audit_sealing AS s (checked_size, checked_at) VALUES (%s, now())"
        " ON CONFLICT (id) DO UPDATE SET leaves_checked = 0, checkpoints_checked = 0,"
        " checked_size = excluded.checked_size, checked_at = excluded.checked_at",
        (size,),
    )


async def request_checkpoint(source: Source) -> bool:
    """Asks the sealer for a checkpoint over the whole log. Returns False when no sealer leads or it found damage."""
    row = await fetch_row(
        source,
        "SELECT NOT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0)), pg_notify(%s, '')",
        (SEALER_LOCK, SEALS),
    )
    return row is not None and bool(row[0])
