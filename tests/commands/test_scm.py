"""Decisions about SCM endpoints, and which of them projects use."""

from typing import Any

import hypothesis
import pytest

from commands.projects import CreateProject, UpdateProject
from commands.scm import CreateScmEndpoint, DeleteScmEndpoint, UpdateScmEndpoint
from domain import scm
from domain.core.errors import Conflict, Invalid, NotFound
from domain.core.events import Event
from domain.projects import ProjectClosed, ProjectCreated, ProjectUpdated
from domain.scm import (
    SCM_ENDPOINT,
    ScmEndpointCreated,
    ScmEndpointDeleted,
    ScmEndpointUpdated,
    is_same_repository,
    normalize_host,
    show_host,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=3, title="Web", slug="web", sealed_webhook_secret=b"")
ABOUT: dict[str, Any] = {"scm_endpoint_id": 5, "project_id": 3}
CREATED = ScmEndpointCreated(**ABOUT, type="github", title="Main", repo="acme/web", sealed_token=b"t")
USED = ProjectUpdated(project_id=3, scm_endpoint_id=5)
DELETED = ScmEndpointDeleted(**ABOUT)
CREATE = CreateScmEndpoint(5, 3, "github", "Main", "acme/web", sealed_token=b"t")


def test_a_project_uses_its_first_endpoint() -> None:
    given(PROJECT).when(CREATE).then(CREATED, USED)
    given(PROJECT, CREATED, USED).when(CREATE).then_nothing()
    second = CreateScmEndpoint(6, 3, "git", "Other", "https://git.example.com/x")
    given(PROJECT, CREATED, USED).when(second).then(
        ScmEndpointCreated(scm_endpoint_id=6, project_id=3, type="git", title="Other", repo="https://git.example.com/x")
    )


def test_an_endpoint_needs_an_open_project() -> None:
    with pytest.raises(NotFound, match="no project 3"):
        given().when(CREATE)
    with pytest.raises(Conflict, match="being deleted"):
        given(PROJECT, ProjectClosed(project_id=3)).when(CREATE)


def test_update_records_what_changed() -> None:
    given(CREATED).when(UpdateScmEndpoint(5, title="Main", sealed_token=b"u")).then(
        ScmEndpointUpdated(**ABOUT, sealed_token=b"u")
    )
    given(CREATED).when(UpdateScmEndpoint(5, repo="acme/web", host="")).then_nothing()
    with pytest.raises(NotFound):
        given(CREATED, DELETED).when(UpdateScmEndpoint(5, repo="acme/api"))


def test_a_token_goes_to_no_other_server() -> None:
    at_host = ScmEndpointCreated(**ABOUT, type="github", host="https://a.example", repo="acme/web", sealed_token=b"t")
    plain = ScmEndpointCreated(**ABOUT, type="git", repo="https://a.example/web.git", sealed_token=b"t")
    moved = ScmEndpointUpdated(**ABOUT, host="https://b.example", sealed_token=b"new")
    for host in ("", "https://b.example", "http://a.example"):
        with pytest.raises(Invalid, match="send the token"):
            given(at_host).when(UpdateScmEndpoint(5, host=host))
    for repo in ("https://b.example/web.git", "http://a.example/web.git", "/srv/web.git"):
        with pytest.raises(Invalid, match="send the token"):
            given(plain).when(UpdateScmEndpoint(5, repo=repo))
    given(plain).when(UpdateScmEndpoint(5, repo="https://a.example/api.git")).then(
        ScmEndpointUpdated(**ABOUT, repo="https://a.example/api.git")
    )
    given(at_host).when(UpdateScmEndpoint(5, host="https://b.example", sealed_token=b"new")).then(moved)
    with pytest.raises(Invalid, match="send the token"):  # decided for the server before
        given(at_host, moved).when(UpdateScmEndpoint(5, title="Renamed", host="https://a.example"))
    given(at_host, moved).when(UpdateScmEndpoint(5, title="Renamed")).then(ScmEndpointUpdated(**ABOUT, title="Renamed"))


def test_a_project_does_not_keep_a_deleted_endpoint() -> None:
    freed = ProjectUpdated(project_id=3, cleared=("scm_endpoint_id",))
    given(PROJECT, CREATED, USED).when(DeleteScmEndpoint(5)).then(DELETED, freed)
    given(PROJECT, CREATED).when(DeleteScmEndpoint(5)).then(DELETED)
    given(PROJECT, CREATED, DELETED).when(DeleteScmEndpoint(5)).then_nothing()
    with pytest.raises(NotFound):
        given(PROJECT).when(DeleteScmEndpoint(5))
    assert DELETED.erases == CREATED.data_key == "project-3/scm-5"


def test_a_project_can_only_use_an_endpoint_that_exists() -> None:
    create = CreateProject(4, "API", 1, (("api", "c"),), b"s", scm_endpoint_id=5)
    for history in ((), (CREATED, DELETED)):
        with pytest.raises(Invalid, match="no SCM endpoint 5"):
            given(PROJECT, *history).when(UpdateProject(3, scm_endpoint_id=5))
        with pytest.raises(Invalid, match="no SCM endpoint 5"):
            given(*history).when(create)
    given(PROJECT, CREATED).when(UpdateProject(3, scm_endpoint_id=5)).then(USED)
    given(PROJECT, CREATED, USED).when(UpdateProject(3, cleared=("scm_endpoint_id",))).then(
        ProjectUpdated(project_id=3, cleared=("scm_endpoint_id",))
    )
    given(PROJECT).when(UpdateProject(3, cleared=("scm_endpoint_id",))).then_nothing()


@hypothesis.given(histories(*scm.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    folds(SCM_ENDPOINT, history)


@pytest.mark.parametrize("command", [CreateScmEndpoint, UpdateScmEndpoint])
def test_decided_once(command: type[Any]) -> None:
    @hypothesis.given(commands(command), histories(ProjectCreated, *scm.EVENTS))
    def holds(made: Any, history: list[Event]) -> None:
        is_decided_once(made, history)

    holds()


def test_hosts_are_shown_by_name() -> None:
    assert show_host("github", "", "acme/web") == "github.com"
    assert show_host("gitlab", "https://git.acme.com:8443/gitlab", "acme/web") == "git.acme.com:8443"
    assert show_host("git", "", "https://git.acme.com/web.git") == "git.acme.com"
    assert show_host("git", "", "/srv/git/web.git") == ""


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://github.com/", ""),
        ("github.com", ""),
        ("https://api.GitHub.com", ""),
        ("https://git.acme.com/", "https://git.acme.com"),
        ("git.acme.com", "https://git.acme.com"),
        ("http://10.1.2.3:8080/gh", "http://10.1.2.3:8080/gh"),
    ],
)
def test_the_public_host_is_no_host_of_ones_own(text: str, host: str) -> None:
    assert normalize_host("github", text) == host


def test_one_repository_has_several_addresses() -> None:
    assert is_same_repository("https://github.com/acme/web.git", "https://GitHub.com/acme/web/")
    assert is_same_repository("/srv/git/web.git", "/srv/git/web")
    assert not is_same_repository("https://github.com/acme/web", "https://github.com/acme/webs")
    assert not is_same_repository("https://github.com/acme/web", "ssh://github.com/acme/web")
    assert not is_same_repository("https://github.com/acme/web", "https://github.com.evil.com/acme/web")
