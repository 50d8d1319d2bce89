"""Table of the blocks of results (docs/decisions/0010), and the SQL for single results in them.

Nearly all blocks have tests with consecutive ids, in one suite. Such a block stores the first id and the suite, and no
arrays of them.

For the same reason, the index by which the results of a test are found has a few ranges of 1, 2, 4, ... ids for each
block, rather than each id. A range of n ids begins at a multiple of n. So each test is in one range of each size. A
search for all ranges of a test finds exactly the blocks with results of the test.
"""

from collections.abc import Sequence

from domain.core.columns import Int16s, Int32s
from domain.results import ResultsRecorded
from projections.engine.model import Int, Ints, Row, SmallInt, SmallInts, Table
from projections.results_cases import VERSION
from projections.results_passes import Stretches, are_ascending, find_stretches

STATUS, KNOWN_ISSUE, FLAKY, QUARANTINED, ATTEMPT = 3, 4, 8, 16, 32
"""Bits of a result's `facts`. Bits 0 and 1 are the status: 0 passed, 1 failed, 2 skipped. Bits 2 to 4 are flags. The
higher bits are the attempt. If the result was retried, all bits are inverted, so `facts` is negative.
"""

MAX_SIZE = 512
"""Number of ids in the largest ranges of a block. Larger ranges are not needed, since a block has at most a thousand
results.
"""

_EACH = {
    "id": "generate_series(b.first_result_id, b.first_result_id + b.results - 1) AS id",
    "case_id": "unnest(b.case_ids) AS listed_case,"
    " generate_series(b.first_case_id, b.first_case_id + b.results - 1) AS counted_case",
    "duration_ms": "unnest(b.durations_ms) AS duration_ms",
    "suite": "unnest(b.suites) AS listed_suite, b.suite AS only_suite",
    "facts": "unnest(b.facts) AS facts",
}
"""Column of a result -> SQL expression that computes it from the block `b` of the result."""
_COALESCED = {
    "case_id": "coalesce(e.listed_case, e.counted_case) AS case_id",
    "suite": "coalesce(e.listed_suite, e.only_suite) AS suite",
}
"""Column of a result -> SQL expression that combines two columns of _EACH."""


class BlockRow(Row, frozen=True):
    """A block of results, in the order of the report. Element n (from 0) of `durations_ms`, `facts`, `case_ids` and
    `suites` is about the result `first_result_id + n`.
    """

    table = Table(
        "result_blocks",
        VERSION,
        key=("first_result_id",),
        # Every search reads the whole pending list of the GIN index, so the list is kept short (512 kB).
        indexes=(
            "(first_result_id) WITH (fillfactor = 100)",
            "USING gin (case_ranges) WITH (gin_pending_list_limit = 512)",
            "(job_id)",
        ),
        append_only=True,
    )
    first_result_id: int
    job_id: Int
    results: Int
    first_case_id: Int | None
    """Id of the first result's test case if the test cases of all results have consecutive ids, else null. Exactly one
    of `first_case_id` and `case_ids` is null.
    """
    case_ids: Ints | None
    case_ranges: Ints
    """Ranges of the ids of the test cases, as `find_ranges` returns them."""
    durations_ms: Ints
    suite: SmallInt | None
    """Index of the suite in the report's `suites` if all results are in one suite, else null. Exactly one of `suite`
    and `suites` is null.
    """
    suites: SmallInts | None
    facts: SmallInts

    @property
    def cases(self) -> Sequence[int]:
        """Ids of the test cases."""
        if self.first_case_id is not None:
            return range(self.first_case_id, self.first_case_id + self.results)
        return self.case_ids or ()


def make_block(event: ResultsRecorded, stretches: Stretches) -> BlockRow:
    """Returns the block of an event. `stretches` are the result of `find_stretches` for the event's test cases. Raises
    ValueError if the columns of the event have different lengths.
    """
    facts = pack_facts(event)
    is_consecutive = len(stretches) == 1
    is_one_suite = len(facts) > 0 and event.suites == event.suites[:1] * len(facts)
    return BlockRow(
        first_result_id=event.first_result_id,
        job_id=event.job_id,
        results=len(facts),
        first_case_id=event.case_ids[0] if is_consecutive else None,
        case_ids=None if is_consecutive else event.case_ids,
        case_ranges=find_ranges(event.case_ids, stretches),
        durations_ms=event.durations_ms,
        suite=event.suites[0] if is_one_suite else None,
        suites=None if is_one_suite else event.suites,
        facts=facts,
    )


