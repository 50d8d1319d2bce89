"""Matrices: their combinations, and which are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.matrix_values import check_matrix
from domain.build_groups import find_worst
from domain.core.errors import Invalid
from domain.matrix import Matrix, count_products, expand

NAMES = st.sampled_from(["os", "python", "db"])
VALUES = st.sampled_from(["1", "2", "3"])
ENTRIES = st.lists(st.dictionaries(NAMES, VALUES, min_size=1), max_size=3)
AXES = st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3, unique=True))
MATRICES = st.builds(Matrix, AXES, ENTRIES, ENTRIES)


def test_combinations_are_in_the_order_of_the_axes() -> None:
    assert expand(Matrix({"os": ["linux", "mac"], "python": ["3.11", "3.12"]})) == [
        {"os": "linux", "python": "3.11"},
        {"os": "linux", "python": "3.12"},
        {"os": "mac", "python": "3.11"},
        {"os": "mac", "python": "3.12"},
    ]


def test_the_example_of_include_in_the_manual_of_github_actions() -> None:
    """Values that an entry has added are changed by later ones, those of the axes are not."""
    matrix = Matrix(
        {"fruit": ["apple", "pear"], "animal": ["cat", "dog"]},
        include=[
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    )
    assert expand(matrix) == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_include_alone_lists_the_combinations() -> None:
    assert expand(Matrix(include=[{"os": "mac"}, {"os": "bsd"}])) == [{"os": "mac"}, {"os": "bsd"}]


@given(MATRICES)
def test_what_is_excluded_is_left_out_before_include_adds(matrix: Matrix) -> None:
    combinations = expand(matrix)
    assert len(combinations) <= count_products(matrix) + len(matrix.include)
    of_axes = [{name: values[name] for name in matrix.axes if name in values} for values in combinations]
    kept = expand(Matrix(matrix.axes, exclude=matrix.exclude))
    assert of_axes[: len(kept)] == kept
    assert not any(entry.items() <= values.items() for values in kept for entry in matrix.exclude)
    # Values that an entry has added may be changed by later ones, so only the last entry is there for sure.
    assert all(any(entry.items() <= values.items() for values in combinations) for entry in matrix.include[-1:])


@pytest.mark.parametrize(
    ("matrix", "error"),
    [
        (Matrix(), "matrix: has no combination"),
        (Matrix({"a": ["1"]}, exclude=[{"a": "1"}]), "matrix: has no combination"),
        (Matrix({"a": [str(n) for n in range(17)], "b": [str(n) for n in range(16)]}), "has 272 combinations, and may"),
        (Matrix({"a": [str(n) for n in range(256)]}, include=[{"b": "1", "a": "x"}]), "has 257 combinations, and may"),
        (Matrix({"a": ["1", "1"]}), "has the combination a: 1 twice"),
        (Matrix({"testhide-shard": ["1", "3"]}), "matrix: must have testhide-shard from 1 to 2"),
        (Matrix({"testhide-shard": ["2"]}), "matrix: must have testhide-shard from 1 to 2"),
        (
            Matrix({"a": ["x", "y"], "testhide-shard": ["1", "2"]}, exclude=[{"a": "y", "testhide-shard": "2"}]),
            "matrix: must have testhide-shard from 1 to 2 with all other values",
        ),
        (Matrix({"testhide-shards": ["1"]}), "matrix.axes.testhide-shards: would be the variable TESTHIDE_SHARDS"),
        (Matrix({"a": ["1"]}, exclude=[{"a": "2"}]), "matrix.exclude[0].a: 2 is no value of axes.a"),
        (Matrix({"a": ["1"]}, exclude=[{"b": "1"}]), "matrix.exclude[0].b: 1 is no value of axes.b"),
        (Matrix({"a": ["1"]}, exclude=[{}]), "matrix.exclude[0]: must name a value"),
        (Matrix({"a": ["1"]}, include=[{}]), "matrix.include[0]: must have a value"),
        (Matrix({"1a": ["1"]}), "matrix.axes.1a: is no name of a value"),
        (Matrix({"a": ["1"]}, include=[{"b c": "1"}]), "matrix.include[0].b c: is no name of a value"),
        (Matrix({"testhide-branch": ["1"]}), "would be the variable TESTHIDE_BRANCH"),
        (Matrix({"a-b": ["1"], "A_B": ["1"]}), "matrix.axes.A_B: is the same variable, A_B, as a-b"),
        (Matrix({"token": ["1"]}), "matrix.axes.token: is the variable TOKEN, which the job also has"),
    ],
)
def test_what_is_refused(matrix: Matrix, error: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_matrix(matrix, ["TOKEN"])
    assert error in refused.value.detail


def test_a_full_matrix_is_taken() -> None:
    check_matrix(Matrix({"a": [str(n) for n in range(256)], "python-version": ["3.12"]}), ["TOKEN"])
    check_matrix(None, ["TOKEN"])


def test_a_group_is_as_bad_as_its_worst_build() -> None:
    assert find_worst(["passed", "queued"]) == "queued"
    assert find_worst(["queued", "running", "passed"]) == "running"
    assert find_worst(["running", "aborted"]) == "aborted"
    assert find_worst(["passed", "failed", "aborted"]) == "failed"
