"""Grades answers by rules: whether an answer says what a case expects, and nothing that the case forbids.

A grade names every fault by a sentence, so that somebody who reads a failed evaluation need not compare texts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from domain.test_health import Action, Assessment, Risk, Trend


class Grade(NamedTuple):
    expected: str
    """The right answer in a few words."""
    got: str
    """The given answer in a few words."""
    faults: tuple[str, ...]
    """Sentences that say what is wrong; empty for a right answer."""

    @property
    def passed(self) -> bool:
        return not self.faults


class ExpectedHealth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The right assessment of a test. An empty list, or None, accepts every value."""

    action: tuple[Action, ...]
    risk: tuple[Risk, ...] = ()
    trend: tuple[Trend, ...] = ()
    flaky: bool | None = None


def grade_health(assessment: Assessment, expected: ExpectedHealth) -> Grade:
    faults: list[str] = []
    _check(faults, "recommended action", assessment.recommended_action, expected.action)
    _check(faults, "risk", assessment.risk, expected.risk)
    _check(faults, "trend", assessment.trend, expected.trend)
    if expected.flaky is not None and assessment.is_flaky != expected.flaky:
        verdict = "flaky" if assessment.is_flaky else "not flaky"
        faults.append(f"The test is taken as {verdict} (probability {assessment.flaky_probability:.2f}).")
    wanted = [_join(expected.action)]
    if expected.risk:
        wanted.append(f"{_join(expected.risk)} risk")
    got = f"{assessment.recommended_action}, {assessment.risk} risk"
    return Grade(", ".join(wanted), got, tuple(faults))


def _check(faults: list[str], what: str, value: str, accepted: Sequence[str]) -> None:
    if accepted and value not in accepted:
        faults.append(f"The {what} is {value}, not {_join(accepted)}.")


def _join(values: Sequence[str]) -> str:
    return " or ".join(values)
