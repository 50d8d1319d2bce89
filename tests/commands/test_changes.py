"""Changes of repositories are recorded."""

from typing import Any

import pytest

from commands.build_actions import EndBuildOfClosedPullRequest, SupersedeBuild
from commands.changes import ReceiveChanges
from domain.builds import BuildAssigned, BuildFinished, BuildQueued, BuildStarted
from domain.changes import ChangeReceived, find_overtaking, is_newer
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.errors import Conflict, NotFound
from domain.projects import ProjectClosed, ProjectCreated
from domain.triggers import BuildTrigger, RepositoryChange
from tests.support.spec import given

PROJECT = ProjectCreated(project_id=2, title="Web", slug="web", claim="slug-1")
MAIN, TAG = RepositoryChange("push", "main", "c0ffee"), RepositoryChange("tag", "v1", "c0ffee")
COMMAND = ReceiveChanges(2, "github", ((3, MAIN), (4, TAG)), "d-1")
QUEUED = BuildQueued(build_id=9, job_id=5, project_id=2, branch="main", trigger=BuildTrigger("push", 3))
IDS: dict[str, Any] = {"build_id": 9, "job_id": 5, "project_id": 2}


def test_each_change_of_a_message_is_an_event() -> None:
    given(PROJECT).when(COMMAND).then(
        *(
            ChangeReceived(change_id=id, project_id=2, reporter="github", delivery_id="d-1", change=change)
            for id, change in ((3, MAIN), (4, TAG))
        )
    )


def test_a_project_that_is_closed_or_unknown_receives_nothing() -> None:
    with pytest.raises(NotFound):
        given().when(COMMAND)
    with pytest.raises(Conflict):
        given(PROJECT, ProjectClosed(project_id=2)).when(COMMAND)


def test_a_queued_build_is_superseded() -> None:
    (ended,) = given(QUEUED).when(SupersedeBuild(9, 4))
    assert isinstance(ended, BuildFinished)
    assert (ended.status, ended.reason) == ("aborted", "superseded")
    assert ended.detail == "A newer change of main has started another build."
    given(QUEUED, ended).when(SupersedeBuild(9, 4)).then_nothing()


def test_a_queued_build_of_a_closed_pull_request_ends_and_leaves_its_claim() -> None:
    def queued(build_id: int) -> BuildQueued:
        trigger = BuildTrigger("pull_request", 3, 7)
        return BuildQueued(build_id=build_id, job_id=5, project_id=2, branch="fix", group_id=9, trigger=trigger)

    taken = ClaimTaken(claim="c", owner="build-9")
    end = EndBuildOfClosedPullRequest(9, 4, "c")
    ended, released = given(queued(9), queued(10), taken).when(end)
    assert isinstance(ended, BuildFinished)
    assert (ended.status, ended.reason) == ("aborted", "pull_request_closed")
    assert released == ClaimReleased(claim="c", owner="build-9")
    given(queued(9), ended, taken).when(end).then_nothing()
    (other,) = given(queued(10), ClaimTaken(claim="c", owner="build-99")).when(EndBuildOfClosedPullRequest(10, 4, "c"))
    assert isinstance(other, BuildFinished), "a later build has the claim"
    given(queued(9), taken).when(EndBuildOfClosedPullRequest(9, 3, "c")).then_nothing()
    given(queued(9), taken, BuildAssigned(**IDS, node_id=1, attempt=1)).when(end).then_nothing()


def test_a_build_is_superseded_by_a_newer_change_that_came_earlier() -> None:
    (ended,) = given(QUEUED).when(SupersedeBuild(9, 2))
    assert isinstance(ended, BuildFinished)
    assert ended.reason == "superseded"


def test_late_pushes_are_older_than_what_came_before_them() -> None:
    def received(change_id: int, before: str | None, commit: str | None, **more: Any) -> ChangeReceived:
        change = RepositoryChange(**{"kind": "push", "branch": "main", "commit": commit, "before": before} | more)
        return ChangeReceived(change_id=change_id, project_id=2, reporter="github", change=change)

    pushes = [received(1, "b", "c"), received(2, "a", "b"), received(3, "c", "d"), received(4, None, "a")]
    overtaking = find_overtaking(reversed(pushes))
    assert overtaking == {2: {1}, 4: {1, 2, 3}}
    newest_first = [3, 1, 2, 4]
    for index, newer in enumerate(newest_first):
        assert [is_newer(newer, other, overtaking) for other in newest_first[index + 1 :]] == [True] * (3 - index)
        assert not any(is_newer(other, newer, overtaking) for other in newest_first[index + 1 :])

    other_branch = received(2, None, "a", branch="dev")
    other_repository = received(2, None, "a", repository="acme/other")
    tag, unknown = received(2, None, "a", kind="tag"), received(2, None, None)
    for other in (other_branch, other_repository, tag, unknown, received(2, "b", "a")):
        assert find_overtaking([received(1, "a", "b"), other]) == {}


def test_only_older_changes_and_queued_builds_are_superseded() -> None:
    assigned = BuildAssigned(**IDS, node_id=1, attempt=1)
    started = BuildStarted(**IDS, node_id=1, attempt=1)
    by_a_user = BuildQueued(**IDS, branch="main")
    given(QUEUED).when(SupersedeBuild(9, 3)).then_nothing()
    given(QUEUED, assigned).when(SupersedeBuild(9, 4)).then_nothing()
    given(QUEUED, assigned, started).when(SupersedeBuild(9, 4)).then_nothing()
    given(by_a_user).when(SupersedeBuild(9, 4)).then_nothing()
    given().when(SupersedeBuild(9, 4)).then_nothing()
