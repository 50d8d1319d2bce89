"""Flakiness: tests with different results for the same code.

There are two rules, for results and for runs. A run of a test is its last attempt in a report, if this attempt passed
or failed. Both a result and a run are flaky if they passed, but an earlier attempt in the same report failed. Besides:

- A result is flaky if any other build of the job on the same commit had the opposite result.
- A run is flaky if the test's previous run on the same commit had the opposite result. Then it has flipped.

Only runs make a test turn flaky. A test turns flaky with a flaky run, and is steady again after STEADY_AFTER runs in a
row that are not flaky. Then the next flaky run makes it turn flaky once more.

Flakiness of a test *emerges* when it begins to fail, or to pass on a retry only, more often than before. It is
*settled* when the runs since then no longer show that. `domain.test_health.observe` decides both.
"""

from typing import ClassVar

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event

STEADY_AFTER = 10
"""Number of runs in a row, none of them flaky, after which a test counts as steady again."""


class TestCaseEvent(Event, frozen=True):
    """An event of one test case."""

    __test__: ClassVar[bool] = False
    sealed: ClassVar[tuple[str, ...]] = ("node_id", "suite")
    test_case_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"test_case-{self.test_case_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class TestTurnedFlaky(TestCaseEvent, frozen=True):
    """A test turned flaky. Not recorded again for further flaky runs, until the test was steady."""

    name: ClassVar[str] = "test.turned_flaky"
    job_id: int
    build_id: int
    """The build whose report has the flaky result."""
    result_id: int
    runs: int
    flaky_runs: int
    """Number of flaky runs of the test so far. `runs` is the number of all its runs so far."""
    node_id: str = ""
    suite: str = ""


class FlakinessEmerged(TestCaseEvent, frozen=True):
    """A test has begun to fail, or to pass on a retry only, more often than before. Not recorded again until it is
    settled.
    """

    name: ClassVar[str] = "test.flakiness_emerged"
    job_id: int
    build_id: int
    """Id of the build whose results showed that flakiness has emerged."""
    first_build_id: int
    """Id of the build with the first failing run of the period in which failures are more frequent. The beginning of
    this period is an estimate.
    """
    runs: int
    """Number of runs of the test so far."""
    baseline_runs: int
    baseline_failing: int
    """Number of the `baseline_runs`, the runs before failures became more frequent, that failed or passed on a retry
    only.
    """
    recent_runs: int
    recent_failing: int
    """Number of the `recent_runs`, the runs since failures are more frequent, that failed or passed on a retry only."""
    node_id: str = ""
    suite: str = ""


class FlakinessSettled(TestCaseEvent, frozen=True):
    """The flakiness that had emerged in a test is over."""

    name: ClassVar[str] = "test.flakiness_settled"
    job_id: int
    build_id: int
    """Id of the build whose results showed that the flakiness is over."""
    runs: int
    """Number of runs of the test so far."""
    emerged_build_id: int = 0
    """`build_id` of the `test.flakiness_emerged` event whose flakiness is over."""
    node_id: str = ""
    suite: str = ""


class OtherResult(msgspec.Struct, frozen=True):
    """Result of a test in another build of the job on the same commit. `status` is PASSED or FAILED, never SKIPPED."""

    build_id: int
    suite: str
    case_id: int
    status: int


class Flakiness(msgspec.Struct, frozen=True):
    build_id: int | None = None
    """The build in which the test last turned flaky. None if it never did."""
    emerged_build_id: int | None = None
    """Id of the build that showed that flakiness had emerged. None if no flakiness has emerged, or if it is settled."""


def evolve(state: Flakiness, event: Event) -> Flakiness:
    match event:
        case TestTurnedFlaky():
            return msgspec.structs.replace(state, build_id=event.build_id)
        case FlakinessEmerged():
            return msgspec.structs.replace(state, emerged_build_id=event.build_id)
        case FlakinessSettled():
            return msgspec.structs.replace(state, emerged_build_id=None)
        case _:
            return state


FLAKINESS = Category("test_case", Flakiness(), evolve)
EVENTS = (TestTurnedFlaky, FlakinessEmerged, FlakinessSettled)
