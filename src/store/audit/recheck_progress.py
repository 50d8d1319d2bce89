"""Stores how far the sealer has rechecked the audit tree, and asks the sealer for a checkpoint.

A round of checks begins with the first leaf and ends with the last. Then the next round begins.
"""

from datetime import datetime

import msgspec

from store.log.ids import LAST_POSITION
from store.postgres.notifications import SEALS
from store.postgres.queries import Source, execute, fetch_row

SEALER_LOCK = "testhide sealer"
"""Name of the advisory lock that makes one sealer the leader."""


class SealingState(msgspec.Struct, frozen=True):
    leaves_checked: int = 0
    """Number of leaves of the tree that the current round has compared with the log."""
    checkpoints_checked: int = 0
    """Size of the last checkpoint that the current round has compared with the tree. A round compares small checkpoints
    first.
    """
    checked_size: int = 0
    """Number of leaves that the last complete round checked; 0 before the first. A round with a difference is never
    complete.
    """
    checked_at: datetime | None = None
    """Time at which the last complete round ended; None before the first."""


async def fetch_sealing_state(source: Source) -> SealingState:
    row = await fetch_row(source, f"SELECT {', '.join(SealingState.__struct_fields__)} FROM audit_sealing")
    return SealingState() if row is None else SealingState(*row)


async def store_progress(source: Source, leaves: int, checkpoints: int) -> None:
    """Stores how far the current round is: the number of leaves checked, and the size of the last checkpoint
    checked.
    """
    await execute(
        source,
        "INSERT INTO audit_sealing AS s (leaves_checked, checkpoints_checked) VALUES (%s, %s)"
        " ON CONFLICT (id) DO UPDATE SET leaves_checked = excluded.leaves_checked,"
        " checkpoints_checked = excluded.checkpoints_checked",
        (leaves, checkpoints),
    )


async def store_round(source: Source, size: int) -> None:
    """Stores that the current round has checked all of `size` leaves. The next round begins with the first leaf."""
    await execute(
        source,
        "INSERT INTO audit_sealing AS s (checked_size, checked_at) VALUES (%s, now())"
        " ON CONFLICT (id) DO UPDATE SET leaves_checked = 0, checkpoints_checked = 0,"
        " checked_size = excluded.checked_size, checked_at = excluded.checked_at",
        (size,),
    )


async def reset_impossible(source: Source) -> bool:
    """Resets the stored progress of the checks if it says that more positions were checked than were ever allocated,
    which is impossible. The checks then begin again. Returns whether the progress was reset.
    """
    reset = await fetch_row(
        source,
        "UPDATE audit_sealing SET leaves_checked = 0, checkpoints_checked = 0, checked_size = 0, checked_at = NULL"
        f" WHERE checked_size > {LAST_POSITION} RETURNING id",
    )
    return reset is not None


async def request_checkpoint(source: Source) -> bool:
    """Asks the sealer to sign a checkpoint over the whole log. Returns False if there is no sealer now, because none is
    running or because the audit tree is damaged.
    """
    row = await fetch_row(
        source,
        "SELECT NOT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0)), pg_notify(%s, '')",
        (SEALER_LOCK, SEALS),
    )
    return row is not None and bool(row[0])
