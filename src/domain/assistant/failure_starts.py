"""Decides whether failed tests began to fail with a commit, or have failed like this before."""

import re
from collections.abc import Collection, Sequence

import msgspec

from domain.assistant.evidence import FailedTest, PastFailure
from domain.failures.first_failures import LASTING_BUILDS
from domain.test_health import BROKEN_FROM, FLAKY_FROM

MIN_EARLIER = 2
"""Number of earlier failures of a test that must be known before a new failure can count as unlike them."""
_TYPE = re.compile(r"\A(?:E {1,6})?\s{0,8}([A-Za-z_][\w.$]{0,120})(?=:)")
"""Matches the type of the error at the beginning of a message."""


def is_unlike(test: FailedTest, earlier: Sequence[str]) -> bool:
    """Returns whether the type of a test's error differs from the types of all errors in the messages `earlier`.
    Returns False if there are fewer than MIN_EARLIER messages, or if the type of any of these errors is unknown.
    """
    types = [None if (found := _TYPE.search(message)) is None else found[1] for message in (test.message, *earlier)]
    return len(earlier) >= MIN_EARLIER and None not in types and types[0] not in types[1:]


def is_flaky_by_history(test: FailedTest) -> bool:
    """Returns whether the test is flaky by its earlier runs, and nothing shows that this failure differs from earlier
    ones.
    """
    return has_flaky_record(test) and not test.is_unlike


def has_flaky_record(test: FailedTest) -> bool:
    """Returns whether the test is flaky by its runs. One failure, or one streak of failures, is not enough: most single
    failures are of flaky tests, but the first failure of a broken test looks the same.
    """
    record, began = test.record, test.first_bad
    if record is None or record.flaky_probability < FLAKY_FROM or record.broken_probability >= BROKEN_FROM:
        return False
    return record.failed_runs > (1 if began is None else began.failed_builds)


def is_lasting(test: FailedTest) -> bool:
    """Returns whether the test will probably fail again when the build is run again: a commit broke it, it has failed
    in LASTING_BUILDS builds in a row, or its runs say that the code is broken.
    """
    if (began := test.first_bad) is not None:
        return began.cause == "commit" or (began.cause != "same_commit" and began.failed_builds >= LASTING_BUILDS)
    return test.record is not None and test.record.broken_probability >= BROKEN_FROM


def mark_recurring(
    tests: Sequence[FailedTest], past: Sequence[PastFailure], unlike: Collection[int] = ()
) -> list[FailedTest]:
    """Returns the tests with two changes. A test that a commit seems to have broken gets the cause `recurring` if it is
    flaky by its history, or if it failed with the same signature before it last passed. A test whose result id is in
    `unlike` is marked with `is_unlike`: this failure is unlike all earlier failures of the test.
    """
    tests = [msgspec.structs.replace(test, is_unlike=test.result_id in unlike) for test in tests]
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
