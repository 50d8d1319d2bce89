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
"""Builds that one start of a job may queue."""
PLACEHOLDER = re.compile(r"\{\{matrix\.([^{}]+)\}\}")
"""Part of a required tag that stands for a value of the combination, such as `{{matrix.os}}`."""

# Events contain these types: a limit may be raised, never lowered, or stored events could not be read any more.
ValueName = Annotated[str, Meta(min_length=1, max_length=100)]
MatrixValue = Annotated[str, Meta(min_length=1, max_length=200)]
Combination = dict[ValueName, MatrixValue]


class Matrix(msgspec.Struct, frozen=True, omit_defaults=True):
    """Values of a job's builds: each combination of values is a build."""

    axes: Annotated[
        dict[ValueName, Annotated[list[MatrixValue], Meta(min_length=1, max_length=MAX_COMBINATIONS)]],
        Meta(max_length=10),
    ] = {}
    """Values by name. Each combination of one value of each name is a build."""
    include: Annotated[list[Combination], Meta(max_length=MAX_COMBINATIONS)] = []
    """Values to add to the combinations that have the same values in `axes`; where there is none, one more build."""
    exclude: Annotated[list[Combination], Meta(max_length=MAX_COMBINATIONS)] = []
    """Values of `axes`. Combinations that have all values of an entry are left out."""


def count_products(matrix: Matrix) -> int:
    """Returns the number of combinations of the axes, before `exclude` and `include`."""
    return math.prod(map(len, matrix.axes.values())) if matrix.axes else 0


def expand(matrix: Matrix) -> list[dict[str, str]]:
    """Returns the combinations, in the order of the axes. Those that `include` makes come last."""
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


def variable_of(name: str) -> str:
    """Returns the environment variable that has the value: `PYTHON_VERSION` for `python-version`."""
    return name.upper().replace("-", "_")


def fill_tags(tags: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Returns the tags with the values of a combination. Raises KeyError for a value that it does not have."""
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
