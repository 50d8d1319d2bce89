"""Jobs and their configurations."""

import uuid
from typing import Any

import pytest

from tests.support.server import Server

CONFIGURATION: dict[str, Any] = {
    "setup": ["pip install -r requirements.txt"],
    "command": "pytest tests/ --junitxml=report.xml",
    "env": {"ENV": "staging", "DB_HOST": "db.internal"},
    "artifacts": ["report.xml", "logs/*.log"],
}


def new_pool(server: Server, project: int, **more: Any) -> int:
    body = {"name": uuid.uuid4().hex, "project_id": project, **more}
    return int(server.admin.post("/api/v3/node-pools", json=body).json()["id"])


def test_create(server: Server, project: int) -> None:
    pool = new_pool(server, project)
    body = {
        "name": "Smoke Tests",
        "project_id": project,
        "node_pool_id": pool,
        "timeout_minutes": 30,
        "max_parallel": 3,
    }
    answer = server.make_user("developer", {project: "write"}).post("/api/v3/jobs", json=body)
    assert answer.status_code == 201
    assert answer.json().items() >= (body | {"enabled": True}).items()
    shown = server.admin.get(f"/api/v3/jobs/{answer.json()['id']}").json()
    assert shown == answer.json()
    assert (shown["last_build_id"], shown["last_build_status"]) == (None, None)
    assert server.admin.get(f"/api/v3/projects/{project}").json()["jobs_count"] == 1


def test_defaults(server: Server, job: int) -> None:
    shown = server.admin.get(f"/api/v3/jobs/{job}").json()
    defaults = {
        "enabled": True,
        "timeout_minutes": 60,
        "max_parallel": 1,
        "node_pool_id": None,
        "default_branch": "main",
    }
    assert shown.items() >= defaults.items()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 201),
        ("name", None),
        ("node_pool_id", 2**53),
        ("node_pool_id", 2**70),
        ("timeout_minutes", 0),
        ("timeout_minutes", 10_081),
        ("timeout_minutes", "soon"),
        ("max_parallel", 0),
        ("max_parallel", 1_001),
        ("pipeline_template_id", 999_999),
        ("required_tags", ["a b"]),
        ("required_tags", "gpu"),
        ("pool_labels", {"a": 1}),
        ("quarantine_mode", "ignore"),
        ("repository", "-oProxyCommand=x"),
        ("repository", "ssh://-oProxyCommand=x/y"),
        ("repository", "ext::sh -c x"),
        ("repository", "https://user:password@example.com/r.git"),
        ("repository", "https://ghp_16C7e42F292c6912E7710c838347Ae178B4a@example.com/r.git"),
        ("repository", "https://%67hp_16C7e42F292c6912E77@example.com/r.git"),
        ("repository", "ssh://glpat-16C7e42F292c6912E77@example.com/r.git"),
        ("repository", "https://example.com/r.git?private_token=16C7e42F"),
        ("repository", "https://example.com/r.git#16C7e42F"),
        ("repository", "https://example.com/r.git\n"),
        ("repository", "relative/path"),
        ("default_branch", "-x"),
        ("default_branch", "a b"),
    ],
)
def test_fields_are_checked(server: Server, project: int, field: str, value: object) -> None:
    answer = server.admin.post("/api/v3/jobs", json={"name": "x", "project_id": project, field: value})
    assert answer.status_code == 422, answer.text
    assert field in answer.json()["errors"][0]["field"]


@pytest.mark.parametrize(
    "repository",
    [
        "https://example.com/group/r.git",
        "https://oauth2@example.com/r",
        "https://ann.somebody@bitbucket.example.com/team/r.git",
        "ssh://git@example.com:2222/r.git",
        "git@github.com:owner/repo.git",
        "file:///srv/git/r.git",
        "/srv/git/my repo",
    ],
)
def test_repositories(server: Server, project: int, repository: str) -> None:
    answer = server.admin.post("/api/v3/jobs", json={"name": "x", "project_id": project, "repository": repository})
    assert (answer.status_code, answer.json().get("repository")) == (201, repository)


