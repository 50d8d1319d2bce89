"""Test results and test cases.

A test case is one test of a project across builds, named by its node id. When a report contains new test cases, one
event gives ids to all of them. A `results.recorded` has up to about a thousand results. It stores them as columns,
which need less space than a map for each result.
"""

from hashlib import blake2b
from itertools import compress
from typing import Any, ClassVar, Literal, get_args

import msgspec

from domain.core.columns import Int16s, Int32s
from domain.core.data_keys import build_key, project_key
from domain.core.events import Category, Event

PASSED, FAILED, SKIPPED = 0, 1, 2
ResultStatus = Literal["passed", "failed", "skipped"]
STATUSES: tuple[ResultStatus, ...] = get_args(ResultStatus)
MAX_TEST_ATTEMPTS = 255
MAX_SUITES = 5_000
OTHER_SUITES = "(other suites)"
"""Name that stands for all suites of a report after the first MAX_SUITES."""
DIFFERED = 1
"""Value of `ResultsRecorded.flips`: one of the test's results in other builds of the job on the same commit was the
opposite of this result.
"""
FLIPPED = 2
"""Value of `ResultsRecorded.flips`: the latest of the test's results in other builds of the job on the same commit was
the opposite of this result.
"""


class CasesSeen(Event, frozen=True):
    """A report contained new test cases. The n-th node id (from 0) gets the case id `first_case_id + n`."""

    name: ClassVar[str] = "test_cases.seen"
    sealed: ClassVar[tuple[str, ...]] = ("node_ids", "suites")
    project_id: int
    first_case_id: int
    node_ids: list[str] = []
    suites: list[str] = []
    """For each node id, the first suite of the report that contains the test."""

    @property
    def stream(self) -> str:
        return cases_stream(self.project_id)

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class ResultText(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The texts of one result. `row` is the index of the result in the columns of `ResultsRecorded`. A result without
    texts has no ResultText.
    """

    row: int
    message: str = ""
    trace: str = ""
    fail_id: str = ""
    signature: str = ""
    test_resolution: str = ""
    system_out: str = ""
    system_err: str = ""
    properties: list[tuple[str, str]] = []


class Replaced(msgspec.Struct, frozen=True, array_like=True):
    """An earlier result that a result of this block replaces. The two come from different files of one build attempt.
    Only older releases replaced single results.
    """

    row: int
    """Row, in this block, of the result that replaces the earlier one."""
    result_id: int
    status: int


class ResultsRecorded(Event, frozen=True):
    """A block of results in the order of the report. Row n (from 0) is the result with the id `first_result_id + n`."""

    name: ClassVar[str] = "results.recorded"
    class_version: ClassVar[int] = 3
    sealed: ClassVar[tuple[str, ...]] = ("texts",)
    build_id: int
    job_id: int
    project_id: int
    first_result_id: int
    case_ids: Int32s
    suites: Int16s
    """Indexes into the report's list of suites."""
    durations_ms: Int32s
    statuses: bytes
    """One byte a row: 0 passed, 1 failed, 2 skipped."""
    attempts: bytes
    """One byte a row: number of the attempt, from 1; 255 stands for 255 and more."""
    finals: bytes
    """One byte a row: 1 if the row is the attempt that counts for its test in its suite, else 0. The last attempt
    counts. But if all attempts after a failure were skipped, the failure counts.
    """
    known_issues: bytes
    """One byte a row: 1 for a failure that the report calls a known issue, which does not fail the build; else 0."""
    flaky: bytes
    """One byte a row: 1 for a last attempt that passed after an earlier attempt in this report failed; else 0."""
    texts: list[ResultText] = []
    replaced: list[Replaced] = []
    """Earlier results that no longer count. Only events of older releases have any."""
    commit: int = 0
    """`commit_number` of the build's commit. It is not sealed, so that flips on the same commit are found even after
    the build was erased.
    """
    quarantined: bytes = b""
    """One byte a row: 1 for a failure that would fail the build if its test were not in the job's quarantine, else 0.
    Empty when all are 0.
    """
    flips: bytes = b""
    """One byte a row: 0, DIFFERED or FLIPPED, as known when the report was recorded. Empty when all are 0, and in older
    events.
    """
    outages: bytes = b""
    """One byte a row: 1 for the attempt that counts for its test if it failed because of an outage (of the machine, the
    network or another system), or if it passed after failures that were all outages; else 0. Empty when all are 0, and
    in older events.
    """

    @property
    def stream(self) -> str:
        return results_stream(self.build_id)

    @property
    def data_key(self) -> str | None:
        return build_key(self.project_id, self.job_id, self.build_id)


class ResultsReplaced(Event, frozen=True):
    """A block of results no longer counts, because its report was replaced or its build attempt was lost. The event
    contains no skipped results and no earlier attempts of retried tests, since these never counted.
    """

    name: ClassVar[str] = "results.replaced"
    build_id: int
    job_id: int
    project_id: int
    case_ids: Int32s
    statuses: bytes
    """One byte a row: 0 passed, 1 failed."""
    flaky: bytes
    """One byte a row: 1 if the result was flaky (`find_flaky`), else 0."""
    outages: bytes = b""
    """One byte a row: 1 for an outage, else 0. Empty if the block has no outages."""

    @property
    def stream(self) -> str:
        return results_stream(self.build_id)


def find_flaky(event: ResultsRecorded) -> bytes:
    """Returns one byte for each row: 1 if the test passed on a retry, or its result is the opposite of its previous run
    on the same commit (FLIPPED); else 0.
    """
    if not event.flips:
        return event.flaky
    return bytes(flaky or flip == FLIPPED for flaky, flip in zip(event.flaky, event.flips, strict=True))


def count_no_more(block: ResultsRecorded) -> ResultsReplaced:
    """Returns the event that removes the results of `block` from the counts of their test cases."""
    kept = [final and status != SKIPPED for final, status in zip(block.finals, block.statuses, strict=True)]
    return ResultsReplaced(
        build_id=block.build_id,
        job_id=block.job_id,
        project_id=block.project_id,
        case_ids=Int32s(compress(block.case_ids, kept)),
        statuses=bytes(compress(block.statuses, kept)),
        flaky=bytes(compress(find_flaky(block), kept)),
        outages=bytes(compress(block.outages, kept)),
    )


def commit_number(commit_sha: str) -> int:
    """Returns a number that identifies a commit but does not reveal it; 0 for an empty `commit_sha`."""
    if not commit_sha:
        return 0
    return int.from_bytes(blake2b(commit_sha.lower().encode(), digest_size=7).digest()) + 1


def without_commit_name(first: dict[str, Any]) -> dict[str, Any]:
    """Upcasts version 1, which contained the commit as plain text, to version 2."""
    return {name: value for name, value in first.items() if name != "commit_sha"} | {
        "commit": commit_number(first.get("commit_sha", ""))
    }


def with_packed_columns(second: dict[str, Any]) -> dict[str, Any]:
    """Upcasts version 2, which stored columns of integers as lists, to version 3, which stores them as bytes."""
    return second | {
        "case_ids": Int32s(second["case_ids"]).stored,
        "suites": Int16s(second["suites"]).stored,
        "durations_ms": Int32s(second["durations_ms"]).stored,
    }


def cases_stream(project_id: int) -> str:
    return f"project-{project_id}-cases"


def results_stream(build_id: int) -> str:
    return f"results-{build_id}"


def evolve(state: tuple[ResultsRecorded | None, ...], event: Event) -> tuple[ResultsRecorded | None, ...]:
    return (*state, event if isinstance(event, ResultsRecorded) else None)


RESULTS = Category[tuple[ResultsRecorded | None, ...]]("results", (), evolve)
"""The state of a build's results stream has one item for each event, at the index of the event's version minus one: the
block of results, or None for an event of another type.
"""
EVENTS = (CasesSeen, ResultsRecorded, ResultsReplaced)
