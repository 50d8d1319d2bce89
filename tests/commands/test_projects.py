"""Projects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.projects import CreateProject, RotateWebhookSecret, UpdateProject
from domain import projects
from domain.base import Event
from domain.claims import ClaimTaken
from domain.errors import NotFound
from domain.projects import PROJECT, MemberAdmitted, ProjectCreated, ProjectUpdated, WebhookSecretRotated
from tests.commands.given import commands, decided, folds, histories, is_decided_once

CREATE = CreateProject(1, "Mobile App", 7, (("mobile-app", "slug-1"), ("mobile-app-1", "slug-2")), b"sealed")
CREATED = ProjectCreated(project_id=1, title="Mobile App", slug="mobile-app", sealed_webhook_secret=b"sealed")


def test_the_creator_becomes_its_admin() -> None:
    admitted = MemberAdmitted(project_id=1, user_id=7, access="admin")
    assert decided(CREATE) == [ClaimTaken(claim="slug-1", owner="project-1"), CREATED, admitted]
    assert decided(CREATE, CREATED) == []


def test_the_next_slug_is_taken() -> None:
    claimed, created, _ = decided(CREATE, ClaimTaken(claim="slug-1", owner="project-9"))
    assert claimed == ClaimTaken(claim="slug-2", owner="project-1")
    assert isinstance(created, ProjectCreated)
    assert created.slug == "mobile-app-1"


def test_only_what_changes_is_told() -> None:
    command = UpdateProject(1, title="Mobile App", description="iOS")
    assert decided(command, CREATED) == [ProjectUpdated(project_id=1, description="iOS")]
    assert decided(UpdateProject(1), CREATED) == []


def test_a_webhook_secret_is_replaced() -> None:
    rotated = WebhookSecretRotated(project_id=1, sealed_webhook_secret=b"new")
    assert decided(RotateWebhookSecret(1, b"new"), CREATED) == [rotated]
    with pytest.raises(NotFound):
        decided(RotateWebhookSecret(1, b"new"))


def test_there_is_no_such_project() -> None:
    with pytest.raises(NotFound):
        decided(UpdateProject(1, title="x"))


SLUGS = st.just((("a", "slug-1"), ("b", "slug-2")))


@given(commands(CreateProject, slugs=SLUGS), histories(*projects.EVENTS))
def test_creating_again_does_nothing(command: CreateProject, history: list[Event]) -> None:
    is_decided_once(command, history)


@given(commands(UpdateProject), histories(*projects.EVENTS))
def test_updating_again_does_nothing(command: UpdateProject, history: list[Event]) -> None:
    is_decided_once(command, history)


@given(histories(*projects.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(PROJECT, history)