def test_pools_of_other_projects_cannot_be_used(server: Server, project: int, job: int) -> None:
    other = int(server.admin.post("/api/v3/projects", json={"name": "Other"}).json()["id"])
    foreign, shared = new_pool(server, other), new_pool(server, other, shared=True)
    assert server.admin.put(f"/api/v3/jobs/{job}", json={"node_pool_id": foreign}).status_code == 422
    moved = server.admin.put(f"/api/v3/jobs/{job}", json={"node_pool_id": shared})
    assert (moved.status_code, moved.json()["node_pool_id"]) == (200, shared)


def test_unknown_projects(server: Server) -> None:
    assert server.admin.post("/api/v3/jobs", json={"name": "x", "project_id": 2**53}).status_code == 404


def test_update(server: Server, project: int, job: int) -> None:
    pool = new_pool(server, project)
    changes = {"enabled": False, "timeout_minutes": 90, "node_pool_id": pool, "name": "Renamed"}
    answer = server.admin.put(f"/api/v3/jobs/{job}", json=changes)
    assert answer.status_code == 200
    assert answer.json().items() >= (changes | {"id": job, "max_parallel": 1}).items()
    assert server.admin.put(f"/api/v3/jobs/{job}", json={"node_pool_id": None}).json()["node_pool_id"] is None
    nothing = server.admin.put(f"/api/v3/jobs/{job}", json={})
    assert (nothing.status_code, nothing.json()["name"]) == (200, "Renamed")


def test_where_its_builds_may_run(server: Server, project: int, job: int) -> None:
    body = {"required_tags": ["gpu"], "pool_labels": {"arch": "arm64"}, "quarantine_mode": "skip"}
    created = server.admin.post("/api/v3/jobs", json={"name": "x", "project_id": project} | body)
    assert (created.status_code, created.json().items() >= body.items()) == (201, True)
    assert server.admin.get(f"/api/v3/jobs/{created.json()['id']}").json() == created.json()
    path = f"/api/v3/jobs/{job}"
    assert (
        server.admin.put(path, json=body | {"max_parallel": 7}).json().items() >= (body | {"max_parallel": 7}).items()
    )
    both = server.admin.put(path, json={"node_pool_id": new_pool(server, project)})
    assert (both.status_code, both.json()["errors"][0]["field"]) == (422, "pool_labels")
    moved = server.admin.put(path, json={"node_pool_id": new_pool(server, project), "pool_labels": {}})
    assert moved.status_code == 200
    plain = {"required_tags": [], "quarantine_mode": "run"}
    assert server.admin.put(path, json=plain).json().items() >= plain.items()


def test_list_filters(server: Server, project: int, job: int) -> None:
    second = server.admin.post("/api/v3/jobs", json={"name": "Regression 100%", "project_id": project}).json()["id"]
    server.admin.put(f"/api/v3/jobs/{second}", json={"enabled": False})

    def listed(**params: object) -> list[int]:
        answer = server.admin.get("/api/v3/jobs", params={"project_id": project, **params})
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()]

    assert listed() == [job, second]
    assert listed(search="SMO") == [job]
    assert listed(search="0%") == [second]
    assert listed(search="_") == []
    assert listed(enabled="true") == [job]
    assert listed(enabled="false") == [second]
    assert listed(limit=1, page=2) == [second]
    assert listed(after=job) == [second]
    item = server.admin.get("/api/v3/jobs", params={"project_id": project}).json()[0]
    assert {"id", "name", "project_id", "node_pool_id", "enabled"} <= item.keys()


@pytest.mark.parametrize(
    "params",
    [{"project_id": "x"}, {"enabled": "maybe"}, {"page": 0}, {"limit": 0}, {"limit": 501}, {"project_id": 2**70}],
)
def test_bad_filters(server: Server, params: dict[str, object]) -> None:
    assert server.admin.get("/api/v3/jobs", params=params).status_code == 422


def test_only_members_see_jobs(server: Server, job: int) -> None:
    stranger = server.make_user("developer", {})
    assert stranger.get("/api/v3/jobs").json() == []
    for answer in (
        stranger.get(f"/api/v3/jobs/{job}"),
        stranger.put(f"/api/v3/jobs/{job}", json={}),
        stranger.delete(f"/api/v3/jobs/{job}"),
        stranger.get(f"/api/v3/jobs/{job}/configuration"),
        stranger.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION),
    ):
        assert answer.status_code == 404


