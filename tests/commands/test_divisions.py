"""Divisions of known tests into shards, and the shard of a test as the agent's plugin decides it."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from agent.injected.testhide_pytest_shard import SelectedShard
from agent.injected.testhide_pytest_shard import find_unit as find_unit_in_plugin
from commands.divisions import DivideTests
from domain.divisions import DIVISION, Division, TestsDivided, divide_cases, find_unit

PARTS = st.sampled_from(["a", "b::c", "[1]", "::[message]", "::(i=1)", "x[y]", "tests/te[s]t_a.py", "::", "ß", " > "])
NODE_IDS = st.lists(PARTS, min_size=1, max_size=5).map("".join)
CASES = st.dictionaries(NODE_IDS, st.floats(0, 10_000), max_size=40)


def test_parameters_and_subtests_belong_to_their_test() -> None:
    assert find_unit("tests/test_a.py::TestA::test_b[x::y]") == "tests/test_a.py::TestA::test_b"
    assert find_unit("tests/test_a.py::test_b::[message] (i=1)") == "tests/test_a.py::test_b"
    assert find_unit("tests/test_a.py::test_b::(i=1)") == "tests/test_a.py::test_b"
    assert find_unit("te[s]ts/test_a.py::test_b") == "te[s]ts/test_a.py::test_b"
    assert find_unit("com.shop.CartTest > total()") == "com.shop.CartTest > total()"


@given(NODE_IDS)
def test_the_plugin_finds_the_same_unit(node_id: str) -> None:
    assert find_unit_in_plugin(node_id) == find_unit(node_id) == find_unit(find_unit(node_id))


def test_the_first_division_of_a_group_stands() -> None:
    command = DivideTests(7, 3, 1, 2, {41: 1, 42: 2, 43: 1})
    (divided,) = command.decide(Division())
    assert isinstance(divided, TestsDivided)
    state = DIVISION.evolve(Division(), divided)
    assert state == Division(2, {41: 1, 42: 2, 43: 1})
    assert list(DivideTests(7, 3, 1, 2, {41: 2}).decide(state)) == []


def test_a_division_of_no_known_tests_is_one_too() -> None:
    (divided,) = DivideTests(7, 3, 1, 4, {}).decide(Division())
    assert DIVISION.evolve(Division(), divided) == Division(4, {})


def test_shards_are_even_by_the_time_of_all_parameters() -> None:
    cases = [(number, f"tests/test_a.py::test_{number // 5}[{number}]", 10.0) for number in range(400)]
    shard_of = divide_cases(cases, 4)
    assert [list(shard_of.values()).count(shard) for shard in (1, 2, 3, 4)] == [20] * 4
    assert set(shard_of) == set(range(0, 400, 5))


@given(CASES, st.lists(NODE_IDS, max_size=20), st.integers(1, 5))
def test_each_test_is_in_exactly_one_shard(known: dict[str, float], new: list[str], shards: int) -> None:
    """Also new tests, of which each shard may collect others."""
    node_ids = list(known)
    shard_of = divide_cases([(number, name, known[name]) for number, name in enumerate(node_ids)], shards)
    units = [
        frozenset(find_unit(node_ids[case_id]) for case_id, its in shard_of.items() if its == shard)
        for shard in range(1, shards + 1)
    ]
    runs = [
        SelectedShard(number, shards, names, frozenset[str]().union(*units) - names)
        for number, names in enumerate(units, 1)
    ]
    for node_id in (*known, *new):
        assert sum(run.has(node_id) for run in runs) == 1


def test_a_new_test_is_in_the_shard_of_its_checksum() -> None:
    none = frozenset[str]()
    unit = "tests/test_a.py::test_new"
    (number,) = (number for number in range(1, 5) if SelectedShard(number, 4, none, none).has(f"{unit}[1]"))
    assert number == zlib.crc32(unit.encode()) % 4 + 1
