"""Advice about tests that are in quarantine, or whose failures a known issue explains."""

from domain.health_advice import (
    NEWEST_FAILURES,
    NO_DECISIONS,
    Decisions,
    KnownCause,
    QuarantineOf,
    describe_decisions,
    find_known_cause,
    find_newest_failures,
    settle_action,
)
from domain.run_histories import NotableRun, RunHistory
from domain.test_health import FAILED, OUTAGE, RETRIED

ISSUE = KnownCause(7, "XK-77")
SICK, HEALTHY = QuarantineOf(3, 5, has_recovered=False), QuarantineOf(4, 6, has_recovered=True)


def test_a_test_that_is_dealt_with_is_mended_and_not_put_into_quarantine() -> None:
    for decisions in (Decisions((SICK,)), Decisions((HEALTHY,)), Decisions(known=ISSUE)):
        assert settle_action("quarantine", decisions) == "fix"
        assert settle_action("investigate", decisions) == "investigate", "it broke, too"
        assert settle_action("none", decisions) == "none"
    assert settle_action("quarantine", NO_DECISIONS) == "quarantine"


def test_the_decisions_are_said() -> None:
    assert describe_decisions(NO_DECISIONS) == ""
    assert describe_decisions(Decisions((SICK,), ISSUE)) == (
        " Its newest failures have a known cause: known issue 7, “XK-77”."
        " It is in the quarantine of job 5: delete entry 3 once it is mended."
    )
    assert "in 10 builds in a row or more: if it was mended, delete entry 4" in describe_decisions(
        Decisions((HEALTHY,))
    )


def test_a_known_issue_explains_a_test_if_all_newest_failures_are_of_one() -> None:
    other = KnownCause(8, "XK-78")
    assert find_known_cause([other, ISSUE]) == other
    assert find_known_cause([ISSUE, None]) is None
    assert find_known_cause([]) is None


def test_only_failures_that_count_need_a_cause() -> None:
    flags = [FAILED, RETRIED, FAILED | OUTAGE, 0, *[FAILED] * NEWEST_FAILURES]
    notable = [NotableRun(number, 100 + number, 0, flag) for number, flag in enumerate(flags, 1)]
    expected = [(100 + number, False) for number in range(len(flags), len(flags) - NEWEST_FAILURES, -1)]
    assert find_newest_failures(RunHistory(notable, 20)) == expected
    assert find_newest_failures(RunHistory(notable[:4], 20)) == [(102, True), (101, False)]
