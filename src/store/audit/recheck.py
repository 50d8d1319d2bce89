"""Checks the log, the audit tree and its checkpoints again after they were sealed, one part at a time.

Compares each row with its leaf, the leaves with the tree, and each checkpoint with the tree, its signature and the
previous checkpoint. Each data key must exist and decrypt, unless a deletion in the log destroyed the key.
"""

from collections.abc import Callable, Collection, Sequence

from psycopg_pool import AsyncConnectionPool

from domain.core.data_keys import lineage
from store.audit.checkpoints import ROWS_BYTES, AuditTree, SealedCheckpoint
from store.audit.erasures import ERASING
from store.audit.leaves import MAPPER, GapLeaf, hash_of, leaf_of, row_of
from store.audit.merkle import TILE, TILE_LEVELS, complete_subtree_root
from store.audit.recheck_progress import fetch_sealing_state, store_progress, store_round
from store.audit.signed_notes import BadNote, Checkpoint, VerifierKey, note_hash, open_note
from store.log.event_log import EventLog
from store.log.ids import fetch_last_position
from store.log.selects import select_after
from store.postgres.queries import fetch_rows

TILES_AT_ONCE = 10
"""Largest number of tiles, of 256 leaves each, that one call of `check_next` checks. They take some 50 ms. With a call
every 10 s, 900,000 events an hour are checked.
"""
CHECKPOINTS_AT_ONCE = 20
"""Largest number of checkpoints that one call of `check_next` checks. It is larger than the number of checkpoints that
are signed between two calls, so the checks reach the newest checkpoint.
"""
MAX_NAMED = 10
"""Largest number of positions that an error message names."""

RESTORE_TREE = "the tables audit_tiles or audit_checkpoints were changed: restore them from a backup"
RESTORE_LOG = "the table stored_events was changed: restore its rows from a backup by `testhide audit put-back`"
DESTROY_KEY = (
    "somebody put back what a deletion erased; destroy it once more by UPDATE stored_events_keys SET wrapped = NULL"
    " WHERE name = '{name}'"
)
RESTORE_KEYS = "restore it in the table stored_events_keys from a backup, or delete what it was for"

KeyAt = Callable[[int], VerifierKey]
"""Function of a tree's size. It returns the key that must have signed the next checkpoint after this size."""


class TreeDamaged(Exception):
    """The log, its audit tree or a checkpoint differs from what was signed. Until the damage is repaired, the sealer
    appends no more leaves.
    """


