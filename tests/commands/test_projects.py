"""Projects."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.jobs import CreateJob
from commands.pools import CreatePool
from commands.projects import (
    AdmitMember,
    CloseProject,
    CreateProject,
    DeleteProject,
    RemoveMember,
    RotateWebhookSecret,
    UpdateProject,
)
from domain import projects
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.data_keys import job_key, lineage, project_key
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.jobs import JobCreated, JobDeleted
from domain.projects import (
    PROJECT,
    MemberAdmitted,
    ProjectClosed,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    WebhookSecretRotated,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

CREATE = CreateProject(1, "Mobile App", 7, (("mobile-app", "slug-1"), ("mobile-app-1", "slug-2")), b"sealed")
CREATED = ProjectCreated(
    project_id=1, title="Mobile App", slug="mobile-app", claim="slug-1", sealed_webhook_secret=b"sealed"
)


def test_the_creator_becomes_its_admin() -> None:
    admitted = MemberAdmitted(project_id=1, user_id=7, access="admin")
    given().when(CREATE).then(ClaimTaken(claim="slug-1", owner="project-1"), CREATED, admitted)
    given(CREATED).when(CREATE).then_nothing()


def test_the_next_slug_is_taken() -> None:
    claimed, created, _ = given(ClaimTaken(claim="slug-1", owner="project-9")).when(CREATE)
    assert claimed == ClaimTaken(claim="slug-2", owner="project-1")
    assert isinstance(created, ProjectCreated)
    assert (created.slug, created.claim) == ("mobile-app-1", "slug-2")


def test_a_project_without_a_free_slug_is_refused() -> None:
    taken = [ClaimTaken(claim=claim, owner="project-9") for _, claim in CREATE.slugs]
    with pytest.raises(Conflict, match="mobile-app, mobile-app-1"):
        given(*taken).when(CREATE)


def test_only_what_changes_is_told() -> None:
    command = UpdateProject(1, title="Mobile App", description="iOS")
    given(CREATED).when(command).then(ProjectUpdated(project_id=1, description="iOS"))
    given(CREATED).when(UpdateProject(1)).then_nothing()


def test_a_webhook_secret_is_replaced() -> None:
    rotated = WebhookSecretRotated(project_id=1, sealed_webhook_secret=b"new")
    given(CREATED).when(RotateWebhookSecret(1, b"new")).then(rotated)
    with pytest.raises(NotFound):
        given().when(RotateWebhookSecret(1, b"new"))


def test_there_is_no_such_project() -> None:
    with pytest.raises(NotFound):
        given().when(UpdateProject(1, title="x"))


TAKEN = ClaimTaken(claim="slug-1", owner="project-1")
CLOSED, DELETED = ProjectClosed(project_id=1), ProjectDeleted(project_id=1)


def test_deleting_it_takes_its_jobs_and_gives_its_slug_back() -> None:
    jobs = [JobCreated(job_id=number, project_id=project) for number, project in ((5, 1), (6, 1), (7, 2), (8, 1))]
    gone = JobDeleted(job_id=6, project_id=1)
    released = ClaimReleased(claim="slug-1", owner="project-1")
    decision = given(TAKEN, CREATED, CLOSED, *jobs, gone).when(DeleteProject(1, [5, 6, 7, 9]))
    assert decision == [JobDeleted(job_id=5, project_id=1), released, DELETED]
    assert DELETED.erases == project_key(1)
    assert project_key(1) in lineage(job_key(1, 5))


def test_nothing_comes_into_a_project_that_is_being_deleted() -> None:
    """So whoever deletes it can list what is in it."""
    given(CREATED).when(CloseProject(1)).then(CLOSED)
    given(CREATED, CLOSED).when(CloseProject(1)).then_nothing()
    with pytest.raises(Conflict, match="still open"):
        given(CREATED).when(DeleteProject(1))
    for command in (CreateJob(5, 1, "Smoke"), CreatePool(2, 1, "linux", "pool-2")):
        assert given(CREATED).when(command)
        with pytest.raises(Conflict, match="DELETE /api/v3/projects/1 brings"):
            given(CREATED, CLOSED).when(command)


@pytest.mark.parametrize(
    "command",
    [
        CloseProject(1),
        DeleteProject(1),
        UpdateProject(1, title="x"),
        RotateWebhookSecret(1, b"x"),
        AdmitMember(1, 7, "read"),
        RemoveMember(1, 7),
        CreateJob(5, 1, "Smoke"),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("history", [(), (TAKEN, CREATED, CLOSED, DELETED)])
def test_nothing_happens_to_a_project_that_is_not_there(command: Any, history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound, match="no project 1"):
        given(*history).when(command)


SLUGS = st.just((("a", "slug-1"), ("b", "slug-2")))


@hypothesis.given(commands(CreateProject, slugs=SLUGS), histories(*projects.EVENTS))
def test_creating_again_does_nothing(command: CreateProject, history: list[Event]) -> None:
    is_decided_once(command, history)


@pytest.mark.parametrize("kind", [UpdateProject, CloseProject, DeleteProject])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*projects.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*projects.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(PROJECT, history)
