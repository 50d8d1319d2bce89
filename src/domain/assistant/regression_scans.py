"""Search for regressions: tests that passed until a commit and have failed ever since, or have failed since their first
run.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from domain.assistant.answers import Answer, AnswerClaim
from domain.assistant.job_states import JobState, describe_jobs, is_red
from domain.assistant.named_tests import describe_missed
from domain.failures.first_failures import FirstFailure
from domain.phrases import count
from domain.test_health import FLAKY_FROM

MIN_FAILED_BUILDS = 2
"""Least number of builds in a row in which a regression has failed. A single failure is no regression yet."""
MAX_NAMED = 3
"""Largest number of tests that a claim names."""
MAX_MESSAGE = 300
"""Largest number of characters that are shown of a failure's message."""


class FailingTest(msgspec.Struct, frozen=True):
    """A test whose newest result failed."""

    case_id: int
    name: str
    result_id: int
    message: str
    flaky_probability: float
    first_failure: FirstFailure | None
    has_passed: bool = True
    """Whether any run of the test has passed, on any branch."""
    failing_runs: int = 0
    """Number of runs that count, and that failed or passed only on a retry."""
    last_build: int = 0
    """Id of the build of the newest run."""
    missed_builds: int = 0
    """Number of builds of the job after `last_build`, in which the test did not run."""


class Regression(msgspec.Struct, frozen=True):
    test: str
    test_case_id: int
    result_id: int
    """Id of the test's newest failed result."""
    message: str
    last_good_build: int | None
    """Last build before the failures in which the test passed. Null if the test has failed since its first run on this
    branch and combination of a matrix.
    """
    last_good_commit: str | None
    first_bad_build: int
    commit: str | None
    """Commit of the first bad build; null if it is not known."""
    failed_builds: int
    """Number of builds in a row in which the test failed."""
    has_passed: bool = True
    """Whether any run of the test has passed, on any branch."""
    last_failed_build: int = 0
    missed_builds: int = 0
    """Number of builds of the job after `last_failed_build`, in which the test did not run: it was removed, or is
    skipped.
    """


def find_regressions(tests: Iterable[FailingTest]) -> list[Regression]:
    """Returns the tests that are regressions. Tests that still run come first, and among these the regression with the
    newest first bad build.

    A test that has failed since its first run is a regression, since the commit that added it was bad. Flaky tests are
    no regressions, and neither are tests that passed and failed on one commit.
    """
    found: list[Regression] = []
    for test in tests:
        first = test.first_failure
        if first is None or first.cause == "same_commit":
            continue
        # The failures in a row alone do not show that it is flaky, however short its history is.
        is_flaky = test.flaky_probability >= FLAKY_FROM and test.failing_runs > first.failed_builds
        if first.failed_builds < MIN_FAILED_BUILDS or is_flaky:
            continue
        found.append(
            Regression(
                test.name,
                test.case_id,
                test.result_id,
                test.message[:MAX_MESSAGE],
                None if first.last_good is None else first.last_good.build_id,
                None if first.last_good is None else first.last_good.commit_sha,
                first.first_bad.build_id,
                first.first_bad.commit_sha,
                first.failed_builds,
                test.has_passed,
                test.last_build,
                test.missed_builds,
            )
        )
    return sorted(found, key=lambda one: (one.missed_builds > 0, -one.first_bad_build, one.test_case_id))


def summarize_regressions(
    project_id: int, regressions: Sequence[Regression], checked: int, jobs: Sequence[JobState] = ()
) -> Answer:
    """Returns the regressions as an answer: one claim for each first bad build, with its sources. Also says how many of
    the `checked` failing tests are no regressions, and which of the `jobs` are red.
    """
    claims: list[AnswerClaim] = []
    if checked > len(regressions):
        left = checked - len(regressions)
        which = "other failing test" if regressions else "failing test"
        is_are = "is no regression: it is" if left == 1 else "are no regressions: they are"
        text = f"{count(left, which)} {is_are} probably flaky, or failed in one build only."
        claims.append(AnswerClaim(text, (f"project:{project_id}",)))
    elif not checked:
        text = "No test fails now by its newest run that counts on a default branch."
        claims.append(AnswerClaim(text, (f"project:{project_id}",)))
    if any(is_red(job.status) for job in jobs):
        claims += describe_jobs(jobs)
    found = tuple(_describe(regressions))
    return Answer((*found, *claims), affected_tests=len(regressions), confidence=1.0)


def _describe(regressions: Sequence[Regression]) -> Iterator[AnswerClaim]:
    groups: dict[tuple[int, int | None, bool, int, int], list[Regression]] = {}
    for one in regressions:
        last = one.last_failed_build if one.missed_builds else 0
        key = (one.first_bad_build, one.last_good_build, one.has_passed, last, one.missed_builds)
        groups.setdefault(key, []).append(one)
    for (bad, good, has_passed, last, missed), group in groups.items():
        names = ", ".join(one.test for one in group[:MAX_NAMED])
        more = f" and {count(len(group) - MAX_NAMED, 'more test')}" if len(group) > MAX_NAMED else ""
        commit = next((one.commit for one in group if one.commit), None)
        on = f", which ran on commit {commit[:12]}" if commit else ""
        verb = "failed" if missed else "fails" if len(group) == 1 else "fail"
        refs = [f"build:{bad}", *([] if good is None else [f"build:{good}"])]
        refs += [*(f"test:{one.result_id}" for one in group[:MAX_NAMED]), *([f"commit:{commit}"] if commit else [])]
        text = f"{names}{more} {verb} since build {bad}{on}. Build {good} was the last good one."
        if good is None:
            first = "the first run" if not has_passed else "the first run on its branch and combination of the matrix"
            text = f"{names}{more} {verb} since {first}, in build {bad}{on}."
        if missed:
            text += f" The last run was in build {last}: {describe_missed(missed, is_one=len(group) == 1)}"
            refs.append(f"build:{last}")
        yield AnswerClaim(text, tuple(dict.fromkeys(refs)))
