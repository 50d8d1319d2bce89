"""Syncing the jobs of a project with the file in its repository, which is a real one."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.support.builders import given_job, given_node, given_pool, given_project
from tests.support.fake_agent import FakeAgent
from tests.support.git_repository import GitRepository
from tests.support.http import Client
from tests.support.server import Server

SYNC, STATUS = "/api/v3/gitops/sync", "/api/v3/gitops/status"
FILE = """\
templates:
  python: {setup: [pip install -e .], secrets: [TOKEN]}
jobs:
  unit: {template: python, command: pytest, timeout_minutes: 5}
  docs: {command: make docs}
"""


@pytest.fixture(name="repository", scope="module")
def _repository(server: Server) -> GitRepository:
    return GitRepository(Path(server.settings.local_repositories, "gitops", "shop.git"))


@pytest.fixture(name="connected")
def _connected(server: Server, project: int, repository: GitRepository) -> int:
    """A project that is connected to the repository."""
    body = {"type": "git", "name": "Shop", "project_id": project, "repo": str(repository.path), "token": None}
    server.admin.post("/api/v3/scm", json=body).then(201)
    return project


def sync(caller: Client, project: int, **body: Any) -> Any:
    return caller.post(SYNC, json={"project_id": project, **body})


def job_of(server: Server, project: int, name: str) -> dict[str, Any]:
    listed = server.admin.get("/api/v3/jobs", params={"project_id": project}).then(200)
    (job_id,) = [job["id"] for job in listed if job["name"] == name]
    job: dict[str, Any] = server.admin.get(f"/api/v3/jobs/{job_id}").then(200)
    return job


def test_a_sync_creates_updates_and_disables_jobs(server: Server, connected: int, repository: GitRepository) -> None:
    first = repository.write(".testhide.yml", FILE)
    answer = sync(server.admin, connected).then(200)
    unit, docs = job_of(server, connected, "unit"), job_of(server, connected, "docs")
    assert answer == {
        "synced": True,
        "project_id": connected,
        "branch": "main",
        "sha": first,
        "jobs_created": 2,
        "jobs_updated": 0,
        "jobs_removed": 0,
        "changes": [
            {"job_id": unit["id"], "name": "unit", "change": "created"},
            {"job_id": docs["id"], "name": "docs", "change": "created"},
        ],
        "missing_secrets": {"unit": ["TOKEN"]},
    }
    assert (unit["timeout_minutes"], unit["managed"], unit["enabled"]) == (5, True, True)
    configuration = server.admin.get(f"/api/v3/jobs/{unit['id']}/configuration").then(200)
    assert (configuration["setup"], configuration["command"]) == (["pip install -e ."], "pytest")

    second = repository.write(".testhide.yml", "jobs: {unit: {command: make}}\n")
    answer = sync(server.admin, connected).then(200)
    assert (answer["sha"], answer["jobs_created"], answer["jobs_updated"], answer["jobs_removed"]) == (second, 0, 1, 1)
    assert job_of(server, connected, "docs")["enabled"] is False
    status = server.admin.get(STATUS, params={"project_id": connected}).then(200)
    assert (status["sha"], status["branch"], status["problem"]) == (second, "main", None)
    trail = server.admin.get(f"/api/v3/audit/streams/gitops-{connected}").then(200)
    assert [entry["type"] for entry in trail] == ["gitops.synced", "gitops.synced"]
    assert trail[0]["actor"] == "user:1"


def test_a_dry_run_shows_the_changes_and_makes_none(server: Server, connected: int, repository: GitRepository) -> None:
    repository.write(".testhide.yml", FILE)
    answer = sync(server.admin, connected, dry_run=True).then(200)
    assert (answer["synced"], answer["jobs_created"]) == (False, 2)
    assert [(item["job_id"], item["name"]) for item in answer["changes"]] == [(None, "unit"), (None, "docs")]
    assert server.admin.get("/api/v3/jobs", params={"project_id": connected}).then(200) == []
    assert server.admin.get(STATUS, params={"project_id": connected}).then(200)["sha"] is None


def test_a_dry_run_uses_no_ids_up(server: Server, connected: int, repository: GitRepository) -> None:
    repository.write(".testhide.yml", FILE)
    first = given_job(server, connected)
    sync(server.admin, connected, dry_run=True).then(200)
    assert given_job(server, connected) == first + 1


def test_a_project_follows_only_branches(server: Server, connected: int, repository: GitRepository) -> None:
    commit = repository.write(".testhide.yml", FILE)
    repository.git("tag", "--force", "v1", "main")
    for name in ("v1", commit):
        for dry_run in (True, False):
            (error,) = sync(server.admin, connected, branch=name, dry_run=dry_run).then(422)["errors"]
            assert (error["field"], "is no branch of the repository" in error["message"]) == ("branch", True)
    assert server.admin.get(STATUS, params={"project_id": connected}).then(200)["branch"] == "main"
    sync(server.admin, connected, branch="main").then(200)


def test_mistakes_are_answered_with_their_lines_and_nothing_changes(
    server: Server, connected: int, repository: GitRepository
) -> None:
    repository.write(".testhide.yml", "jobs:\n  unit:\n    command: x\n    pool: nowhere\n")
    problem = sync(server.admin, connected).then(422)
    assert problem["errors"] == [
        {"field": ".testhide.yml:4:11", "message": "pool nowhere is no node pool of the project"}
    ]
    repository.write(".testhide.yml", "jobs:\n  unit: {comand: x}\n  other: {command: x}\n")
    problem = sync(server.admin, connected).then(422)
    assert [error["field"] for error in problem["errors"]] == [".testhide.yml:2:10"]
    assert server.admin.get("/api/v3/jobs", params={"project_id": connected}).then(200) == []


def test_only_pools_of_the_project_can_be_named(server: Server, connected: int, repository: GitRepository) -> None:
    other = given_project(server)
    for name, project, shared in (("linux", connected, False), ("theirs", other, True)):
        server.admin.post("/api/v3/node-pools", json={"name": name, "project_id": project, "shared": shared}).then(201)
    repository.write(".testhide.yml", "jobs: {unit: {command: x, pool: theirs}}")
    sync(server.admin, connected).then(422)
    repository.write(".testhide.yml", "jobs: {unit: {command: x, pool: linux}}")
    sync(server.admin, connected).then(200)
    pool = server.admin.get(f"/api/v3/node-pools/{job_of(server, connected, 'unit')['node_pool_id']}").then(200)
    assert pool["name"] == "linux"


def test_an_agent_learns_which_needed_secrets_have_no_value(
    server: Server, connected: int, repository: GitRepository
) -> None:
    pool = given_pool(server, connected, name="linux")
    repository.write(".testhide.yml", "jobs: {unit: {command: pytest, pool: linux, secrets: [B, A, C]}}")
    sync(server.admin, connected).then(200)
    job = job_of(server, connected, "unit")["id"]
    path, body = f"/api/v3/jobs/{job}/configuration", {"setup": [], "command": "pytest", "env": {}, "artifacts": []}
    server.admin.put(path, json=body | {"secrets": {"A": "s3cret"}}).then(200)

    agent = FakeAgent(server.url, given_node(server, pool_id=pool)["agent_token"]).connected()
    server.admin.post("/api/v3/builds/start", json={"job_id": job}).then(201)
    build = agent.run()
    assert (list(build["secrets"]), build["missing_secrets"]) == (["A"], ["B", "C"])


def test_managed_jobs_are_changed_by_their_file_only(server: Server, connected: int, repository: GitRepository) -> None:
    repository.write(".testhide.yml", FILE)
    sync(server.admin, connected).then(200)
    path = f"/api/v3/jobs/{job_of(server, connected, 'unit')['id']}"
    assert "managed by the file .testhide.yml" in server.admin.put(path, json={"max_parallel": 9}).then(409)["detail"]
    shown = server.admin.get(f"{path}/configuration").then(200)
    body = {name: shown[name] for name in ("setup", "command", "env", "artifacts")}
    server.admin.put(f"{path}/configuration", json=body | {"command": "rm -rf /"}).then(409)
    server.admin.put(f"{path}/triggers", json={"branches": ["main"]}).then(409)

    server.admin.put(f"{path}/configuration", json=body | {"secrets": {"TOKEN": "s3cret"}}).then(200)
    assert sync(server.admin, connected).then(200)["missing_secrets"] == {}
    server.admin.put(path, json={"enabled": False}).then(200)
    sync(server.admin, connected).then(200)
    assert server.admin.get(path).then(200)["enabled"] is False

    server.admin.put(path, json={"managed": False, "max_parallel": 9}).then(200)
    assert "is not managed" in sync(server.admin, connected).then(409)["detail"]
    server.admin.put(path, json={"managed": True}).then(200)
    sync(server.admin, connected).then(200)
    assert server.admin.get(path).then(200)["max_parallel"] == 1


def test_writers_sync_the_branch_that_the_project_follows(
    server: Server, connected: int, repository: GitRepository
) -> None:
    repository.write(".testhide.yml", FILE)
    repository.write(".testhide.yml", "jobs: {trial: {command: x}}", branch="trial")
    writer, reader = (server.make_user("developer", {connected: level}) for level in ("write", "read"))
    assert sync(writer, connected).then(200)["branch"] == "main"
    sync(reader, connected).then(403)
    sync(writer, connected, branch="trial").then(403)
    assert sync(server.admin, connected, branch="trial", dry_run=True).then(200)["jobs_removed"] == 2
    assert sync(server.admin, connected, branch="trial").then(200)["jobs_created"] == 1
    assert sync(writer, connected).then(200)["branch"] == "trial"


def test_what_is_missing_is_said(server: Server, project: int, repository: GitRepository) -> None:
    assert "POST /api/v3/scm" in sync(server.admin, project).then(409)["detail"]
    body = {"type": "git", "name": "Shop", "project_id": project, "repo": str(repository.path), "token": None}
    server.admin.post("/api/v3/scm", json=body).then(201)
    assert ".testhide.yml" in sync(server.admin, project, branch="older").then(404)["detail"]
    assert "nowhere" in sync(server.admin, project, branch="nowhere").then(404)["detail"]


def test_a_host_that_is_down_is_named(server: Server, project: int) -> None:
    body = {
        "type": "gitlab",
        "name": "x",
        "project_id": project,
        "repo": "a/b",
        "token": "t",
        "host": "https://scm.invalid",
    }
    server.admin.post("/api/v3/scm", json=body).then(201)
    assert "scm.invalid" in sync(server.admin, project).then(503)["detail"]


def test_the_schema_is_served(server: Server) -> None:
    schema = server.client().get("/api/v3/gitops/schema").then(200)
    assert jsonschema_rs.validator_for(schema).is_valid({"jobs": {"unit": {"command": "pytest"}}})


def test_an_endpoint_that_was_erased_with_its_project(server: Server, repository: GitRepository) -> None:
    owner, borrower = given_project(server), given_project(server)
    body = {"type": "git", "name": "Shop", "project_id": owner, "repo": str(repository.path), "token": None}
    endpoint = server.admin.post("/api/v3/scm", json=body).then(201)["id"]
    server.admin.put(f"/api/v3/projects/{borrower}", json={"scm_endpoint_id": endpoint}).then(200)
    server.admin.delete(f"/api/v3/projects/{owner}").then(204)
    assert "no SCM endpoint" in sync(server.admin, borrower).then(409)["detail"]
