"""Matrices: one start of a job queues a build for each combination of values.

`expand` reads `axes`, `exclude` and `include` as GitHub Actions does.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_COMBINATIONS = 256
"""Largest number of builds that one start of a job may queue."""
PLACEHOLDER = re.compile(r"\{\{matrix\.([^{}]+)\}\}")
"""Matches the part of a required tag that stands for a value of the combination, such as `{{matrix.os}}`."""

SHARD_NAME = "testhide-shard"
"""Name of the matrix value that says which shard of the tests a build runs. The value is a number from `1` to the
number of shards.
"""
SHARDS_VARIABLE = "TESTHIDE_SHARDS"
"""Name of the environment variable with the number of shards. The variable with the build's shard is TESTHIDE_SHARD,
which is `variable_of(SHARD_NAME)`.
"""

# Events contain these types: a limit may be raised, never lowered, or stored events could not be read any more.
ValueName = Annotated[
    str, Meta(min_length=1, max_length=100, extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"})
]
MatrixValue = Annotated[str, Meta(min_length=1, max_length=200)]
Combination = dict[ValueName, MatrixValue]


class Matrix(msgspec.Struct, frozen=True, omit_defaults=True):
    """Values of a job, by name. A start of the job queues one build for each combination of these values."""

    axes: Annotated[
        dict[ValueName, Annotated[list[MatrixValue], Meta(min_length=1, max_length=MAX_COMBINATIONS)]],
        Meta(max_length=10),
    ] = {}
    """Name -> possible values. A combination has one value for each name, and is one build."""
    include: Annotated[list[Combination], Meta(max_length=MAX_COMBINATIONS)] = []
    """Values to add to combinations. An entry is added to each combination that has the entry's values for the names in
    `axes`. If there is no such combination, the entry is a combination of its own.
    """
    exclude: Annotated[list[Combination], Meta(max_length=MAX_COMBINATIONS)] = []
    """Values from `axes`. A combination is left out if it has all values of an entry."""


def count_products(matrix: Matrix) -> int:
    """Returns the number of combinations of the axes, before `exclude` and `include`."""
    return math.prod(map(len, matrix.axes.values())) if matrix.axes else 0


def expand(matrix: Matrix) -> list[dict[str, str]]:
    """Returns the combinations in the order of the axes, followed by the combinations that `include` adds."""
    pairs = [[(name, value) for value in values] for name, values in matrix.axes.items()]
    of_axes = [dict(chosen) for chosen in product(*pairs)] if pairs else []
    kept = [values for values in of_axes if not any(_matches(values, entry) for entry in matrix.exclude)]
    completed, added = [dict(values) for values in kept], list[dict[str, str]]()
    for entry in matrix.include:
        fixed = {name: value for name, value in entry.items() if name in matrix.axes}
        same = [number for number, values in enumerate(kept) if _matches(values, fixed)]
        for number in same:
            completed[number].update(entry)
        if not same:
            added.append(dict(entry))
    return completed + added


def count_shards(combinations: Iterable[Mapping[str, str]]) -> int:
    """Returns the number of shards into which the tests are divided; 0 if no combination has a value
    named `testhide-shard`.
    """
    return len({values[SHARD_NAME] for values in combinations if SHARD_NAME in values})


def find_incomplete_shards(matrix: Matrix, combinations: Iterable[Mapping[str, str]]) -> int | None:
    """Returns the number of shards if the combinations lack some of them, so that some tests would not run; else None.
    Shards must be numbered from 1. Combinations that differ only in the shard must together have all shards.
    """
    found: dict[tuple[str | None, ...], set[str]] = {}
    others = [name for name in matrix.axes if name != SHARD_NAME]
    for values in combinations:
        if SHARD_NAME in values:
            found.setdefault(tuple(map(values.get, others)), set()).add(values[SHARD_NAME])
    count = len(set[str]().union(*found.values()))
    wanted = {str(number) for number in range(1, count + 1)}
    return count if any(shards != wanted for shards in found.values()) else None


def variable_of(name: str) -> str:
    """Returns the name of the environment variable for a value: `PYTHON_VERSION` for the name `python-version`."""
    return name.upper().replace("-", "_")


def fill_tags(tags: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Returns the tags with a combination's values in place of the placeholders. Raises KeyError for a placeholder
    whose name `values` does not have.
    """
    return [PLACEHOLDER.sub(lambda found: values[found[1]], tag) for tag in tags]


def find_repeated(combinations: Iterable[Mapping[str, str]]) -> Mapping[str, str] | None:
    """Returns the first combination that equals an earlier one; None if all differ."""
    seen: set[tuple[tuple[str, str], ...]] = set()
    for values in combinations:
        key = tuple(sorted(values.items()))
        if key in seen:
            return values
        seen.add(key)
    return None


def _matches(values: Mapping[str, str], entry: Mapping[str, str]) -> bool:
    return all(values.get(name) == value for name, value in entry.items())
