"""Decides which tests a shard runs (Python 3.8 or newer). PYTEST_DONT_REWRITE

The agent writes two files. One lists the known tests of this shard, the other those of all other shards: a node id a
line, without parameters and subtests.

Every test is in exactly one shard, also if it is new or if the shards collect different tests: a test that neither file
lists is in the shard that the CRC-32 of its id, without parameters, says. A test and all its parameters are in one
shard, because the ids of parameters may differ between processes (`test_a[<object at 0x7f...>]`, elements of a set).
"""

from __future__ import annotations

import os
import re
import zlib
from typing import NamedTuple

_UNIT_ENDS = re.compile(r"::(?=[\[(])|\[")


class SelectedShard(NamedTuple):
    number: int
    shards: int
    tests: frozenset[str]
    other_tests: frozenset[str]

    def has(self, node_id: str) -> bool:
        unit = find_unit(node_id)
        if unit in self.tests or unit in self.other_tests:
            return unit in self.tests
        return zlib.crc32(unit.encode("utf-8", "surrogatepass")) % self.shards == self.number - 1


def read_shard() -> SelectedShard | None:
    """Return the shard of this run, or None if the run has all tests. Raises OSError, KeyError or ValueError if the
    agent's files or environment variables cannot be read.
    """
    path = os.environ.get("TESTHIDE_SHARD_FILE")
    if not path:
        return None
    number, shards = int(os.environ["TESTHIDE_SHARD"]), int(os.environ["TESTHIDE_SHARDS"])
    if not 1 <= number <= shards:
        raise ValueError(f"shard {number} of {shards}")
    return SelectedShard(number, shards, _read(path), _read(os.environ["TESTHIDE_OTHER_SHARDS_FILE"]))


def find_unit(node_id: str) -> str:
    """Return the node id without parameters and subtests. Brackets in the name of a folder stay."""
    file, separator, test = node_id.partition("::")
    end = _UNIT_ENDS.search(separator + test)
    return node_id if end is None else file + (separator + test)[: end.start()]


def _read(path: str) -> frozenset[str]:
    with open(path, encoding="utf-8") as file:
        return frozenset(filter(None, file.read().split("\n")))
