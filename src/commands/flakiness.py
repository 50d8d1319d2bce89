"""Commands on flaky tests: record tests that became flaky, and tests whose flakiness emerged or settled.
`workers/flakiness.py` and `workers/emerging.py` decide which tests these are; `reports/reading.py` and
`reports/flips.py` decide which results are flaky.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from commands.handler import Command
from domain.core.events import AnyStream, Event
from domain.flakiness import FLAKINESS, Flakiness, FlakinessEmerged, FlakinessSettled, TestTurnedFlaky


@dataclass(frozen=True)
class RecordFlakyTests(Command):
    """Records that tests became flaky in a build. Leaves out a test that is already recorded for the build."""

    tests: tuple[TestTurnedFlaky, ...]

    def reads(self) -> Sequence[AnyStream]:
        return tuple(FLAKINESS.at(test.test_case_id) for test in self.tests)

    def decide(self, *states: Flakiness) -> Iterable[Event]:
        for test, state in zip(self.tests, states, strict=True):
            if test.build_id != state.build_id:
                yield test


@dataclass(frozen=True)
class RecordChangedFlakiness(Command):
    """Records that the flakiness of tests emerged or settled. Leaves out a test whose
    flakiness would emerge but already has, and a test whose flakiness would settle but has not emerged.
    """

    tests: tuple[FlakinessEmerged | FlakinessSettled, ...]

    def reads(self) -> Sequence[AnyStream]:
        return tuple(FLAKINESS.at(test.test_case_id) for test in self.tests)

    def decide(self, *states: Flakiness) -> Iterable[Event]:
        for test, state in zip(self.tests, states, strict=True):
            if isinstance(test, FlakinessEmerged):
                if state.emerged_build_id is None:
                    yield test
            elif state.emerged_build_id is not None:
                yield msgspec.structs.replace(test, emerged_build_id=state.emerged_build_id)
