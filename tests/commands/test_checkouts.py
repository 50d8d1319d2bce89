"""Builds of commits need a repository to check the commit out from."""

from dataclasses import replace

import pytest

from commands.builds import StartBuild
from domain.core.errors import Conflict
from domain.jobs import Configuration, JobConfigured, JobCreated
from tests.support.spec import given

BARE = (
    JobCreated(job_id=5, project_id=2, title="Smoke"),
    JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="pytest")),
)


def test_a_build_of_a_commit_needs_a_repository() -> None:
    """In an empty folder it could pass, and the commit would count as tested."""
    start = StartBuild(1, 5, commit_sha="c0ffee")
    with pytest.raises(Conflict, match="Job 5 has no repository and its project no SCM endpoint"):
        given(*BARE).when(start)
    assert len(given(*BARE).when(replace(start, project_repository="https://github.com/acme/web.git"))) == 1
    assert len(given(*BARE).when(StartBuild(1, 5, branch="main"))) == 1
    assert len(given(*BARE).when(replace(start, external=True))) == 2
