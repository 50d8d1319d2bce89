"""Ranges of test cases, by which the blocks with results of a test are found.

Nearly all blocks have tests with consecutive ids. So the index lists a block by a few ranges of 1, 2, 4, ... ids rather
than by each id. A range of n ids begins at a multiple of n. So each test is in one range of each size, and a search for
these finds exactly the blocks with results of the test.
"""

from domain.core.columns import Int32s
from projections.results_passes import Stretches, are_ascending, find_stretches

MAX_SIZE = 512
"""Number of ids of the largest ranges. A block has at most a thousand results."""


def find_ranges(case_ids: Int32s, stretches: Stretches) -> list[int]:
    """Returns the numbers of the ranges that these ids consist of. `stretches` are those of `find_stretches`.

    The number of a range is the id in its middle, and is negative if the range has more than one id.
    """
    if not are_ascending(case_ids, stretches):  # tests in another order, or several results of a test
        case_ids = Int32s(sorted(set(case_ids)))
        stretches = find_stretches(case_ids)
    found: list[int] = []
    for start, end in stretches:
        first, left = case_ids[start], end - start
        while left:
            size = min(first & -first or MAX_SIZE, 1 << left.bit_length() - 1, MAX_SIZE)
            found.append(first if size == 1 else -(first + size // 2))
            first += size
            left -= size
    return found


def has_case(case_id: str) -> str:
    """Returns the SQL condition that a block has results of a test case. `case_id` is an SQL expression for its id."""
    sizes = (1 << bit for bit in range(1, MAX_SIZE.bit_length()))
    numbers = [case_id, *(f"-(({case_id} & -{size}) | {size // 2})" for size in sizes)]
    return f"case_ranges && ARRAY[{', '.join(numbers)}]"
