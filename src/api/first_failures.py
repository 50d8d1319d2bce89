"""Part of the answer about a failed result: the build and the commit with which the test began to fail."""

from typing import Literal

import msgspec

from domain.failures.first_failures import FirstFailure


class FirstBad(msgspec.Struct):
    """Where a test began to fail, among the builds of the job with the same branch and matrix combination."""

    build_id: int
    """First of the consecutive builds in which the test failed."""
    commit_sha: str | None
    """Commit of the build `build_id`. If the build tested several new commits, this is the last of them. Null if it is
    unknown.
    """
    last_good_build_id: int | None
    """Last earlier build in which the test passed. Null if there is none among the last 500 results of the test."""
    last_good_commit: str | None
    """Commit of `last_good_build_id`. Null if it is unknown."""
    failed_builds: int
    """Number of builds in which the test failed, from `build_id` to the build of this result."""
    cause: Literal["commit", "same_commit", "unknown"]
    """`commit`: a commit after `last_good_commit`, up to `commit_sha`, broke the test. `same_commit`: the test passed
    and failed on the same commit, so no commit broke it. `unknown`: a build or commit is not known, the failure is an
    outage, or the test has passed with `commit_sha` in another build but keeps failing on this branch.
    """
    passed_in_build_id: int | None
    """Id of another build of the job, on any branch, in which the test passed with `commit_sha`. Null if there is no
    such build, or if `last_good_commit` is the same commit as `commit_sha`.
    """


def to_first_bad(found: FirstFailure) -> FirstBad:
    good = found.last_good
    return FirstBad(
        found.first_bad.build_id,
        found.first_bad.commit_sha,
        None if good is None else good.build_id,
        None if good is None else good.commit_sha,
        found.failed_builds,
        found.cause,
        found.passed_in,
    )
