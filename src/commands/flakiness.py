"""Commands on flaky tests: record tests that became flaky. `workers/flakiness.py` decides which these are;
`reports/reading.py` and `reports/flips.py` decide which results are flaky.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from domain.core.events import AnyStream, Event
from domain.flakiness import FLAKINESS, Flakiness, TestTurnedFlaky


@dataclass(frozen=True)
class RecordFlakyTests(Command):
    """Records that tests became flaky in a build. Each test is recorded once for each build."""

    tests: tuple[TestTurnedFlaky, ...]

    def reads(self) -> Sequence[AnyStream]:
        return tuple(FLAKINESS.at(test.test_case_id) for test in self.tests)

    def decide(self, *states: Flakiness) -> Iterable[Event]:
        for test, state in zip(self.tests, states, strict=True):
            if test.build_id != state.build_id:
                yield test
