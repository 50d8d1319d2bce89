"""The tree against a naive one that is RFC 6962's definition word for word, and against published hashes."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.audit.merkle import (
    EMPTY,
    HASH,
    TILE,
    BadProof,
    Edge,
    Frontier,
    Range,
    Subtree,
    consistency,
    cover,
    fold,
    in_tile,
    inclusion,
    leaf_hash,
    node_hash,
    tile_subtree,
)
from tests.support.proofs import verify_consistency, verify_inclusion

# The leaves and roots that RFC 6962's reference implementation is tested with.
LEAVES = [
    bytes.fromhex(data)
    for data in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

sizes = st.one_of(st.integers(1, 40), st.integers(1, 700), st.sampled_from([255, 256, 257, 511, 512, 513]))


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


def naive_root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(naive_root(hashes[:split]), naive_root(hashes[split:]))


def hashes_of(ranges: Sequence[Range], hashes: Sequence[bytes]) -> list[bytes]:
    return [naive_root(hashes[first:end]) for first, end in ranges]


def frontier(hashes: Sequence[bytes]) -> Frontier:
    made = Frontier()
    for added in hashes:
        made.append(added)
    return made


def test_the_published_hashes() -> None:
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    hashes = [leaf_hash(data) for data in LEAVES]
    assert [frontier(hashes[: count + 1]).root.hex() for count in range(8)] == ROOTS


@settings(deadline=None)
@given(sizes)
def test_frontier_and_edge_tell_the_root(size: int) -> None:
    hashes, edge = leaves(size), Edge()
    edge.append(hashes)
    assert (edge.size, edge.root) == (size, naive_root(hashes))
    assert frontier(hashes).root == edge.root


def test_a_tree_without_leaves() -> None:
    assert Frontier().root == Edge().root == EMPTY
    assert (Frontier().size, Edge().size, cover(5, 5)) == (0, 0, [])


@settings(deadline=None)
@given(sizes, st.data())
def test_any_leaves_fold_from_the_tiles_of_a_tree_that_grew_in_steps(size: int, data: st.DataObject) -> None:
    hashes = leaves(size)
    stored: dict[Subtree, bytes] = {}
    done = 0
    for end in sorted({*data.draw(st.lists(st.integers(1, size), max_size=8)), size}):
        last = dict(sorted(stored))
        edge = Edge((level, n, stored[level, n]) for level, n in last.items())
        assert edge.size == done
        stored |= edge.append(hashes[done:end])
        done = end
        assert edge.root == naive_root(hashes[:done])
    assert all(0 < len(tile) <= TILE * HASH for tile in stored.values())
    index = data.draw(st.integers(0, size - 1))
    first, end = data.draw(st.sampled_from([(0, size), *inclusion(index, size), *consistency(index + 1, size)]))
    parts = []
    for subtree in cover(first, end):
        tile, above, offset = in_tile(subtree)
        parts.append(tile_subtree(stored[tile], above, offset))
    assert fold(parts) == naive_root(hashes[first:end])


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_a_cover_is_whole_in_order_and_aligned(first: int, length: int) -> None:
    at = first
    for level, index in cover(first, first + length):
        assert index << level == at
        at += 1 << level
    assert at == first + length
    assert len(cover(first, first + length)) <= 2 * max(length, 1).bit_length()


@settings(deadline=None)
@given(sizes, st.data())
def test_a_frontier_takes_whole_ranges_too(size: int, data: st.DataObject) -> None:
    hashes, made = leaves(size), Frontier()
    while made.size < size:
        end = data.draw(st.integers(made.size + 1, size))
        made.extend(end, [naive_root(hashes[n << level : (n + 1) << level]) for level, n in cover(made.size, end)])
    assert made.root == naive_root(hashes)


def test_a_frontier_refuses_what_does_not_fit() -> None:
    with pytest.raises(BadProof):
        frontier(leaves(3)).append(leaves(1)[0], level=1)
    with pytest.raises(BadProof):
        frontier(leaves(3)).extend(8, leaves(1))


@settings(deadline=None)
@given(sizes, st.data())
def test_an_inclusion_is_proved_and_nothing_else(size: int, data: st.DataObject) -> None:
    hashes = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof, root = hashes_of(inclusion(index, size), hashes), naive_root(hashes)
    verify_inclusion(index, size, hashes[index], proof, root)
    for wrong in mutations(proof, data):
        with pytest.raises(BadProof):
            verify_inclusion(index, size, hashes[index], wrong, root)
    with pytest.raises(BadProof):
        verify_inclusion(index, size, leaf_hash(b"another"), proof, root)
    if size > 1:
        with pytest.raises(BadProof):
            verify_inclusion((index + 1) % size, size, hashes[index], proof, root)


@settings(deadline=None)
@given(sizes, st.data())
def test_a_consistency_is_proved_and_nothing_else(later: int, data: st.DataObject) -> None:
    hashes = leaves(later)
    size = data.draw(st.integers(1, later))
    proof = hashes_of(consistency(size, later), hashes)
    root, later_root = naive_root(hashes[:size]), naive_root(hashes)
    verify_consistency(size, later, root, later_root, proof)
    for wrong in mutations(proof, data):
        with pytest.raises(BadProof):
            verify_consistency(size, later, root, later_root, wrong)
    other = naive_root([*hashes[: size - 1], leaf_hash(b"another")])
    with pytest.raises(BadProof):
        verify_consistency(size, later, other, later_root, proof)
    if size < later:
        with pytest.raises(BadProof):
            verify_consistency(size, later, root, leaf_hash(b"another"), proof)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_leaves_that_a_tree_does_not_have(index: int, size: int) -> None:
    with pytest.raises(BadProof):
        verify_inclusion(index, size, EMPTY, [], EMPTY)


@pytest.mark.parametrize(("size", "later"), [(0, 3), (4, 3)])
def test_trees_that_cannot_begin_one_another(size: int, later: int) -> None:
    with pytest.raises(BadProof):
        verify_consistency(size, later, EMPTY, EMPTY, [])


def mutations(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    """One hash too many, one too few, and a single bit turned."""
    wrong = [[*proof, EMPTY]]
    if proof:
        position, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
        turned = (int.from_bytes(proof[position]) ^ 1 << bit).to_bytes(32)
        wrong += [proof[:-1], [*proof[:position], turned, *proof[position + 1 :]]]
    return wrong
