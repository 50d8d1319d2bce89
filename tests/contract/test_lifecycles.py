"""An object is there as soon as its creation is answered, and nothing of it is after its deletion."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.saml_idp import SSO_URL, signing_key

from .operations import DOCUMENTED
from .problems import problem_of
from .requests_of import call_of
from .world import CASES, World, junit

PARAMETER = re.compile(r"\{(\w+)\}")


def new_artifact(world: World) -> int:
    build = world.new_build(world.waiting_job, external=True)
    return int(world.upload(build, "report.xml", junit(CASES[:1]))["id"])


def new_known_issue(world: World) -> int:
    body = {"project_id": world.project, "title": "Fresh", "classification": "infra", "pattern": "never"}
    return int(world.admin.post("/api/v3/known-issues", json=body).then(201)["id"])


def new_identity_provider(world: World) -> int:
    name = world.unique("provider").replace(" ", "-")
    body = {"name": name, "entity_id": f"https://idp.example.com/{name}", "sso_url": SSO_URL}
    body |= {"certificates": [signing_key("idp").certificate.decode()]}  # type: ignore[dict-item]
    return int(world.admin.post("/api/v3/identity-providers", json=body).then(201)["id"])


NEW: dict[str, Callable[[World], Any]] = {
    "/projects/{project_id}": World.new_project,
    "/jobs/{job_id}": World.new_job,
    "/builds/{build_id}": World.new_result,
    "/artifacts/{artifact_id}": new_artifact,
    "/pipeline-templates/{template_id}": World.new_template,
    "/known-issues/{known_issue_id}": new_known_issue,
    "/node-pools/{id}": World.new_pool,
    "/nodes/{node_id}": lambda world: world.new_node(world.empty_pool)["id"],
    "/webhooks/{id}": World.new_webhook,
    "/ms-teams/{id}": World.new_channel,
    "/scm/{id}": World.new_scm_endpoint,
    "/jira/{id}": World.new_jira_integration,
    "/vcenter/{id}": World.new_vcenter,
    "/users/{user_id}": lambda world: world.new_user()["id"],
    "/identity-providers/{id}": new_identity_provider,
}
"""Path of a kind of object -> function that creates one and returns its id."""
APART = {
    "/api-tokens/{token_id}": "is shown in a list only: tests/api/test_auth.py",
    "/docker-agents/{id}": "is deleted by a worker: tests/real/docker",
    "/quarantine/{quarantine_id}": "is shown in a list only: tests/api/test_quarantine.py",
    "/projects/{project_id}/members/{user_id}": "is shown in a list only: tests/api/test_members.py",
    "/identity-providers/{id}/identities/{user_id}": "is shown in a list only: tests/api/test_sso.py",
    "/builds/{build_id}/keep-forever": "is a mark of a build: tests/api/test_build_actions.py",
    "/node-pools/{id}/autoscaling": "is a setting of a pool: tests/api/test_autoscaling.py",
    "/nodes/{node_id}/quarantine": "is a mark of a node: tests/api/test_nodes.py",
    "/vcenter/{id}/vms/{vm_id}": "is deleted by a worker: tests/real/vcenter",
}
"""What else can be deleted, and where its tests are."""


def test_every_kind_of_object_is_tried(described: dict[str, Any]) -> None:
    deletable = {path.removeprefix("/api/v3") for path, item in described["paths"].items() if "delete" in item}
    assert deletable == NEW.keys() | APART.keys()


@pytest.mark.parametrize("path", NEW)
def test_an_object_is_there_from_its_creation_to_its_deletion(
    world: World, described: dict[str, Any], path: str
) -> None:
    object_id = NEW[path](world)
    (name,) = PARAMETER.findall(path)
    url = f"/api/v3{path}".replace(f"{{{name}}}", str(object_id))
    if "get" in described["paths"][f"/api/v3{path}"]:
        world.admin.get(url).then(200)
    world.admin.delete(url).then(204)

    below = [one for one in described["paths"] if one == f"/api/v3{path}" or one.startswith(f"/api/v3{path}/")]
    assert below
    for template in below:
        for method, operation in described["paths"][template].items():
            query = {one["name"]: "1" for one in operation["parameters"] if one.get("in") == "query"}
            required = {one["name"] for one in operation["parameters"] if one.get("required")}
            address = PARAMETER.sub("1", template.replace(f"{{{name}}}", str(object_id)))
            if method == "get":
                answer = world.admin.get(address, params={key: query[key] for key in query.keys() & required})
                problem_of(answer, 404)
            elif (documented := DOCUMENTED.get((method.upper(), template))) is not None:
                call = call_of(documented, world)
                call.ids[name] = object_id
                problem_of(call.send(world.admin), 404)
