"""SCM endpoints over HTTP. Their repositories are real ones, in a folder that the operator allows."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import given_project
from tests.support.git_repository import GitRepository
from tests.support.server import Server

AT = "/api/v3/scm"
TOKEN = "ghp_0123456789abcdefTOKEN"
GITHUB = {"type": "github", "name": "Main GitHub", "repo": "acme/backend", "token": TOKEN}


@pytest.fixture(name="repository", scope="module")
def _repository(server: Server) -> GitRepository:
    return GitRepository(Path(server.settings.local_repositories, "scm", "shop.git"))


@pytest.fixture(name="endpoint")
def _endpoint(server: Server, project: int, repository: GitRepository) -> str:
    """Path of an endpoint that is connected to the repository."""
    body = {"type": "git", "name": "Shop", "project_id": project, "repo": str(repository.path), "token": None}
    return f"{AT}/{server.admin.post(AT, json=body).then(201)['id']}"


def test_create_and_show(server: Server, project: int) -> None:
    created = server.admin.post(AT, json=GITHUB | {"project_id": project}).then(201)
    shown = {"type": "github", "host": "github.com", "name": "Main GitHub", "repo": "acme/backend"}
    assert created.items() >= (shown | {"project_id": project, "has_token": True, "app_id": None}).items()
    assert server.admin.get(f"{AT}/{created['id']}").then(200) == created
    assert TOKEN not in str(created)
    assert server.admin.get(f"/api/v3/projects/{project}").then(200)["scm_endpoint_id"] == created["id"]


def test_list(server: Server, project: int) -> None:
    other = given_project(server)
    first, second, third = (
        server.admin.post(AT, json=GITHUB | {"project_id": at}).then(201) for at in (project, project, other)
    )
    member = server.make_user("developer", {project: "read", other: "read"})
    assert member.get(AT).then(200) == [first, second, third]
    assert member.get(AT, params={"project_id": other}).then(200) == [third]
    assert f"after={first['id']}" in member.get(AT, params={"limit": 1}).headers["Link"]


def test_update(server: Server, project: int) -> None:
    path = f"{AT}/{server.admin.post(AT, json=GITHUB | {'project_id': project}).then(201)['id']}"
    changed = server.admin.put(path, json={"token": "ghp_new", "repo": "acme/api"}).then(200)
    assert changed.items() >= {"repo": "acme/api", "name": "Main GitHub", "updated": True}.items()
    shown = server.admin.get(path).then(200)
    assert server.admin.put(path, json=shown).then(200) == shown | {"updated": False}, "GET fits PUT"
    assert server.admin.put(path, json={"host": ""}).then(422)["errors"][0]["field"] == "host"


def test_what_a_get_shows_of_a_folder_fits_a_put(server: Server, project: int, repository: GitRepository) -> None:
    body = {"type": "git", "name": "Shop", "project_id": project, "repo": str(repository.path), "token": None}
    shown = server.admin.post(AT, json=body).then(201)
    assert shown["host"] == ""
    assert server.admin.put(f"{AT}/{shown['id']}", json=shown).then(200) == shown | {"updated": False}


def test_a_token_goes_to_no_other_server(server: Server, project: int, repository: GitRepository) -> None:
    path = f"{AT}/{server.admin.post(AT, json=GITHUB | {'project_id': project}).then(201)['id']}"
    answer = server.admin.put(path, json={"host": "https://github.example.com"}).then(422)
    assert answer["errors"][0]["field"] == "host"
    assert "send the token" in answer["detail"]
    moved = server.admin.put(path, json={"host": "https://github.example.com/", "token": "ghp_new"}).then(200)
    assert moved["host"] == "github.example.com"
    assert server.admin.put(path, json={"host": "github.example.com"}).then(200)["updated"] is False
    body = {"type": "git", "name": "x", "project_id": project, "repo": "https://git.example.com/x", "token": "t"}
    path = f"{AT}/{server.admin.post(AT, json=body).then(201)['id']}"
    for repo in ("https://evil.example.com/x", "http://git.example.com/x"):
        answer = server.admin.put(path, json={"repo": repo}).then(422)
        assert answer["errors"][0]["field"] == "repo"
    assert server.admin.put(path, json={"repo": "https://git.example.com/y"}).then(200)["updated"]


def test_delete(server: Server, project: int, endpoint: str) -> None:
    assert server.admin.delete(endpoint).status_code == 204
    for answer in (
        server.admin.get(endpoint),
        server.admin.put(endpoint, json={}),
        server.admin.delete(endpoint),
        server.admin.get(f"{endpoint}/branches"),
        server.admin.post(f"{endpoint}/test"),
    ):
        assert answer.status_code == 404
    assert server.admin.get(f"/api/v3/projects/{project}").then(200)["scm_endpoint_id"] is None


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"repo": "acme"}, "repo", "owner/name"),
        ({"repo": "acme/../x"}, "repo", "owner/name"),
        ({"repo": "acme/shop.git"}, "repo", "without .git"),
        ({"type": "gitlab", "repo": "acme"}, "repo", "group/name"),
        ({"type": "svn"}, "type", ""),
        ({"token": None}, "token", "is required: a repository of the type github"),
        ({"token": "two words"}, "token", "space"),
        ({"token": "line\nbreak"}, "token", "line break"),
        ({"host": "https://127.0.0.1/"}, "host", "this machine"),
        ({"host": "http://github.example.com/"}, "host", "https://"),
        ({"host": "[github.example.com"}, "host", "no URL"),
        ({"host": "https://github.example.com/?x=1"}, "host", "?"),
        ({"app_id": 7}, "installation_id", "is missing"),
        ({"app_id": 7, "installation_id": 8}, "token", "PEM"),
        ({"type": "gitlab", "app_id": 7, "installation_id": 8}, "app_id", "github"),
        ({"type": "git", "repo": "/etc"}, "repo", "TESTHIDE_LOCAL_REPOSITORIES"),
        ({"type": "git", "repo": "ssh://git@example.com/x"}, "repo", "https://"),
        ({"type": "git", "repo": "https://u:p@example.com/x"}, "repo", "credentials"),
        ({"type": "git", "repo": "https://example.com/x", "host": "https://example.com"}, "host", "leave it out"),
    ],
)
def test_fields_are_checked(server: Server, project: int, changes: dict[str, Any], field: str, message: str) -> None:
    answer = server.admin.post(AT, json=GITHUB | {"project_id": project} | changes).then(422)
    error = answer["errors"][0]
    assert (error["field"], message in error["message"]) == (field, True), error
    assert TOKEN not in str(answer)


def test_no_folder_but_those_of_the_operator(server: Server, project: int, repository: GitRepository) -> None:
    outside = Path(server.settings.local_repositories).parent
    link = Path(server.settings.local_repositories, "link")
    link.symlink_to(outside)
    for path in (outside, link, f"{server.settings.local_repositories}/../x"):
        body = {"type": "git", "name": "x", "project_id": project, "repo": str(path), "token": None}
        assert server.admin.post(AT, json=body).then(422)["errors"][0]["field"] == "repo"


def test_branches(server: Server, endpoint: str) -> None:
    assert server.admin.get(f"{endpoint}/branches").then(200) == [
        *("main", "older", "release/3.13", "release/3.14", "relics")
    ]
    assert server.admin.get(f"{endpoint}/branches?q=release/").then(200) == ["release/3.13", "release/3.14"]
    assert server.admin.get(f"{endpoint}/branches?q=rel&limit=1").then(200) == ["release/3.13"]
    assert server.admin.get(f"{endpoint}/branches?limit=101").status_code == 422


def test_commits(server: Server, endpoint: str, repository: GitRepository) -> None:
    found = server.admin.get(f"{endpoint}/commits").then(200)
    assert [commit["sha"] for commit in found] == repository.commits[::-1]
    assert found[0] == {
        "sha": repository.commits[2],
        "message": "Commit 2",
        "author": "Alice",
        "date": "2025-06-10T07:32:00Z",
    }
    assert len(server.admin.get(f"{endpoint}/commits?branch=release/3.14&limit=2").then(200)) == 2
    older = server.admin.get(f"{endpoint}/commits?branch=older").then(200)
    assert [commit["sha"] for commit in older] == repository.commits[:1]
    for branch in ("nope", "--upload-pack=x", "main:main"):
        answer = server.admin.get(f"{endpoint}/commits", params={"branch": branch})
        assert answer.status_code == 404, answer.text


def test_a_repository_that_is_gone(server: Server, project: int) -> None:
    gone = f"{server.settings.local_repositories}/gone.git"
    body = {"type": "git", "name": "x", "project_id": project, "repo": gone, "token": None}
    path = f"{AT}/{server.admin.post(AT, json=body).then(201)['id']}"
    for what in ("branches", "commits"):
        problem = server.admin.get(f"{path}/{what}").then(502)
        assert "gone.git has no such repository" in problem["detail"]
    tested = server.admin.post(f"{path}/test").then(200)
    assert not tested["ok"]
    assert "has no such repository" in tested["error"]


def test_a_commit_whose_date_no_calendar_has(server: Server, project: int) -> None:
    odd = GitRepository(Path(server.settings.local_repositories, "scm", f"odd-{project}.git"))
    stream = "commit refs/heads/odd\ncommitter Ada <ada@example.org> 253402300800 +0000\ndata 0\n\n"
    subprocess.run(["git", "fast-import", "--quiet"], cwd=odd.path, input=stream.encode(), check=True, timeout=20)
    body = {"type": "git", "name": "x", "project_id": project, "repo": str(odd.path), "token": None}
    path = f"{AT}/{server.admin.post(AT, json=body).then(201)['id']}"
    problem = server.admin.get(f"{path}/commits?branch=odd").then(502)
    assert "has a date outside the years 1 to 9999" in problem["detail"]


def test_what_works_is_said_to_work(server: Server, endpoint: str) -> None:
    assert server.admin.post(f"{endpoint}/test").then(200) == {"ok": True, "error": ""}


def test_which_endpoint_a_project_may_use(server: Server, project: int, endpoint: str) -> None:
    scm_endpoint_id = int(endpoint.rpartition("/")[2])
    other = given_project(server)
    admin = server.make_user("developer", {project: "admin", other: "admin"})
    outsider = server.make_user("developer", {project: "write", other: "admin"})
    at = f"/api/v3/projects/{other}"
    for who, wanted in ((admin, 10**9), (outsider, scm_endpoint_id)):
        problem = who.put(at, json={"scm_endpoint_id": wanted}).then(422)
        assert problem["errors"][0]["field"] == "scm_endpoint_id"
        assert who.post("/api/v3/projects", json={"name": "x", "scm_endpoint_id": wanted}).status_code == 422
    assert admin.put(at, json={"scm_endpoint_id": scm_endpoint_id}).then(200)["scm_endpoint_id"] == scm_endpoint_id
    assert admin.put(at, json={"scm_endpoint_id": None}).then(200)["scm_endpoint_id"] is None
    body = {"name": "Borrower", "scm_endpoint_id": scm_endpoint_id}
    created = admin.post("/api/v3/projects", json=body).then(201)["id"]
    assert admin.get(f"/api/v3/projects/{created}").then(200)["scm_endpoint_id"] == scm_endpoint_id