def find_ranges(case_ids: Int32s, stretches: Stretches) -> list[int]:
    """Returns the numbers of the ranges that these ids consist of. `stretches` are the result of `find_stretches` for
    the ids. The number of a range is the id in its middle, negated if the range has more than one id.
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


def pack_facts(event: ResultsRecorded) -> Int16s:
    """Returns the status, flags and attempt of each result, packed into 16 bits (see STATUS). Raises ValueError if the
    event's columns have different lengths.

    For speed it packs all results at once: one long integer has the low bytes of all results, another the high bytes.
    """
    count = len(event.case_ids)
    columns = (event.statuses, event.known_issues, event.flaky, event.quarantined or bytes(count))
    if any(
        len(column) != count for column in (*columns, event.attempts, event.finals, event.durations_ms, event.suites)
    ):
        raise ValueError("columns of different lengths")
    statuses, known, flaky, quarantined = map(int.from_bytes, columns)
    flaky |= int.from_bytes(event.flips.translate(_IS_FLAKY))
    attempts_low, attempts_high = (int.from_bytes(event.attempts.translate(table)) for table in _ATTEMPTS)
    inverted = int.from_bytes(event.finals.translate(_INVERTED))
    flags = statuses | known * KNOWN_ISSUE | flaky * FLAKY | quarantined * QUARANTINED
    both = bytearray(2 * count)
    both[0::2] = ((flags | attempts_low) ^ inverted).to_bytes(count)
    both[1::2] = (attempts_high ^ inverted).to_bytes(count)
    return Int16s.of(both)


# Tables for `bytes.translate`, which `pack_facts` uses: the low and the high byte of an attempt's bits, the bits to
# invert (all of a result that is not final), and whether a flip makes a result flaky.
_ATTEMPTS = (
    bytes(attempt * ATTEMPT & 0xFF for attempt in range(256)),
    bytes(attempt * ATTEMPT >> 8 for attempt in range(256)),
)
"""Translations of `attempts` to the low and to the high byte of the facts."""
_INVERTED = bytes([0xFF]) + bytes(255)
"""Translation of `finals` to the bits that are inverted in each byte of the facts: all for a retried result, else none.
"""
_IS_FLAKY = bytes(1) + b"\1" * 255
"""Translation of `flips` to 1 for a result that flipped, else 0."""


def has_case(case_id: str) -> str:
    """Returns the SQL condition that a block has results of a test case. `case_id` is an SQL expression for its id."""
    sizes = (1 << bit for bit in range(1, MAX_SIZE.bit_length()))
    numbers = [case_id, *(f"-(({case_id} & -{size}) | {size // 2})" for size in sizes)]
    return f"case_ranges && ARRAY[{', '.join(numbers)}]"


def positions_of(case_id: str) -> str:
    """Returns the SQL expression for the indexes of the results of a test case in the arrays of a block `block`. If the
    block has no results of the test case, an index may be outside of the arrays.
    """
    return f"coalesce(array_positions(block.case_ids, {case_id}), ARRAY[{case_id} - block.first_case_id + 1])"


def case_at(index: str) -> str:
    """Returns the SQL expression for the test case of the result with this index in the arrays of a block `b`."""
    return f"coalesce(b.case_ids[{index}], b.first_case_id + ({index})::int - 1)"


def select_each(*columns: str, blocks: str = f"{BlockRow.table} b") -> str:
    """Returns an SQL subquery with a row for each result, ordered by `block` and then by id, without a sort. The rows
    have `block`, `facts` and `columns`, which are keys of _EACH. Filter the rows by `block`, unless `blocks` is a join
    that has filtered the blocks.

    PostgreSQL computes every column of the subquery, also one that the query does not use, so ask for few.
    """
    wanted = [name for name in _EACH if name in {*columns, "facts"}]
    each = "".join(f", {_EACH[name]}" for name in wanted)
    joined = "".join(f", {_COALESCED.get(name, f'e.{name}')}" for name in wanted)
    inner = f"SELECT b.first_result_id AS block, b.results{each} FROM {blocks} ORDER BY b.first_result_id"
    return f"(SELECT e.block, e.results{joined} FROM ({inner}) e)"