class Recheck:
    def __init__(self, pool: AsyncConnectionPool, event_log: EventLog) -> None:
        self._pool = pool
        self._log = event_log
        self._tree = AuditTree(pool)

    async def check_next(self, size: int, key_at: KeyAt) -> None:
        """Checks the next leaves of a tree of `size` leaves, and the next checkpoints of this tree. Raises TreeDamaged
        if something differs from what was signed.

        Stores how far the checks have come, so that any process can continue. After TreeDamaged the next call checks
        the same part again.
        """
        state = await fetch_sealing_state(self._pool)
        if state.checked_size > await fetch_last_position(self._pool):
            raise TreeDamaged(
                f"audit_sealing says that {state.checked_size} positions had been sealed, which is more than were ever"
                " used: somebody changed this table, or removed the end of the log and set back the sequence of its"
                " positions; compare the log with a checkpoint that was kept elsewhere, then run `testhide repair`"
            )
        if state.checked_size > size:
            raise TreeDamaged(
                f"the newest checkpoint covers {size} positions, but {state.checked_size} had been sealed: the end of"
                f" the log or of its checkpoints was removed; {RESTORE_LOG}"
            )
        # A number beyond the tree is from somebody who changed it by hand: this round of checks begins again.
        is_possible = 0 <= state.leaves_checked <= size and 0 <= state.checkpoints_checked <= size
        leaves, checkpoints = (state.leaves_checked, state.checkpoints_checked) if is_possible else (0, 0)
        if leaves == 0:
            await self._check_begin()
        for _ in range(TILES_AT_ONCE):
            if leaves < size:
                leaves = await self._check_tile(leaves // TILE, size)
        checkpoints = await self._check_checkpoints(checkpoints, size, key_at)
        if leaves >= size and checkpoints >= size:
            await store_round(self._pool, size)
        else:
            await store_progress(self._pool, leaves, checkpoints)

    async def _check_begin(self) -> None:
        rows = await fetch_rows(
            self._pool, "SELECT notification_id FROM stored_events WHERE notification_id < 1 LIMIT 1"
        )
        if rows:
            raise TreeDamaged(f"a row was inserted at position {rows[0][0]}, before the first; {RESTORE_LOG}")

    async def _check_tile(self, n: int, size: int) -> int:
        """Checks the leaves of tile `n` whose index is below `size`. Returns the index after the last checked leaf."""
        first, end = n * TILE, min((n + 1) * TILE, size)
        stored: dict[int, bytes] = {}
        key_names: set[str] = set()
        at = first
        while at < end and (
            rows := await fetch_rows(self._pool, *select_after(at, TILE, up_to=end, max_bytes=ROWS_BYTES))
        ):
            for at, *columns in rows:
                row = row_of(*columns)
                stored[at] = hash_of(leaf_of(at, row))
                if (name := MAPPER.key_name(row.state)) is not None:
                    key_names.add(name)
        positions = range(first + 1, end + 1)
        sealed = await self._tree.leaves(positions)
        changed = [
            position
            for position, leaf in zip(positions, sealed, strict=True)
            if leaf != (stored.get(position) or hash_of(GapLeaf(position)))
        ]
        if changed:
            raise TreeDamaged(f"{_describe(changed)} not what was sealed there; {RESTORE_LOG}")
        if end == first + TILE:
            await self._check_above(n, sealed)
        await self._check_keys(key_names)
        return end

    async def _check_keys(self, names: Collection[str]) -> None:
        """Checks the data keys with these names. A key that a deletion in the log has destroyed must not exist any
        more. Any other key must exist and decrypt. Raises TreeDamaged for the first key for which this is not so.
        """
        keys, faults = await self._log.data_keys.load_with_faults(names)
        if faults:
            name, fault = next(iter(faults.items()))
            raise TreeDamaged(f"the data key {name} {fault}: {RESTORE_KEYS}")
        # The last part of a key's name is the stream whose deletion destroys it.
        stream_of = {above: above.rpartition("/")[2] for name in keys for above in lineage(name)}
        rows = await fetch_rows(
            self._pool,
            "SELECT originator_id, notification_id FROM stored_events WHERE originator_id = ANY (%s)"
            " AND topic = ANY (%s) ORDER BY notification_id",
            (list(stream_of.values()), list(ERASING)),
        )
        deleted: dict[str, int] = dict(rows)
        for name, key in keys.items():
            if key is None and not any(stream_of[above] in deleted for above in lineage(name)):
                raise TreeDamaged(f"the data key {name} was destroyed, but no event deletes it: {RESTORE_KEYS}")
        # Read after the deletions, since a deletion destroys the key in its transaction.
        rows = await fetch_rows(
            self._pool,
            "SELECT name FROM stored_events_keys WHERE name = ANY (%s) AND wrapped IS NOT NULL ORDER BY name",
            ([name for name, stream in stream_of.items() if stream in deleted],),
        )
        for (name,) in rows:
            raise TreeDamaged(
                f"the data key {name} was destroyed at position {deleted[stream_of[name]]}, and is there again:"
                f" {DESTROY_KEY.format(name=name)}"
            )

    async def _check_above(self, n: int, hashes: Sequence[bytes]) -> None:
        """Checks that the tile above the full tile `n` contains the root of tile `n`. `hashes` are the hashes in tile
        `n`. If the tile above is full, too, checks the tile above that one in the same way, and so on.
        """
        level = TILE_LEVELS
        while True:
            (above,) = await self._tree.hashes([(level, n)])
            if above != complete_subtree_root(hashes):
                leaves = 1 << level
                raise TreeDamaged(
                    f"the tree over positions {n * leaves + 1} to {(n + 1) * leaves} is not that of its leaves;"
                    f" {RESTORE_TREE}"
                )
            n, last = divmod(n, TILE)
            if last != TILE - 1:
                return
            hashes = await self._tree.hashes([(level, n * TILE + index) for index in range(TILE)])
            level += TILE_LEVELS

    async def _check_checkpoints(self, after: int, size: int, key_at: KeyAt) -> int:
        """Checks the next checkpoints with more than `after` and at most `size` leaves. Returns the size of the last
        checkpoint that has been checked; 0 if there is none.
        """
        before = await self._tree.checkpoint_up_to(after)
        if after and (before is None or before.size != after):
            raise TreeDamaged(f"the checkpoint of size {after} is gone; {RESTORE_TREE}")
        for checkpoint in await self._tree.checkpoints_after(after, CHECKPOINTS_AT_ONCE):
            if checkpoint.size <= size:
                await self._check_checkpoint(checkpoint, before, key_at)
                before = checkpoint
        return before.size if before else 0

    async def _check_checkpoint(
        self, checkpoint: SealedCheckpoint, before: SealedCheckpoint | None, key_at: KeyAt
    ) -> None:
        name = f"the checkpoint of size {checkpoint.size}"
        try:
            signed = Checkpoint.parse(open_note(checkpoint.note, [key_at(before.size if before else 0)]))
        except BadNote as error:
            raise TreeDamaged(f"{name} is not one of this log ({error}); {RESTORE_TREE}") from None
        if signed.previous != (note_hash(before.note) if before else None):
            raise TreeDamaged(f"{name} does not follow the stored one before it; {RESTORE_TREE}")
        if signed.size != checkpoint.size or not (
            signed.root == checkpoint.root == await self._tree.root(checkpoint.size)
        ):
            raise TreeDamaged(
                f"the tree no longer has the root that was signed at position {signed.size}; {RESTORE_TREE}"
            )


def _describe(positions: Sequence[int]) -> str:
    named = ", ".join(map(str, positions[:MAX_NAMED]))
    if len(positions) == 1:
        return f"the row at position {named} is"
    more = f" and {len(positions) - MAX_NAMED} more" if len(positions) > MAX_NAMED else ""
    return f"the rows at positions {named}{more} are"
