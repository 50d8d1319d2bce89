"""Test results, and the test cases that they are results of.

A test case is one test of a project across builds, named by its node id. The cases that a report brings anew are allotted in one event. Results come in
columns, about a thousand a event: one event of a large report is one compressed block, not a thousand maps.
"""

from typing import ClassVar

import msgspec

from domain.base import Category, Event

PASSED, FAILED, SKIPPED = 0, 1, 2
STATUSES = ("passed", "failed", "skipped")


class CasesSeen(Event, frozen=True):
    """New test cases; the n-th node id is case `first_case_id + n`."""

    name: ClassVar[str] = "test_cases.seen"
    project_id: int
    first_case_id: int
    node_ids: list[str]
    suites: list[str]
    """The suite of each case, as the report that brought it first said."""

    @property
    def stream(self) -> str:
        return f"project-{self.project_id}-cases"


class FailureText(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a result says besides its status; only results that say anything have one. `row` is its place in the columns."""

    row: int
    message: str = ""
    trace: str = ""
    fail_id: str = ""
    signature: str = ""
    test_resolution: str = ""
    system_out: str = ""
    system_err: str = ""
    properties: list[tuple[str, str]] = []


class ResultsRecorded(Event, frozen=True):
    """A block of results in report order; the n-th row is result `first_result_id + n`."""

    name: ClassVar[str] = "results.recorded"
    build_id: int
    job_id: int
    project_id: int
    first_result_id: int
    case_ids: list[int]
    statuses: bytes
    """One byte a row: 0 passed, 1 failed, 2 skipped."""
    durations_ms: list[int]
    attempts: bytes
    """One byte a row, from 1; 255 stands for 255 and more."""
    finals: bytes
    """One byte a row: 1 for a test's last attempt, which decides, else 0."""
    known_issues: bytes
    """One byte a row: 1 for a failure that the reporter calls a known issue; it does not fail the build."""
    texts: list[FailureText] = []
    commit_sha: str = ""

    @property
    def stream(self) -> str:
        return f"results-{self.build_id}"

    @property
    def data_key(self) -> str | None:
        return f"build-{self.build_id}"


class Catalogue(msgspec.Struct, frozen=True):
    """How many test cases a project has. Which ones is looked up in the read model at this stream's version."""

    cases: int = 0


def evolve(state: Catalogue, event: Event) -> Catalogue:
    match event:
        case CasesSeen():
            return Catalogue(state.cases + len(event.node_ids))
        case _:
            return state


CATALOGUE = Category("project-cases", Catalogue(), evolve)
EVENTS = (CasesSeen, ResultsRecorded)
