"""Division of tests into shards that take about the same time.

The division is the same for the same durations, and *steady*: when durations change a little, or tests come and go, few
tests move to another shard, so that the caches of a shard stay useful. A steady division needs no knowledge of an
earlier one. The hash of a test's name says which shards the test prefers, and the test gets the first of these that has
room for it (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018). Long tests choose first.
The order of tests depends on the power of two above the duration, and on the hash, so that small changes of a duration
rarely change the order.

If a few long tests make shards of about the same time impossible, the tests are divided by the rule *longest processing
time first* (Graham 1969), which is less steady: each test, the longest first, goes to the shard with the least to do.
"""

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from math import frexp
from statistics import median
from struct import Struct

TOLERANCE = 0.02
"""Share by which a shard may take longer than the mean of all shards. With a higher tolerance, fewer tests move to
another shard.
"""
_PREFERENCES = Struct(">8I")
"""Format of the hash of a test's name: eight numbers. Each stands for a shard that the test prefers, the first one
most; shards may repeat.
"""
MIN_MS = 1.0
"""Least duration of a test in milliseconds. Reports round durations down to 0, and tests of duration 0 would all go to
one shard.
"""
DEFAULT_MS = 1_000.0
"""Duration of each test in milliseconds, if no duration is known. Then only the number of tests counts."""


def estimate_durations(names: Iterable[str], known_ms: Mapping[str, float]) -> dict[str, float]:
    """Returns name -> duration in milliseconds. A name whose duration is unknown gets the median of the known ones.
    Names that occur twice count once.
    """
    unique = dict.fromkeys(names)
    found = [known_ms[name] for name in unique if name in known_ms]
    unknown = median(found) if found else DEFAULT_MS
    return {name: max(MIN_MS, known_ms.get(name, unknown)) for name in unique}


def split(durations_ms: Mapping[str, float], shards: int) -> list[list[str]]:
    """Returns the names of the tests of each shard, in the order of `durations_ms`. This order has no effect on the
    division. The longest shard takes at most 4/3 of the time of the longest shard of the best division.
    """
    mean = sum(sorted(durations_ms.values())) / shards
    limit = max(mean * (1 + TOLERANCE), *durations_ms.values(), 0.0)
    assignment, needed = _assign_by_preference(durations_ms, shards, limit)
    if needed > limit:
        longest_first, needed_longest_first = _assign_longest_first(durations_ms, shards)
        if needed_longest_first < needed:
            assignment = longest_first
    found: list[list[str]] = [[] for _ in range(shards)]
    for name in durations_ms:
        found[assignment[name]].append(name)
    return found


def _assign_by_preference(durations_ms: Mapping[str, float], shards: int, limit: float) -> tuple[dict[str, int], float]:
    """Returns the shard of each name, and the duration of the longest shard."""
    digests = {name: _digest(name) for name in durations_ms}
    loads = _Loads(shards)
    assignment: dict[str, int] = {}
    for name in sorted(durations_ms, key=lambda name: (-frexp(durations_ms[name])[1], digests[name], name)):
        duration = durations_ms[name]
        for preference in _PREFERENCES.unpack(digests[name]):
            if loads.of[shard := preference % shards] + duration <= limit:
                break
        else:
            shard = loads.find_least()
        assignment[name] = shard
        loads.add(shard, duration)
    return assignment, max(loads.of)


def _assign_longest_first(durations_ms: Mapping[str, float], shards: int) -> tuple[dict[str, int], float]:
    """Returns the shard of each name, and the duration of the longest shard."""
    loads = _Loads(shards)
    assignment: dict[str, int] = {}
    for name in sorted(durations_ms, key=lambda name: (-durations_ms[name], name)):
        assignment[name] = loads.find_least()
        loads.add(assignment[name], durations_ms[name])
    return assignment, max(loads.of)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_PREFERENCES.size).digest()


class _Loads:
    """Total duration of the tests that each shard has so far."""

    def __init__(self, shards: int) -> None:
        self.of = [0.0] * shards
        self._heap = [(0.0, shard) for shard in range(shards)]
        """Heap of (load, shard) with the present load of each shard, and with earlier loads that `find_least` has not
        removed yet.
        """

    def add(self, shard: int, duration: float) -> None:
        self.of[shard] += duration
        heapq.heappush(self._heap, (self.of[shard], shard))

    def find_least(self) -> int:
        while self._heap[0][0] != self.of[self._heap[0][1]]:
            heapq.heappop(self._heap)
        return self._heap[0][1]