def test_readers_change_nothing(server: Server, project: int, job: int) -> None:
    reader = server.make_user("developer", {project: "read"})
    assert reader.get(f"/api/v3/jobs/{job}").status_code == 200
    assert reader.post("/api/v3/jobs", json={"name": "x", "project_id": project}).status_code == 403
    assert reader.put(f"/api/v3/jobs/{job}", json={"name": "x"}).status_code == 403
    assert reader.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION).status_code == 403
    assert server.make_user("developer", {project: "write"}).delete(f"/api/v3/jobs/{job}").status_code == 403


def test_delete(server: Server, project: int, job: int) -> None:
    assert server.admin.delete(f"/api/v3/jobs/{job}").status_code == 204
    for answer in (
        server.admin.get(f"/api/v3/jobs/{job}"),
        server.admin.put(f"/api/v3/jobs/{job}", json={}),
        server.admin.delete(f"/api/v3/jobs/{job}"),
        server.admin.get(f"/api/v3/jobs/{job}/configuration"),
        server.admin.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION),
    ):
        assert answer.status_code == 404
    assert server.admin.get(f"/api/v3/projects/{project}").json()["jobs_count"] == 0


def test_configuration(server: Server, job: int) -> None:
    empty = server.admin.get(f"/api/v3/jobs/{job}/configuration").json()
    lists: dict[str, Any] = {"setup": [], "env": {}, "artifacts": [], "secrets": [], "caches": []}
    assert empty == lists | {
        "command": "",
        "updated_at": None,
        "shell": None,
        "checkout": None,
        "sources": None,
        "matrix": None,
    }
    answer = server.admin.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION)
    assert (answer.status_code, answer.json()["job_id"]) == (200, job)
    shown = server.admin.get(f"/api/v3/jobs/{job}/configuration").json()
    assert shown.items() >= CONFIGURATION.items()
    assert shown["updated_at"] == answer.json()["updated_at"]
    again = server.admin.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION)
    assert again.json() == answer.json()


OPTIONS: dict[str, Any] = {
    "shell": "bash",
    "checkout": {"depth": 0, "tags": True, "submodules": True},
    "caches": [{"key": 'pip-{{ checksum "requirements.txt" }}', "paths": ["~/.cache/pip", ".venv"]}],
}


def test_options_of_builds(server: Server, job: int) -> None:
    path = f"/api/v3/jobs/{job}/configuration"
    assert server.admin.put(path, json=CONFIGURATION | OPTIONS).status_code == 200
    shown = server.admin.get(path).json()
    assert shown.items() >= OPTIONS.items()
    assert server.admin.put(path, json=shown).status_code == 200
    assert server.admin.get(path).json().items() >= OPTIONS.items()
    build = server.admin.post("/api/v3/builds/start", json={"job_id": job}).json()["id"]
    configuration = server.admin.get(f"/api/v3/builds/{build}").json()["configuration"]
    assert configuration.items() >= OPTIONS.items()
    server.admin.put(path, json=CONFIGURATION)
    assert server.admin.get(path).json()["shell"] is None, "options that are left out are the default again"


def test_the_effective_configuration_says_where_values_come_from(server: Server, project: int, job: int) -> None:
    template = {"name": "T", "setup": ["make"], "env": {"A": "t", "B": "t"}, "secrets": {"S": "x"}, "shell": "bash"}
    template_id = server.admin.post("/api/v3/pipeline-templates", json=template).json()["id"]
    path = f"/api/v3/jobs/{job}/configuration"
    configuration = {"command": "test", "setup": [], "env": {"A": "j"}, "artifacts": []}
    server.admin.put(path, json=configuration)
    alone = server.admin.get(path, params={"effective": "true"}).json()
    assert (alone["shell"], alone["sources"]["shell"], alone["sources"]["env.A"]) == ("sh", "default", "job")
    server.admin.put(f"/api/v3/jobs/{job}", json={"pipeline_template_id": template_id})
    shown = server.admin.get(path, params={"effective": "true"}).json()
    assert (shown["setup"], shown["command"], shown["env"]) == (["make"], "test", {"A": "j", "B": "t"})
    assert (shown["secrets"], shown["shell"], shown["checkout"]["depth"]) == (["S"], "bash", 1)
    assert shown["sources"] == {
        "setup": "template",
        "command": "job",
        "artifacts": "default",
        "shell": "template",
        "checkout": "default",
        "caches": "default",
        "env.A": "job",
        "env.B": "template",
        "secrets.S": "template",
    }
    assert server.admin.get(path).json()["sources"] is None
    assert server.admin.get(path, params={"effective": "true", "as_of": "1"}).status_code == 422


