"""Search for the commit that broke a test: it lies between the last run that passed and the first run that failed."""

from collections.abc import Collection, Iterable
from typing import Literal

import msgspec

from domain.results import FAILED, PASSED

LASTING_BUILDS = 3
"""A test that has failed in this many builds in a row will probably fail in the next build, too."""


class BuildOutcome(msgspec.Struct, frozen=True):
    """Outcome of a test in one build."""

    build_id: int
    commit_sha: str | None
    failed: bool


class FirstFailure(msgspec.Struct, frozen=True):
    """Where a test began to fail, on one branch of one job."""

    first_bad: BuildOutcome
    last_good: BuildOutcome | None
    """The last build before `first_bad` in which the test passed; None if the test passed in none of the earlier builds
    that were searched.
    """
    failed_builds: int
    """Number of builds in a row in which the test failed, from `first_bad` to the build that is asked about."""
    is_outage: bool = False
    """Whether the failure that is asked about is of the infrastructure, so that no commit is to blame."""
    is_first_run: bool = False
    """Whether `first_bad` is the first build in which the test ran."""
    passed_in: int | None = None
    """Another build of the job on the commit of `first_bad`, on any branch, in which the test passed."""

    @property
    def cause(self) -> Literal["commit", "same_commit", "unknown"]:
        """Why the test began to fail. `commit`: a commit broke the test. `same_commit`: the test passed and failed on
        one commit, so no commit broke it. `unknown`: no build in which the test passed was found, a commit is not
        known, or the infrastructure failed. The cause is `unknown`, too, if the test passed in another build on the
        commit of `first_bad`, but has failed here in LASTING_BUILDS builds in a row: then another difference between
        the branches broke the test.
        """
        if self.is_outage or not self.first_bad.commit_sha:
            return "unknown"
        good_commit = None if self.last_good is None else self.last_good.commit_sha
        if good_commit == self.first_bad.commit_sha:
            return "same_commit"
        if self.passed_in is not None:
            return "same_commit" if self.failed_builds < LASTING_BUILDS else "unknown"
        return "commit" if good_commit else "unknown"


def find_first_failure(
    results: Iterable[tuple[int, str | None, int]], left_out: Collection[int] = (), *, is_complete: bool = False
) -> FirstFailure | None:
    """Returns where the newest failures of a test began; None if the test did not fail in the newest build.

    `results` are (build id, commit, status) of one branch of one job, the newest first. A build in which the test both
    passed and failed counts as failed. Builds in which it was skipped do not count. Failures in the builds `left_out`
    do not count either, since something other than this test broke in these builds. `is_complete` says that there are
    no older results.
    """
    first_bad: BuildOutcome | None = None
    failed_builds, oldest = 0, 0
    for outcome in _by_build(results):
        oldest = outcome.build_id
        if outcome.failed and outcome.build_id in left_out:
            continue
        if not outcome.failed:
            return None if first_bad is None else FirstFailure(first_bad, outcome, failed_builds)
        first_bad = outcome
        failed_builds += 1
    return (
        None
        if first_bad is None
        else FirstFailure(first_bad, None, failed_builds, is_first_run=is_complete and oldest == first_bad.build_id)
    )


def _by_build(results: Iterable[tuple[int, str | None, int]]) -> Iterable[BuildOutcome]:
    """Returns the outcome of each build, in the order of their newest results. Results of builds that ran at the same
    time may alternate.
    """
    outcomes: dict[int, BuildOutcome] = {}
    for build_id, commit_sha, status in results:
        if status in (PASSED, FAILED):
            known = outcomes.get(build_id)
            failed = status == FAILED or (known is not None and known.failed)
            outcomes[build_id] = BuildOutcome(build_id, commit_sha, failed)
    return outcomes.values()
