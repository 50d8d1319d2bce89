"""Flakiness: a test that gives different answers for the same code.

An episode begins with a run that passed only after a failure of the same build, or that flipped on the commit of the
run before. It ends when STEADY_AFTER runs in a row were neither; what comes then is a new episode.
"""

from typing import ClassVar

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event

STEADY_AFTER = 10


class TestTurnedFlaky(Event, frozen=True):
    """Once an episode."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "test.turned_flaky"
    sealed: ClassVar[tuple[str, ...]] = ("node_id", "suite")
    test_case_id: int
    project_id: int
    job_id: int
    build_id: int
    """The build whose report showed it."""
    result_id: int
    runs: int
    flaky_runs: int
    """Of `runs`, since the test is known."""
    node_id: str = ""
    suite: str = ""

    @property
    def stream(self) -> str:
        return f"test_case-{self.test_case_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class Flakiness(msgspec.Struct, frozen=True):
    build_id: int | None = None
    """With which the last episode began."""


def evolve(state: Flakiness, event: Event) -> Flakiness:
    return Flakiness(event.build_id) if isinstance(event, TestTurnedFlaky) else state


FLAKINESS = Category("test_case", Flakiness(), evolve)
EVENTS = (TestTurnedFlaky,)
