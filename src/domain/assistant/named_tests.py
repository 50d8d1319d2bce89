"""States of the tests that a question names: whether each fails now, by its newest run that counts, and how its earlier
runs ended.
"""

from collections.abc import Iterator

import msgspec

from domain.assistant.answers import AnswerClaim
from domain.phrases import count
from domain.run_histories import RunHistory
from domain.test_health import BROKEN_BUILD, FAILED, LEFT_OUT, OTHER_BRANCH, OUTAGE, RETRIED

_REASONS = {
    BROKEN_BUILD: "most tests of that build failed",
    OUTAGE: "the machine, the network or another system made it fail",
    OTHER_BRANCH: "it is of another branch",
}


class NamedTest(msgspec.Struct, frozen=True):
    """A test case that a message names, with numbers of its runs. Only runs that say something about the test count."""

    case_id: int
    name: str
    runs: int
    failed_runs: int
    retried_runs: int = 0
    """Number of runs that passed only on a retry."""
    left_out: int = 0
    """Number of failed runs that do not count."""
    is_failing: bool = False
    """Whether the newest run that counts failed."""
    failed_build: int | None = None
    """Build of the newest run that counts and failed; None if there is no such run."""
    passed_since: int = 0
    """Number of runs that passed since `failed_build`."""
    left_out_build: int | None = None
    """Id of the build of the test's newest run, if this run failed but does not count since the build is broken or the
    failure is an outage; otherwise None.
    """
    left_out_reason: str = ""
    missed_builds: int = 0
    """If the newest run that counts failed: number of later builds of the job in which the test did not run."""

    @property
    def ref(self) -> str:
        return f"test_case:{self.case_id}"


def make_named_test(case_id: int, name: str, history: RunHistory) -> NamedTest:
    """Returns the state of a test, as its run history shows it."""
    left_out = [run for run in history.notable if run.flags & LEFT_OUT]
    failed = [run for run in history.notable if run.flags & FAILED and not run.flags & LEFT_OUT]
    newest = failed[-1] if failed else None
    since = 0 if newest is None else newest.number
    last = history.notable[-1] if history.notable else None
    is_last_left_out = last is not None and last.number >= history.runs and last.flags & (BROKEN_BUILD | OUTAGE) != 0
    reasons = [] if last is None else [reason for flag, reason in _REASONS.items() if last.flags & flag]
    return NamedTest(
        case_id=case_id,
        name=name,
        runs=history.runs - len(left_out),
        failed_runs=len(failed),
        retried_runs=sum(run.flags & RETRIED != 0 and not run.flags & (LEFT_OUT | FAILED) for run in history.notable),
        left_out=len(left_out),
        is_failing=history.find_failing() is not None,
        failed_build=None if newest is None else newest.build_id,
        passed_since=max(0, history.runs - since - sum(run.number > since for run in left_out)),
        left_out_build=last.build_id if last is not None and is_last_left_out else None,
        left_out_reason=reasons[0] if is_last_left_out else "",
    )


def describe_state(test: NamedTest) -> str:
    """Returns sentences that say whether a test fails now, and if not, in which build it failed last."""
    name, others = test.name, _count_left_out(test)
    if test.is_failing and test.missed_builds:
        return (
            f"{name} failed in its newest run that counts, in build {test.failed_build}:"
            f" {describe_missed(test.missed_builds)}{others}"
        )
    if test.is_failing:
        return f"{name} fails now: its newest run that counts, in build {test.failed_build}, failed.{others}"
    if test.left_out_build is not None:
        counting = f"{test.failed_runs or 'None'} of its {count(test.runs, 'run')} that count failed."
        return (
            f"{name} failed in its newest run, in build {test.left_out_build}, which does not count:"
            f" {test.left_out_reason}. {counting if test.runs else 'It has no run that counts.'}"
        )
    if test.failed_build is None:
        if not test.runs:
            return f"{name} has no run that counts.{others}"
        runs = "the only run" if test.runs == 1 else f"all {test.runs:,} runs"
        retried = f", {test.retried_runs:,} on a retry" if test.retried_runs else ""
        which = " that count" if test.left_out else ""
        return f"{name} has not failed: {runs}{which} passed{retried}.{others}"
    since = f" {count(test.passed_since, 'run')} since then passed." if test.passed_since else ""
    return f"{name} passes now. It failed last in build {test.failed_build}.{since}{others}"


def describe_missed(missed: int, *, is_one: bool = True) -> str:
    """Returns a sentence that says in how many newer builds of the job the failing test did not run. With
    `is_one=False`, the sentence is about several tests.
    """
    why = (
        "it: it may have been removed, or is skipped" if is_one else "them: they may have been removed, or are skipped"
    )
    return f"{count(missed, 'newer build')} of the job did not run {why}."


def _count_left_out(test: NamedTest) -> str:
    verb = "does" if test.left_out == 1 else "do"
    return f" {count(test.left_out, 'other failure')} {verb} not count." if test.left_out else ""


def describe_states(tests: tuple[NamedTest, ...]) -> Iterator[AnswerClaim]:
    """Yields a claim for each test that says whether the test fails now."""
    for test in tests:
        builds = dict.fromkeys(build for build in (test.failed_build, test.left_out_build) if build is not None)
        yield AnswerClaim(describe_state(test), (test.ref, *(f"build:{build}" for build in builds)))
