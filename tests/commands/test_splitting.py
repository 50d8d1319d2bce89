"""Tests are divided into shards of about the same duration, and stay in their shards when little changes."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.splitting import DEFAULT_MS, MIN_MS, TOLERANCE, estimate_durations, split

names = st.text(max_size=8)
durations = st.dictionaries(names, st.floats(MIN_MS, 1e7), max_size=40)
few = st.dictionaries(names, st.integers(1, 30).map(float), max_size=8)
shard_counts = st.integers(1, 12)


def measure_longest(shards: list[list[str]], durations_ms: Mapping[str, float]) -> float:
    return max(sum(durations_ms[name] for name in shard) for shard in shards)


def find_shortest_division(durations_ms: Mapping[str, float], shards: int) -> float:
    """Tries all divisions. Returns the duration of the longest shard in the best one."""
    divisions = {(0.0,) * shards}
    for duration in durations_ms.values():
        divisions = {
            tuple(sorted(load + duration * (at == to) for at, load in enumerate(loads)))
            for loads in divisions
            for to in range(shards)
        }
    return min(max(loads) for loads in divisions)


def make_suite(tests: int, seed: int = 0) -> dict[str, float]:
    draw = random.Random(seed)
    return {f"tests/test_{number // 20}.py::test_{number}": draw.lognormvariate(5, 1.5) for number in range(tests)}


def count_moved(before: list[list[str]], after: list[list[str]]) -> int:
    shard_before = {name: number for number, shard in enumerate(before) for name in shard}
    return sum(shard_before.get(name, number) != number for number, shard in enumerate(after) for name in shard)


@given(durations, shard_counts)
def test_every_test_is_in_one_shard(durations_ms: dict[str, float], shards: int) -> None:
    found = split(durations_ms, shards)
    assert len(found) == shards
    assert sorted(name for shard in found for name in shard) == sorted(durations_ms)


@given(durations, shard_counts, st.randoms())
def test_the_order_of_the_list_changes_nothing(
    durations_ms: dict[str, float], shards: int, draw: random.Random
) -> None:
    items = list(durations_ms.items())
    draw.shuffle(items)
    assert list(map(set, split(dict(items), shards))) == list(map(set, split(durations_ms, shards)))


@given(few, st.integers(1, 4))
def test_the_longest_shard_is_at_most_a_third_above_the_best(durations_ms: dict[str, float], shards: int) -> None:
    best = find_shortest_division(durations_ms, shards)
    assert measure_longest(split(durations_ms, shards), durations_ms) <= best * 4 / 3 + 1e-6


@given(st.integers(0, 1_000), st.sampled_from([2, 4, 10]))
def test_many_tests_are_divided_evenly(seed: int, shards: int) -> None:
    suite = make_suite(500, seed)
    mean = sum(suite.values()) / shards
    limit = max(mean * (1 + TOLERANCE), *suite.values())
    assert measure_longest(split(suite, shards), suite) <= limit * (1 + 1e-9)


def test_few_tests_move_when_durations_change_a_little() -> None:
    suite = make_suite(2_000)
    draw = random.Random(1)
    later = {name: duration * draw.uniform(0.9, 1.1) for name, duration in suite.items()}
    assert count_moved(split(suite, 4), split(later, 4)) < 0.06 * len(suite)


def test_few_tests_move_when_tests_come_and_go() -> None:
    suite = make_suite(2_000)
    later = dict(list(suite.items())[20:]) | {f"tests/test_new.py::test_{number}": 200.0 for number in range(20)}
    assert count_moved(split(suite, 4), split(later, 4)) < 0.06 * len(suite)


def test_tests_that_take_no_time_are_shared() -> None:
    suite = estimate_durations([f"test_{number}" for number in range(100)], {f"test_{n}": 0.0 for n in range(100)})
    assert max(map(len, split(suite, 4))) <= 26


def test_unknown_tests_count_with_the_median() -> None:
    known = {"a": 10.0, "b": 20.0, "c": 90.0, "of no interest": 5_000.0}
    assert estimate_durations(["new", "a", "b", "c", "a"], known) == {"new": 20.0, "a": 10.0, "b": 20.0, "c": 90.0}
    assert estimate_durations(["a", "b"], {}) == {"a": DEFAULT_MS, "b": DEFAULT_MS}


@pytest.mark.parametrize("shards", [1, 3])
def test_nothing_to_divide(shards: int) -> None:
    assert split({}, shards) == [[]] * shards
