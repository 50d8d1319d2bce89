"""Search for regressions: tests that passed until a commit, and have failed ever since."""

from collections.abc import Iterable, Sequence

import msgspec

from domain.assistant.answers import Answer, AnswerClaim
from domain.failures.first_failures import FirstFailure
from domain.phrases import count
from domain.test_health import FLAKY_FROM

MIN_FAILED_BUILDS = 2
"""Builds in a row in which a test must have failed. A single failure is no regression yet."""
MAX_NAMED = 3
"""Number of tests that a claim names."""
MAX_MESSAGE = 300
"""Number of characters of a failure's message that are shown."""


class FailingTest(msgspec.Struct, frozen=True):
    """A test whose newest result failed."""

    case_id: int
    name: str
    result_id: int
    message: str
    flaky_probability: float
    first_failure: FirstFailure | None


class Regression(msgspec.Struct, frozen=True):
    test: str
    test_case_id: int
    result_id: int
    """The newest failure."""
    message: str
    last_good_build: int
    last_good_commit: str | None
    first_bad_build: int
    commit: str | None
    """Commit of the first bad build; null if it is not known."""
    failed_builds: int
    """Builds in a row in which the test failed."""


def find_regressions(tests: Iterable[FailingTest]) -> list[Regression]:
    """Returns the regressions among tests: those with the newest first bad build first. Leaves out flaky tests, tests
    that passed and failed on one commit, and tests that are not known to have passed before.
    """
    found: list[Regression] = []
    for test in tests:
        first = test.first_failure
        if first is None or first.last_good is None or first.cause == "same_commit":
            continue
        if first.failed_builds < MIN_FAILED_BUILDS or test.flaky_probability >= FLAKY_FROM:
            continue
        found.append(
            Regression(
                test.name,
                test.case_id,
                test.result_id,
                test.message[:MAX_MESSAGE],
                first.last_good.build_id,
                first.last_good.commit_sha,
                first.first_bad.build_id,
                first.first_bad.commit_sha,
                first.failed_builds,
            )
        )
    return sorted(found, key=lambda one: (-one.first_bad_build, one.test_case_id))


def summarize_regressions(project_id: int, regressions: Sequence[Regression], checked: int) -> Answer:
    """Returns the regressions as an answer: one claim for each first bad build, with its sources."""
    if not regressions:
        text = f"None of {checked:,} failing tests has failed for good since a commit."
        return Answer((AnswerClaim(text, (f"project:{project_id}",)),), confidence=1.0)
    by_build: dict[tuple[int, int], list[Regression]] = {}
    for one in regressions:
        by_build.setdefault((one.first_bad_build, one.last_good_build), []).append(one)
    claims: list[AnswerClaim] = []
    for (bad, good), group in by_build.items():
        names = ", ".join(one.test for one in group[:MAX_NAMED])
        more = f" and {count(len(group) - MAX_NAMED, 'more test')}" if len(group) > MAX_NAMED else ""
        commit = next((one.commit for one in group if one.commit), None)
        on = f", which ran on commit {commit[:12]}" if commit else ""
        verb = "fails" if len(group) == 1 else "fail"
        refs = [f"build:{bad}", f"build:{good}", *(f"test:{one.result_id}" for one in group[:MAX_NAMED])]
        refs += [f"commit:{commit}"] if commit else []
        text = f"{names}{more} {verb} since build {bad}{on}. Build {good} was the last good one."
        claims.append(AnswerClaim(text, tuple(refs)))
    return Answer(tuple(claims), affected_tests=len(regressions), confidence=1.0)
