"""Verifies proofs of the audit log, as a client does."""

from collections.abc import Sequence

from store.audit.merkle import BadProof, consistency, inclusion, node_hash


def verify_inclusion(index: int, size: int, leaf: bytes, hashes: Sequence[bytes], root: bytes) -> None:
    """Checks that leaf `index` is in the tree of this root. Raises BadProof."""
    if not 0 <= index < size:
        raise BadProof(f"a tree of {size} leaves has none at {index}")
    ranges = inclusion(index, size)
    if len(ranges) != len(hashes):
        raise BadProof(f"the proof takes {len(ranges)} hashes, not {len(hashes)}")
    for (first, _), other in zip(ranges, hashes, strict=True):
        leaf = node_hash(leaf, other) if first > index else node_hash(other, leaf)
    if leaf != root:
        raise BadProof("the leaf is not in this tree")


def verify_consistency(size: int, later: int, root: bytes, later_root: bytes, hashes: Sequence[bytes]) -> None:
    """Checks that the later tree begins with the earlier one. Raises BadProof."""
    if not 0 < size <= later:
        raise BadProof(f"a tree of {later} leaves does not begin with one of {size}")
    ranges = consistency(size, later)
    if len(ranges) != len(hashes):
        raise BadProof(f"the proof takes {len(ranges)} hashes, not {len(hashes)}")
    known = [*zip(ranges, hashes, strict=True)]
    # The right edge of the first tree. If this edge is the whole first tree, its root is known already.
    before = after = root if not ranges or ranges[0][0] >= size else known.pop(0)[1]
    for (first, _), other in known:
        if first >= size:
            after = node_hash(after, other)
        else:
            before, after = node_hash(other, before), node_hash(other, after)
    if before != root or after != later_root:
        raise BadProof("the later tree does not begin with the earlier one")