def test_a_name_is_a_variable_or_a_secret(server: Server, job: int) -> None:
    path = f"/jobs/{job}/configuration"
    both = CONFIGURATION | {"env": {"A": "1"}, "secrets": {"A": "2"}}
    (error,) = server.admin.when("PUT", path, json=both).then(422)["errors"]
    assert error["field"] == "secrets.A"
    server.admin.when("PUT", path, json=CONFIGURATION | {"secrets": {"A": "2"}}).then(200)
    refused = server.admin.when("POST", "/builds/start", json={"job_id": job, "env": {"A": "1"}}).then(409)
    assert "variable A of `env` is also a secret" in refused["detail"]
    moved = CONFIGURATION | {"env": {"A": "1"}, "secrets": {"A": None}}
    server.admin.when("PUT", path, json=moved).then(200)


def test_secrets_are_kept_and_never_shown(server: Server, job: int) -> None:
    path = f"/api/v3/jobs/{job}/configuration"
    server.admin.put(path, json=CONFIGURATION | {"secrets": {"TOKEN": "hunter2", "OTHER": "x"}})
    shown = server.admin.get(path)
    assert shown.json()["secrets"] == ["OTHER", "TOKEN"]
    assert "hunter2" not in shown.text
    assert server.admin.put(path, json=CONFIGURATION).status_code == 200
    assert server.admin.get(path).json()["secrets"] == ["OTHER", "TOKEN"], "the documented four fields leave secrets"
    assert server.admin.put(path, json=CONFIGURATION | {"secrets": {"OTHER": None}}).status_code == 200
    assert server.admin.get(path).json()["secrets"] == ["TOKEN"]
    assert server.admin.put(path, json=server.admin.get(path).json()).status_code == 200  # what GET answers fits PUT
    assert server.admin.get(path).json()["secrets"] == ["TOKEN"]
    server.admin.put(path, json=CONFIGURATION | {"secrets": {"TOKEN": None}})
    assert server.admin.get(path).json()["secrets"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ""},
        {"command": " "},
        {"command": "x" * 65_537},
        {"command": "a\0b"},
        {"setup": ["x"] * 101},
        {"setup": "x"},
        {"env": {"1X": "x"}},
        {"env": {"A-B": "x"}},
        {"env": {"": "x"}},
        {"env": {"A\n": "x"}},
        {"env": {"A": 1}},
        {"secrets": {"A B": "x"}},
        {"secrets": {"A": "\0"}},
        {"artifacts": ["x"] * 101},
        {"artifacts": ["/etc/passwd"]},
        {"artifacts": ["a/../../b"]},
        {"artifacts": ["junit.xml "]},
        {"artifacts": ["C:\\x"]},
        {"artifacts": [""]},
        {"artifacts": ["**/["]},
        {"artifacts": ["[!]/a]"]},
        {"shell": "fish"},
        {"checkout": {"depth": -1}},
        {"checkout": {"dept": 1}},
        {"caches": [{"key": "a", "paths": []}]},
        {"caches": [{"key": "a-{{ arch }}", "paths": ["a"]}]},
        {"caches": [{"key": '{{ checksum "../a" }}', "paths": ["a"]}]},
        {"caches": [{"key": "a", "paths": ["../a"]}]},
        {"caches": [{"key": "a", "paths": ["/a"]}]},
        {"caches": [{"key": "a", "paths": ["~/"]}]},
        {"caches": [{"key": "a", "paths": ["~root/a"]}]},
    ],
)
def test_configurations_are_checked(server: Server, job: int, changes: dict[str, Any]) -> None:
    answer = server.admin.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION | changes)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("field", list(CONFIGURATION))
def test_every_part_is_required(server: Server, job: int, field: str) -> None:
    body = {name: value for name, value in CONFIGURATION.items() if name != field}
    answer = server.admin.put(f"/api/v3/jobs/{job}/configuration", json=body)
    assert answer.status_code == 422
    assert field in answer.json()["detail"]
