"""Checks of matrices that users enter for jobs."""

import re
from collections.abc import Collection, Iterable

from domain.core.errors import FieldError, Invalid
from domain.matrix import (
    MAX_COMBINATIONS,
    SHARD_NAME,
    Matrix,
    count_products,
    expand,
    find_incomplete_shards,
    find_repeated,
    variable_of,
)

VALUE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)


def check_matrix(matrix: Matrix | None, variables: Collection[str], prefix: str = "", *, is_whole: bool = True) -> None:
    """Raises Invalid for a matrix that has the right type but does not make sense, such as a matrix with two equal
    combinations. The error names each wrong field, with `prefix` before its name. `variables` are the names of the
    variables and secrets that the job sets. With `is_whole=False`, checks only the names of the matrix: the caller has
    then left out values with other mistakes.
    """
    if matrix is None:
        return
    errors = list(_check_names(matrix, variables))
    if is_whole:
        errors += _check_excluded(matrix)
        errors += () if errors else _check_combinations(matrix)
    if errors:
        raise Invalid.fields([FieldError(prefix + field, message) for field, message in errors])


def _check_names(matrix: Matrix, variables: Collection[str]) -> Iterable[FieldError]:
    named = [(f"matrix.axes.{name}", name) for name in matrix.axes]
    named += [
        (f"matrix.include[{number}].{name}", name) for number, entry in enumerate(matrix.include) for name in entry
    ]
    names: dict[str, str] = {}
    for field, name in named:
        variable = variable_of(name)
        if not VALUE_NAME.fullmatch(name):
            yield FieldError(field, "is no name of a value: letters, digits, _ and -, not first a digit or -")
        elif variable.startswith("TESTHIDE") and name != SHARD_NAME:
            yield FieldError(field, f"would be the variable {variable}: those that begin with TESTHIDE are the agent's")
        elif names.setdefault(variable, name) != name:
            yield FieldError(field, f"is the same variable, {variable}, as {names[variable]}: choose another name")
        elif variable in variables:
            yield FieldError(field, f"is the variable {variable}, which the job also has in env or secrets")


def _check_excluded(matrix: Matrix) -> Iterable[FieldError]:
    for number, entry in enumerate(matrix.exclude):
        for name, value in entry.items():
            if value not in matrix.axes.get(name, ()):
                yield FieldError(f"matrix.exclude[{number}].{name}", f"{value} is no value of axes.{name}")
        if not entry:
            yield FieldError(f"matrix.exclude[{number}]", "must name a value of axes")
    for number, entry in enumerate(matrix.include):
        if not entry:
            yield FieldError(f"matrix.include[{number}]", "must have a value")


def _check_combinations(matrix: Matrix) -> Iterable[FieldError]:
    # Excluded combinations count too: to leave them out, a matrix of perhaps a billion combinations would have to be
    # expanded.
    count = count_products(matrix)
    if count <= MAX_COMBINATIONS:
        combinations = expand(matrix)
        count = len(combinations)
        if not combinations:
            yield FieldError("matrix", "has no combination: it needs axes or include, and exclude must leave one")
        elif (repeated := find_repeated(combinations)) is not None:
            listed = ", ".join(f"{name}: {value}" for name, value in repeated.items())
            yield FieldError("matrix", f"has the combination {listed} twice")
        elif (shards := find_incomplete_shards(matrix, combinations)) is not None:
            yield FieldError(
                "matrix",
                f"must have {SHARD_NAME} from 1 to {max(shards, 2)} with all other values, or no build would run the"
                " tests of a missing shard",
            )
    if count > MAX_COMBINATIONS:
        yield FieldError(
            "matrix", f"has {count:,} combinations, and may have {MAX_COMBINATIONS} at most, excluded ones too"
        )
