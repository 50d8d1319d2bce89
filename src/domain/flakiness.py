"""Flakiness: tests with different results for the same code.

A result is flaky when it passed only after a failure of the same report, or when a result of the test in another build
of the job on the same commit was the opposite.

An episode begins with a run that passed only after a failure, or that flipped on its commit. It ends when STEADY_AFTER
runs in a row did neither; a later one begins a new episode.
"""

from typing import ClassVar

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event

STEADY_AFTER = 10
"""Steady runs in a row that end an episode."""


class TestTurnedFlaky(Event, frozen=True):
    """A test turned flaky; recorded once for each episode."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "test.turned_flaky"
    sealed: ClassVar[tuple[str, ...]] = ("node_id", "suite")
    test_case_id: int
    project_id: int
    job_id: int
    build_id: int
    """The build whose report has the flaky result."""
    result_id: int
    runs: int
    flaky_runs: int
    """The number of `runs` that were flaky, since the test is known."""
    node_id: str = ""
    suite: str = ""

    @property
    def stream(self) -> str:
        return f"test_case-{self.test_case_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class OtherResult(msgspec.Struct, frozen=True):
    """A result of another build on the same commit, which counts and is not skipped."""

    build_id: int
    suite: str
    case_id: int
    status: int


class Flakiness(msgspec.Struct, frozen=True):
    build_id: int | None = None
    """The build in which the last episode began."""


def evolve(state: Flakiness, event: Event) -> Flakiness:
    return Flakiness(event.build_id) if isinstance(event, TestTurnedFlaky) else state


FLAKINESS = Category("test_case", Flakiness(), evolve)
EVENTS = (TestTurnedFlaky,)
