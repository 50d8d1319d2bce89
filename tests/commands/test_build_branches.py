"""Names of the branches of builds."""

import pytest

from commands.builds import StartBuild
from domain.builds import BuildQueued
from domain.jobs import Configuration, JobConfigured, JobCreated, JobUpdated
from tests.support.spec import given

JOB = (
    JobCreated(job_id=5, project_id=2, title="Smoke", default_branch="dev"),
    JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="pytest")),
)


@pytest.mark.parametrize(
    ("named", "external", "branch"),
    [
        ("refs/heads/dev", False, "dev"),
        ("refs/heads/dev", True, "dev"),
        ("origin/dev", True, "dev"),
        ("refs/remotes/origin/dev", True, "dev"),
        ("origin/dev", False, "origin/dev"),
        ("refs/tags/dev", False, "refs/tags/dev"),
        ("refs/heads/", False, "refs/heads/"),
    ],
)
def test_a_branch_has_one_name(named: str, external: bool, branch: str) -> None:
    queued, *_ = given(*JOB).when(StartBuild(1, 5, branch=named, external=external))
    assert isinstance(queued, BuildQueued)
    assert (queued.branch, queued.off_default_branch) == (branch, branch != "dev")


def test_the_default_branch_may_have_its_full_name() -> None:
    full = JobUpdated(job_id=5, project_id=2, default_branch="refs/heads/dev")
    (queued,) = given(*JOB, full).when(StartBuild(1, 5))
    assert isinstance(queued, BuildQueued)
    assert (queued.branch, queued.off_default_branch) == ("dev", False)
