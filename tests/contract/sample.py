"""A few of many wrong values: the tests of a function send different ones, and together all."""

from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")
SIZE = 2


class Sample:
    """Chooses values for one test. With `all_values`, each test sends all: `./dev test tests/contract --all-values`."""

    def __init__(self, test: str, all_values: bool) -> None:
        self._first = crc32(test.encode())
        self._all_values = all_values

    def __call__(self, values: Sequence[T]) -> Sequence[T]:
        if self._all_values or len(values) <= SIZE:
            return values
        return [values[(self._first + number) % len(values)] for number in range(SIZE)]
