"""Columns of integers in events, which store them as little-endian bytes."""

import sys
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    Numbers = array[int]
else:
    Numbers = array  # `array` is not generic before Python 3.12


class Column(Numbers):
    """Array of integers of one size in bytes. The constructor raises OverflowError for an integer that does not fit."""

    code: ClassVar[str]

    def __new__(cls, numbers: Iterable[int] = ()) -> Self:
        return super().__new__(cls, cls.code, numbers)

    @classmethod
    def of(cls, stored: bytes | bytearray) -> Self:
        """Returns the column that `stored` encodes. Raises ValueError if the length of `stored` is not a multiple of
        the integer size.
        """
        column = super().__new__(cls, cls.code, stored)
        if sys.byteorder == "big":
            column.byteswap()
        return column

    @property
    def stored(self) -> bytes:
        if sys.byteorder == "big":
            swapped = array(self.code, self)
            swapped.byteswap()
            return swapped.tobytes()
        return self.tobytes()


class Int16s(Column):
    code = "h"


class Int32s(Column):
    code = "i"
