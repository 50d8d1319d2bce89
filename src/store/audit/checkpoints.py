"""Stores the Merkle tree of the audit log, its checkpoints and its signing keys. Leaf p - 1 of the tree stands for
position p of the log.
"""

import base64
from collections.abc import Sequence
from datetime import datetime

import msgspec
from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.audit.leaves import GapLeaf, hash_of, leaf_of, row_of
from store.audit.merkle import HASH, TILE, Edge, Range, Subtree, cover, fold, in_tile, tile_subtree
from store.audit.signed_notes import SigningKey, VerifierKey
from store.crypto.secrets import Secrets
from store.log.ids import MAX_GAP
from store.log.selects import select_after
from store.postgres.queries import Source, execute, fetch_row, fetch_rows

ROWS_BYTES = 1024 * 1024
"""Number of bytes of stored rows after which one read of the log ends, so that few rows are in memory at once."""
MAX_POSITION = 2**63 - 1
"""Largest position of an event: the largest number that a column of the type bigint can hold."""
UNKNOWN = bytes(HASH)
"""Value in place of a hash that the stored tiles lack. No real hash equals it, so every comparison with it fails."""


class SealedCheckpoint(msgspec.Struct, frozen=True):
    size: int
    root: bytes
    note: str
    at: datetime


async def load_edge(connection: AsyncConnection, size: int) -> Edge:
    """Loads the right edge that the audit tree had when it had `size` leaves. The edge is the last tile of each level.
    A tile is a row of up to TILE hashes of one level.
    """
    wanted: list[tuple[int, int, int]] = []
    while size:
        n, count = divmod(size, TILE)
        wanted.append((len(wanted), n, count * HASH))
        size = n
    rows = await fetch_rows(
        connection,
        "SELECT level, n, substr(hashes, 1, length) FROM audit_tiles"
        " JOIN unnest(%s::int[], %s::bigint[], %s::int[]) AS wanted(level, n, length) USING (level, n)",
        [list(column) for column in zip(*wanted, strict=True)] or [[], [], []],
    )
    tiles = {(level, n): hashes for level, n, hashes in rows}
    return Edge((level, n, tiles.get((level, n), b"")) for level, n, _ in wanted)


async def next_rows(connection: AsyncConnection, size: int) -> list[tuple[int, StoredEvent | None]]:
    """Returns (position, row) for the positions whose leaves come next in a tree of `size` leaves, up to the end of the
    tile that the next leaf is in. The row is None at a position without an event.

    The list ends early once its rows have ROWS_BYTES, and before a gap of more than MAX_GAP positions. It is empty at
    the end of the log.
    """
    # Rows beyond the end of the log, which somebody else has inserted, count too: they must be noticed.
    rows = await fetch_rows(
        connection, *select_after(size, TILE - size % TILE, up_to=MAX_POSITION, max_bytes=ROWS_BYTES)
    )
    found: list[tuple[int, StoredEvent | None]] = []
    for position, *columns in rows:
        missing = range(size + len(found) + 1, position)
        if len(missing) > MAX_GAP:
            break  # this server leaves no such gap
        # Positions are committed in their order, so a position that is missing now stays without a row.
        found += [(absent, None) for absent in missing]
        found.append((position, row_of(*columns)))
    return found


def leaf_hash_of(position: int, row: StoredEvent | None) -> bytes:
    """Returns the hash of the leaf for a position. `row` is None for a position without a row."""
    return hash_of(GapLeaf(position) if row is None else leaf_of(position, row))


async def compute_root(connection: AsyncConnection, size: int) -> bytes:
    """Returns the root over the first `size` positions, computed from the rows that the log has now."""
    tree = Edge()
    while rows := (await next_rows(connection, tree.size))[: size - tree.size]:
        tree.append(leaf_hash_of(*item) for item in rows)
    return tree.root


async def write_tiles(connection: AsyncConnection, tiles: dict[Subtree, bytes]) -> None:
    await connection.execute(
        "INSERT INTO audit_tiles (level, n, hashes) SELECT * FROM unnest(%s::int[], %s::bigint[], %s::bytea[])"
        " ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes",
        ([level for level, _ in tiles], [n for _, n in tiles], list(tiles.values())),
    )


async def write_checkpoint(connection: AsyncConnection, checkpoint: SealedCheckpoint) -> None:
    await connection.execute(
        "INSERT INTO audit_checkpoints (size, root, note, at) VALUES (%s, %s, %s, %s)",
        msgspec.structs.astuple(checkpoint),
    )


