"""Pipeline templates."""

from typing import Any

import pytest

from tests.support.server import Server

TEMPLATE: dict[str, Any] = {
    "name": "Node.js Jest",
    "setup": ["npm ci"],
    "env": {"NODE_ENV": "test"},
    "artifacts": ["coverage/**", "test-results/*.xml"],
}


@pytest.fixture(name="template")
def _template(server: Server) -> int:
    return int(server.admin.post("/api/v3/pipeline-templates", json=TEMPLATE).json()["id"])


def new_job(server: Server, project: int, **more: Any) -> int:
    answer = server.admin.post("/api/v3/jobs", json={"name": "Smoke", "project_id": project, **more})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_create(server: Server) -> None:
    body = TEMPLATE | {"description": "Standard", "command": "npx jest", "secrets": {"TOKEN": "hunter2"}}
    answer = server.make_user("developer", {}).post("/api/v3/pipeline-templates", json=body)
    assert answer.status_code == 201
    assert answer.json().items() >= (body | {"jobs_using": 0, "secrets": ["TOKEN"]}).items()
    assert "hunter2" not in answer.text
    shown = server.make_user("viewer", {}).get(f"/api/v3/pipeline-templates/{answer.json()['id']}")
    assert shown.json() == answer.json()


def test_list_says_how_many_jobs_use_it(server: Server, project: int, template: int) -> None:
    new_job(server, project, pipeline_template_id=template)
    listed = server.admin.get("/api/v3/pipeline-templates", params={"after": template - 1}).json()
    assert {"id", "name", "description", "jobs_using"} <= listed[0].keys()
    assert (listed[0]["id"], listed[0]["jobs_using"]) == (template, 1)


def test_update(server: Server, template: int) -> None:
    path = f"/api/v3/pipeline-templates/{template}"
    before = server.admin.get(path).json()
    answer = server.admin.put(path, json={"setup": ["npm ci", "npx playwright install --with-deps"]})
    assert answer.status_code == 200
    assert (answer.json()["setup"][1], answer.json()["env"]) == ("npx playwright install --with-deps", TEMPLATE["env"])
    assert answer.json()["updated_at"] > before["updated_at"]
    assert server.admin.put(path, json={}).json() == answer.json()
    assert server.admin.put(path, json=answer.json()).json() == answer.json()  # what GET answers fits PUT


def test_secrets_are_kept_and_never_shown(server: Server, template: int) -> None:
    path = f"/api/v3/pipeline-templates/{template}"
    shown = server.admin.put(path, json={"secrets": {"TOKEN": "hunter2", "OTHER": "x"}})
    assert shown.json()["secrets"] == ["OTHER", "TOKEN"]
    assert "hunter2" not in shown.text
    assert server.admin.put(path, json={"secrets": ["OTHER", "TOKEN"]}).json()["secrets"] == ["OTHER", "TOKEN"]
    assert server.admin.put(path, json={"name": "same secrets"}).json()["secrets"] == ["OTHER", "TOKEN"]
    assert server.admin.put(path, json={"secrets": {"OTHER": None}}).json()["secrets"] == ["TOKEN"]


def test_a_template_in_use_stays(server: Server, project: int, template: int) -> None:
    job = new_job(server, project, pipeline_template_id=template)
    path = f"/api/v3/pipeline-templates/{template}"
    refused = server.admin.delete(path)
    assert refused.status_code == 409
    assert "1 job uses" in refused.json()["detail"]
    assert server.admin.put(f"/api/v3/jobs/{job}", json={"pipeline_template_id": None}).status_code == 200
    assert server.admin.delete(path).status_code == 204
    for answer in (server.admin.get(path), server.admin.put(path, json={}), server.admin.delete(path)):
        assert answer.status_code == 404
    again = server.admin.put(f"/api/v3/jobs/{job}", json={"pipeline_template_id": template})
    assert (again.status_code, again.json()["errors"][0]["field"]) == (422, "pipeline_template_id")


