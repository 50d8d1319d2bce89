"""A Merkle tree over a list of hashes, by RFC 6962 (section 2.1). Does no I/O; hashes have 32 bytes.

Only the hashes of complete subtrees are stored. The hash of any range of leaves can be computed from the complete
subtrees that cover it.

The hashes are stored in tiles of 256. The hashes in a tile of level l are of subtrees with 256^l leaves each. Tile n of
a level has the hashes of the subtrees 256 n to 256 n + 255.

A proof consists of the hashes of some ranges. `inclusion` and `consistency` return these ranges.
"""

import hashlib
from collections.abc import Iterable, Sequence

HASH = 32
TILE = 256
TILE_LEVELS = 8
"""Levels of the tree that one tile spans: 256 is 2^8."""

Subtree = tuple[int, int]
"""(level, index): the complete subtree over the 2^level leaves from leaf index * 2^level on."""
Range = tuple[int, int]
"""A range of leaves: the index of the first, and the index after the last."""


class BadProof(Exception):
    """The given hashes do not fit the tree: their number is wrong, or a subtree begins at a wrong leaf."""


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


EMPTY = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


def cover(first: int, end: int) -> list[Subtree]:
    """Splits the range of leaves from `first` to `end` (exclusive) into the fewest complete subtrees, from left to
    right.
    """
    found: list[Subtree] = []
    while first < end:
        level = (end - first).bit_length() - 1
        if first:
            level = min(level, (first & -first).bit_length() - 1)
        found.append((level, first >> level))
        first += 1 << level
    return found


def fold(hashes: Sequence[bytes]) -> bytes:
    """Combines the hashes of adjacent subtrees into one hash. Each subtree must be smaller than its left neighbour."""
    if not hashes:
        return EMPTY
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


def complete_subtree_root(hashes: Sequence[bytes]) -> bytes:
    """Returns the root of the complete subtree over `hashes`. Their number must be a power of two."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[n], row[n + 1]) for n in range(0, len(row), 2)]
    return row[0]


class Frontier:
    """A tree that grows to the right. Stores only the roots of its complete subtrees, so it needs O(log n) memory."""

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    def append(self, added: bytes, level: int = 0) -> None:
        """Appends a complete subtree with 2^level leaves. `added` is the root of this subtree; at level 0, the hash of
        a leaf.

        Raises BadProof when the tree's size is not a multiple of 2^level.
        """
        leaves = 1 << level
        if self.size % leaves:
            raise BadProof(f"a subtree of {leaves} leaves cannot stand behind {self.size}")
        grown = self.size + leaves
        while self.size >> level & 1:
            added = node_hash(self._hashes.pop(), added)
            level += 1
        self._hashes.append(added)
        self.size = grown

    def extend(self, end: int, hashes: Sequence[bytes]) -> None:
        """Appends leaves until the tree has `end` leaves. `hashes` are the roots of the subtrees that cover the new
        leaves.

        Raises BadProof for a wrong number of hashes.
        """
        subtrees = cover(self.size, end)
        if len(subtrees) != len(hashes):
            raise BadProof(f"positions {self.size + 1} to {end} take {len(subtrees)} hashes, not {len(hashes)}")
        for (level, _), added in zip(subtrees, hashes, strict=True):
            self.append(added, level)

    @property
    def root(self) -> bytes:
        return fold(self._hashes)


class Edge:
    """The right edge of a growing tree: for each level, only the tile that is not full yet."""

    def __init__(self, last_tiles: Iterable[tuple[int, int, bytes]] = ()) -> None:
        """Begins with stored tiles: (level, number of the tile, hashes) for the last tile of each level."""
        self._tiles: list[tuple[int, bytearray]] = []
        for level, n, hashes in sorted(last_tiles):
            assert level == len(self._tiles), "the levels of a tree have no holes"
            full = len(hashes) == TILE * HASH
            self._tiles.append((n + 1, bytearray()) if full else (n, bytearray(hashes)))

    @property
    def size(self) -> int:
        if not self._tiles:
            return 0
        n, hashes = self._tiles[0]
        return n * TILE + len(hashes) // HASH

    def append(self, hashes: Iterable[bytes]) -> dict[Subtree, bytes]:
        """Appends the hashes of leaves. Returns the tiles that changed, by level and number. Forgets the tiles that are
        full now.
        """
        changed: dict[Subtree, bytes] = {}
        for added in hashes:
            self._add(0, added, changed)
        for level, (n, unfinished) in enumerate(self._tiles):
            if unfinished:
                changed[level, n] = bytes(unfinished)
        return changed

    @property
    def root(self) -> bytes:
        subtrees: list[bytes] = []
        for _, unfinished in reversed(self._tiles):
            count = len(unfinished) // HASH
            for level, index in cover(0, count):
                subtrees.append(tile_subtree(unfinished, level, index << level))
        return fold(subtrees)

    def _add(self, level: int, added: bytes, changed: dict[Subtree, bytes]) -> None:
        if level == len(self._tiles):
            self._tiles.append((0, bytearray()))
        n, unfinished = self._tiles[level]
        unfinished += added
        if len(unfinished) == TILE * HASH:
            changed[level, n] = bytes(unfinished)
            self._tiles[level] = (n + 1, bytearray())
            self._add(level + 1, tile_subtree(unfinished, TILE_LEVELS, 0), changed)


def tile_subtree(tile: bytes | bytearray, level: int, offset: int) -> bytes:
    """Returns the hash of the subtree over 2^level hashes of a tile, from the hash at index `offset` on."""
    return complete_subtree_root([bytes(tile[n * HASH : (n + 1) * HASH]) for n in range(offset, offset + (1 << level))])


def in_tile(subtree: Subtree) -> tuple[Subtree, int, int]:
    """Returns (tile, level, offset): the tile in which a subtree is, and the arguments with which `tile_subtree`
    returns the hash of the subtree.
    """
    level, index = subtree
    tile_level, above = divmod(level, TILE_LEVELS)
    n, offset = divmod(index << above, TILE)
    return (tile_level, n), above, offset


def inclusion(index: int, size: int) -> list[Range]:
    """Returns the ranges of leaves whose hashes prove that leaf `index` is in the tree of `size` leaves. The ranges are
    ordered from the leaf to the root.
    """
    assert 0 <= index < size
    first, end = 0, size
    ranges: list[Range] = []
    while end - first > 1:
        middle = _middle(first, end)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((first, middle))
            first = middle
    return ranges[::-1]


def consistency(size: int, later: int) -> list[Range]:
    """Returns the ranges whose hashes prove that the tree of `later` leaves begins with the tree of `size` leaves."""
    assert 0 < size <= later
    first, end = 0, later
    ranges: list[Range] = []
    while size != end:
        middle = _middle(first, end)
        if size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((first, middle))
            first = middle
    if first:
        ranges.append((first, end))
    return ranges[::-1]


def _middle(first: int, end: int) -> int:
    """Returns the index at which RFC 6962 splits a range of leaves. The length of the left part is the largest power of
    two that is smaller than the length of the range.
    """
    return first + (1 << (end - first - 1).bit_length() - 1)
