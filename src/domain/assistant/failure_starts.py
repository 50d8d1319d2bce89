"""Judgement of where failed tests began to fail: with a commit, or once more."""

from collections.abc import Sequence

import msgspec

from domain.assistant.evidence import FailedTest, PastFailure
from domain.test_health import BROKEN_FROM, FLAKY_FROM

MIN_LASTING = 3
"""Number of builds in a row in which a test must have failed, so that it will probably fail again."""


def is_flaky_by_history(test: FailedTest) -> bool:
    """Returns whether the test is flaky as far as its runs say so. A single failure says nothing about that: most
    failures that come once are of flaky tests, but it is the first one of a broken test, too.
    """
    record, began = test.record, test.first_bad
    if record is None or record.flaky_probability < FLAKY_FROM or record.broken_probability >= BROKEN_FROM:
        return False
    return record.failed_runs > (1 if began is None else began.failed_builds)


def is_lasting(test: FailedTest) -> bool:
    """Returns whether the test will probably fail again when the build is run again: since a commit, in builds in a
    row, or as far as its runs say so.
    """
    if (began := test.first_bad) is not None:
        return began.cause == "commit" or (began.cause != "same_commit" and began.failed_builds >= MIN_LASTING)
    return test.record is not None and test.record.broken_probability >= BROKEN_FROM


def mark_recurring(tests: Sequence[FailedTest], past: Sequence[PastFailure]) -> list[FailedTest]:
    """Returns the tests without a commit as the cause for those that are flaky, or that failed with the same signature
    before they passed last.
    """
    return [
        msgspec.structs.replace(test, first_bad=msgspec.structs.replace(began, cause="recurring"))
        if (began := test.first_bad) is not None and began.cause == "commit" and _is_recurring(test, past)
        else test
        for test in tests
    ]


def _is_recurring(test: FailedTest, past: Sequence[PastFailure]) -> bool:
    assert test.first_bad is not None
    last_good = test.first_bad.last_good_build or 0
    before = any(
        one.is_equal and (one.name, one.signature) == (test.name, test.signature) and one.build_id < last_good
        for one in past
    )
    return before or is_flaky_by_history(test)