def test_changes_reach_the_next_build(server: Server, project: int, template: int) -> None:
    job = new_job(server, project, pipeline_template_id=template)
    server.admin.put(
        f"/api/v3/jobs/{job}/configuration", json={"setup": [], "command": "x", "env": {"A": "1"}, "artifacts": []}
    )
    build = server.admin.post("/api/v3/builds/start", json={"job_id": job, "env": {"B": "2"}}).json()["id"]
    first = server.admin.get(f"/api/v3/builds/{build}").json()["configuration"]
    assert (first["setup"], first["command"]) == (["npm ci"], "x")
    assert first["env"] == {"NODE_ENV": "test", "A": "1", "B": "2"}
    server.admin.put(f"/api/v3/pipeline-templates/{template}", json={"setup": ["yarn"]})
    build = server.admin.post("/api/v3/builds/start", json={"job_id": job}).json()["id"]
    assert server.admin.get(f"/api/v3/builds/{build}").json()["configuration"]["setup"] == ["yarn"]


def test_only_who_made_it_or_an_admin_changes_it(server: Server) -> None:
    author, other = server.make_user("developer", {}), server.make_user("developer", {})
    assert server.make_user("viewer", {}).post("/api/v3/pipeline-templates", json=TEMPLATE).status_code == 403
    path = f"/api/v3/pipeline-templates/{author.post('/api/v3/pipeline-templates', json=TEMPLATE).json()['id']}"
    assert (other.put(path, json={}).status_code, other.delete(path).status_code) == (403, 403)
    assert server.admin.put(path, json={"name": "x"}).status_code == 200
    assert (author.put(path, json={"name": "y"}).status_code, author.delete(path).status_code) == (200, 204)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": None},
        {"setup": "x"},
        {"setup": ["x"] * 101},
        {"env": {"A-B": "x"}},
        {"env": None},
        {"artifacts": ["/etc/passwd"]},
        {"secrets": {"A B": "x"}},
        {"secrets": {"A": "\0"}},
        {"description": 1},
        {"command": "x" * 65_537},
    ],
)
def test_fields_are_checked(server: Server, template: int, changes: dict[str, Any]) -> None:
    for answer in (
        server.admin.post("/api/v3/pipeline-templates", json=TEMPLATE | changes),
        server.admin.put(f"/api/v3/pipeline-templates/{template}", json=changes),
    ):
        assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("field", ["name", "setup", "env"])
def test_required_fields(server: Server, field: str) -> None:
    body = {name: value for name, value in TEMPLATE.items() if name != field}
    answer = server.admin.post("/api/v3/pipeline-templates", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_a_templates_secrets_are_not_for_everybodys_jobs(server: Server, project: int) -> None:
    """A job can print whatever its template knows."""
    template = server.admin.post("/api/v3/pipeline-templates", json=TEMPLATE | {"secrets": {"TOKEN": "s"}}).json()["id"]
    other = server.make_user("developer", {project: "write"})
    body = {"name": "Reads", "project_id": project, "pipeline_template_id": template}
    assert other.post("/api/v3/jobs", json=body).status_code == 403
    job = new_job(server, project)
    change = {"pipeline_template_id": template}
    assert other.put(f"/api/v3/jobs/{job}", json=change).status_code == 403
    bundle = server.admin.post(f"/api/v3/jobs/{new_job(server, project, pipeline_template_id=template)}/export").json()
    imported = {"project_id": project, "bundle": bundle}
    with_secrets = TEMPLATE | {"name": "only here", "secrets": {"T": "s"}}
    server.admin.post("/api/v3/pipeline-templates", json=with_secrets)
    imported["bundle"]["pipeline_template"]["name"] = "only here"
    other.post("/api/v3/jobs/import", json=imported).then(201, pipeline_template_id=None)
    assert server.admin.put(f"/api/v3/jobs/{job}", json=change).status_code == 200


def test_a_template_is_changed_only_by_who_may_write_where_it_is_used(server: Server, project: int) -> None:
    """What it says runs with the secrets of the jobs that use it."""
    creator = server.make_user("developer", {project: "read"})
    template = creator.post("/api/v3/pipeline-templates", json=TEMPLATE).json()["id"]
    path, change = f"/api/v3/pipeline-templates/{template}", {"setup": ["echo $PROD"]}
    assert creator.put(path, json=change).status_code == 200
    new_job(server, project, pipeline_template_id=template)
    answer = creator.put(path, json=change)
    assert answer.status_code == 403
    assert "ask an admin" in answer.json()["detail"]
    assert server.admin.put(path, json=change).status_code == 200