async def keep_key(pool: AsyncConnectionPool, secrets: Secrets, key: SigningKey) -> None:
    sealed = secrets.seal(base64.b64encode(key.private).decode())
    await execute(pool, "INSERT INTO audit_keys (vkey, sealed) VALUES (%s, %s)", (str(key.verifier), sealed))


async def signing_key(connection: AsyncConnection, secrets: Secrets, vkey: str) -> SigningKey:
    """Loads the private key that belongs to the verifier key `vkey`.

    Raises LookupError if this private key is missing, and SecretMismatch if the server cannot decrypt it.
    """
    if (row := await fetch_row(connection, "SELECT sealed FROM audit_keys WHERE vkey = %s", (vkey,))) is not None:
        key = SigningKey(VerifierKey.parse(vkey).name, base64.b64decode(secrets.unseal(row[0])))
        if str(key.verifier) == vkey:
            return key
    raise LookupError(f"the private key of {vkey} is not in the table audit_keys: this server did not make it")


class AuditTree:
    """Reads the stored tree and its checkpoints."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def checkpoint(self, size: int | None = None) -> SealedCheckpoint | None:
        """Returns the checkpoint of this size, or the newest checkpoint if `size` is None. Returns None if there is no
        such checkpoint.
        """
        return next(iter(await self._checkpoints("%(size)s::bigint IS NULL OR size = %(size)s", "DESC", 1, size)), None)

    async def checkpoints_before(self, size: int | None, limit: int) -> list[SealedCheckpoint]:
        """Returns up to `limit` checkpoints smaller than `size`, newest first. If `size` is None, begins with the
        newest checkpoint.
        """
        return await self._checkpoints("%(size)s::bigint IS NULL OR size < %(size)s", "DESC", limit, size)

    async def checkpoint_up_to(self, size: int) -> SealedCheckpoint | None:
        """Returns the newest checkpoint whose size is at most `size`; None when there is none."""
        return next(iter(await self._checkpoints("size <= %(size)s", "DESC", 1, size)), None)

    async def checkpoints_after(self, size: int, limit: int) -> list[SealedCheckpoint]:
        """Returns up to `limit` checkpoints larger than `size`, smallest first."""
        return await self._checkpoints("size > %(size)s", "ASC", limit, size)

    async def covering(self, position: int) -> SealedCheckpoint | None:
        """Returns the smallest checkpoint that covers a position. Returns None if no checkpoint covers the position
        yet.
        """
        return next(iter(await self._checkpoints("size >= %(size)s", "ASC", 1, position)), None)

    async def hashes(self, subtrees: Sequence[Subtree]) -> list[bytes]:
        """Returns the hash of each complete subtree, in the given order; UNKNOWN if the stored tiles lack the hash."""
        located = [in_tile(subtree) for subtree in subtrees]
        wanted = {tile for tile, _, _ in located}
        rows = await fetch_rows(
            self._source,
            "SELECT level, n, hashes FROM audit_tiles"
            " JOIN unnest(%s::int[], %s::bigint[]) AS wanted(level, n) USING (level, n)",
            ([level for level, _ in wanted], [n for _, n in wanted]),
        )
        tiles = {(level, n): hashes for level, n, hashes in rows}
        return [_subtree(tiles.get(tile, b""), above, offset) for tile, above, offset in located]

    async def folded(self, ranges: Sequence[Range]) -> list[bytes]:
        """Returns the hash of each range of leaves, in the given order. Proofs are lists of these hashes."""
        covers = [cover(first, end) for first, end in ranges]
        hashes = iter(await self.hashes([subtree for subtrees in covers for subtree in subtrees]))
        return [fold([next(hashes) for _ in subtrees]) for subtrees in covers]

    async def root(self, size: int) -> bytes:
        return (await self.folded([(0, size)]))[0]

    async def leaves(self, positions: Sequence[int]) -> list[bytes]:
        return await self.hashes([(0, position - 1) for position in positions])

    async def row(self, position: int) -> StoredEvent | None:
        """Returns the row that the log has at a position now; None if there is no row."""
        query = "SELECT originator_id, originator_version, topic, state FROM stored_events WHERE notification_id = %s"
        row = await fetch_row(self._source, query, (position,))
        return None if row is None else row_of(*row)

    async def _checkpoints(self, condition: str, order: str, limit: int, size: int | None) -> list[SealedCheckpoint]:
        query = (
            f"SELECT size, root, note, at FROM audit_checkpoints WHERE {condition} ORDER BY size {order} LIMIT {limit}"
        )
        return [SealedCheckpoint(*row) for row in await fetch_rows(self._source, query, {"size": size})]


def _subtree(tile: bytes, above: int, offset: int) -> bytes:
    return tile_subtree(tile, above, offset) if len(tile) >= (offset + (1 << above)) * HASH else UNKNOWN
