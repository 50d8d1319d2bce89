"""Builds of changes need a repository to check the change out from."""

from dataclasses import replace
from typing import Any

import pytest

from commands.builds import FinishBuild, StartBuild
from domain.builds import BuildAssigned, BuildFinished, BuildQueued, BuildStarted
from domain.core.errors import Conflict
from domain.jobs import Configuration, JobConfigured, JobCreated
from domain.triggers import BuildTrigger
from tests.support.spec import given

IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
BARE = (
    JobCreated(job_id=5, project_id=2, title="Smoke"),
    JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="pytest")),
)


def test_a_build_of_a_change_needs_a_repository() -> None:
    """In an empty folder it could pass, and the commit would count as tested."""
    start = StartBuild(1, 5, commit_sha="c0ffee", trigger=BuildTrigger("push"))
    with pytest.raises(Conflict, match="Job 5 has no repository and its project no SCM endpoint"):
        given(*BARE).when(start)
    assert len(given(*BARE).when(replace(start, project_repository="https://github.com/acme/web.git"))) == 1


@pytest.mark.parametrize(
    ("commit", "has_repository", "detail"),
    [
        ("c0ffee", False, "Job 5 has no repository and its project no SCM endpoint, so nothing can be checked out."),
        ("c0ffee", True, None),
        (None, False, None),
    ],
)
def test_a_build_that_is_started_by_hand_says_that_nothing_was_checked_out(
    commit: str | None, has_repository: bool, detail: str | None
) -> None:
    """Its command may check the commit out itself, so it is not refused."""
    assert len(given(*BARE).when(StartBuild(1, 5, commit_sha=commit))) == 1
    ran = (
        BuildQueued(**IDS, commit_sha=commit),
        BuildAssigned(**IDS, node_id=3, attempt=1),
        BuildStarted(**IDS, node_id=3, attempt=1, commit_sha=None),
    )
    (finished,) = given(*ran).when(FinishBuild(1, 3, 1, 0, None, None, has_repository=has_repository))
    assert isinstance(finished, BuildFinished)
    assert (finished.status, finished.detail) == ("passed", detail)
