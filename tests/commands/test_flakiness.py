"""Tests that turned flaky are recorded once, and again after they were steady."""

import msgspec

from commands.flakiness import RecordFlakyTests
from domain.flakiness import TestTurnedFlaky
from projections.flakiness import FlakyCase
from tests.support.spec import given
from workers.flakiness import FlakyVerdict, judge

TURNED = TestTurnedFlaky(
    test_case_id=4, project_id=1, job_id=5, build_id=7, result_id=9, runs=3, flaky_runs=1, node_id="a", suite="s"
)


def test_once_a_build() -> None:
    later = msgspec.structs.replace(TURNED, build_id=8)
    other = msgspec.structs.replace(TURNED, test_case_id=5)
    given().when(RecordFlakyTests((TURNED, other))).then(TURNED, other)
    given(TURNED).when(RecordFlakyTests((TURNED, other))).then(other)
    given(TURNED).when(RecordFlakyTests((later,))).then(later)


def test_when_a_test_turns_flaky_again() -> None:
    def of(runs: int, flaky_runs: int, seen: tuple[int, int] | None) -> FlakyVerdict:
        return judge(FlakyCase(4, runs, flaky_runs, "a", "s"), seen)

    assert of(3, 1, None) == (True, True)
    assert of(4, 1, (3, 1)) == (False, False), "this run was steady"
    assert of(4, 2, (3, 1)) == (False, True), "too soon after the last flaky run"
    assert of(13, 2, (3, 1)) == (False, True), "nine steady runs are too few"
    assert of(14, 2, (3, 1)) == (True, True), "ten are enough"
    assert of(3, 1, (3, 2)) == (False, True), "a run was corrected"
