"""The documented request of an operation, with the ids of real things in it."""

import hashlib
import hmac
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import requests

from tests.support.http import Client
from tests.support.server import ADMIN

from .operations import Operation
from .world import World, junit


@dataclass(frozen=True)
class Call:
    path: str
    """With its places, `/api/v3/jobs/{job_id}`; `ids` fills them."""
    method: str
    ids: dict[str, int | str] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    file: tuple[str, bytes] | None = None
    """Then `body` is a form's fields."""
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, client: Client, **more: Any) -> requests.Response:
        if self.file is not None:
            name, content = self.file
            more |= {"data": self.body, "files": {"file": (name, io.BytesIO(content))}}
        elif self.body is not None:
            more |= {"json": self.body}
        if self.headers:
            more["headers"] = self.headers | more.get("headers", {})
        return client.request(self.method, self.path.format(**self.ids), params=self.query, **more)


def call_of(operation: Operation, world: World) -> Call:
    call = Call(
        operation.path,
        operation.method,
        ids={parameter.name: _id_of(operation, parameter.name, world) for parameter in operation.path_params},
        query={
            parameter.name: world.node_name if parameter.name == "name" else _id_of(operation, parameter.name, world)
            for parameter in operation.query
            if parameter.required
        },
        body=_body(operation, world),
    )
    special = SPECIAL.get(operation.key)
    return special(call, world) if special is not None else call


def caller_of(operation: Operation, world: World) -> Client:
    """Reads are a member's, so that a list shows what this world made; writes are the administrator's."""
    if operation.key == ("POST", "/api/v3/logout"):
        return world.session()
    is_for_admins = operation.path.startswith(("/api/v3/users", "/api/v3/evals"))
    return world.admin if operation.writes or is_for_admins else world.member


def _id_of(operation: Operation, name: str, world: World) -> int | str:
    names: dict[str, int | str] = {
        "project_id": world.project,
        "job_id": world.job,
        "build_id": world.build,
        "artifact_id": world.artifact,
        "test_id": world.test,
        "node_id": world.node,
        "token_id": world.token,
        "user_id": world.member_id,
        "template_id": world.template,
        "known_issue_id": world.known_issue,
        "pool_id": world.pool,
        "node_pool_id": world.empty_pool,
        "scm_endpoint_id": world.scm_endpoint,
        "q": "got 401",
    }
    if name == "id":  # as the reference calls it for several things
        by_path: dict[str, int | str] = {
            "webhooks": world.webhook,
            "ms-teams": world.channel,
            "node-pools": world.pool,
            "scm": world.scm_endpoint,
            "jira": world.jira,
            "docker-agents": world.docker_agent,
            "vcenter": world.vcenter,
            "ai": world.test_case,
            "evals": world.evaluation,
        }
        return by_path[operation.path.split("/")[3]]
    return names[name]


def _body(operation: Operation, world: World) -> dict[str, Any] | None:
    example = operation.request_example
    if example is None:
        return None
    body = dict(example)
    for name in body.keys() & {
        "project_id",
        "job_id",
        "build_id",
        "pool_id",
        "node_pool_id",
        "known_issue_id",
        "scm_endpoint_id",
    }:
        body[name] = _id_of(operation, name, world)
    for name in body.keys() & {"name", "node_id"}:
        body[name] = world.unique(body[name])
    if "node_ids" in body:
        body["node_ids"] = [world.unique(node_id) for node_id in body["node_ids"]]
    return body


def _import(call: Call, world: World) -> Call:
    job = {"name": world.unique("Moved"), "node_pool": "empty_pool"}
    bundle = {"export_version": "1", "job": job, "configuration": {}}
    return replace(call, body={"project_id": world.project, "bundle": bundle})


def _while_connected(call: Call, world: World) -> Call:
    world.beat()
    return call


def _fresh_node(call: Call, world: World) -> Call:
    return replace(call, ids={"node_id": world.new_node(world.empty_pool)["id"]})


def _fresh_pool(call: Call, world: World) -> Call:
    return replace(call, ids={"id": world.new_pool()})


def _fresh_webhook(call: Call, world: World) -> Call:
    return replace(call, ids={"id": world.new_webhook()})


def _fresh_webhooks(call: Call, world: World) -> Call:
    return replace(call, body={"ids": [world.new_webhook() for _ in range(3)]})


def _fresh_channel(call: Call, world: World) -> Call:
    return replace(call, ids={"id": world.new_channel()})


def _fresh_jira_integration(call: Call, world: World) -> Call:
    return replace(call, ids={"id": world.new_jira_integration()})


def _fresh_scm_endpoint(call: Call, world: World) -> Call:
    return replace(call, ids={"id": world.new_scm_endpoint()})


def _fresh_commit(call: Call, world: World) -> Call:
    world.commit_pipelines()
    return call


def _fresh_template(call: Call, world: World) -> Call:
    return replace(call, ids={"template_id": world.new_template()})


def _fresh_result(call: Call, world: World) -> Call:
    return replace(call, ids={"build_id": world.new_result()})


def _fresh_test(call: Call, world: World) -> Call:
    tests = world.admin.get(f"/api/v3/tests?build_id={world.new_result()}&status=failed").json()
    return replace(call, ids={"test_id": tests["results"][0]["id"]})


def _fresh_queued(call: Call, world: World) -> Call:
    return replace(call, ids={"build_id": world.new_build(world.waiting_job)})


def _fresh_artifact(call: Call, world: World) -> Call:
    artifact = world.upload(world.new_build(world.job, external=True), "logs/run.log", b"text")
    return replace(call, ids={"artifact_id": artifact["id"]})


def _invitation(call: Call, world: World) -> Call:
    email = f"{world.unique('invited').replace(' ', '-')}@example.com"
    return replace(call, body={**(call.body or {}), "email": email, "project_ids": [world.project]})


def _fresh_user(call: Call, world: World) -> Call:
    body = {**(call.body or {}), "project_ids": [world.project, world.other_project]}
    return replace(call, ids={"user_id": world.new_user()["id"]}, body=body)


def _fresh_link(call: Call, world: World) -> Call:
    token = world.new_user()["invitation_url"].partition("#")[2]
    return replace(call, body={**(call.body or {}), "token": token})


def _for_a_trigger(call: Call, world: World) -> Call:
    for _ in range(2):
        path = f"/api/v3/jobs/{world.new_job()}/triggers"
        world.admin.put(path, json={"branches": ["feature/*"]}).then(200)
    return call


def _signed(call: Call, world: World) -> Call:
    path = f"/api/v3/projects/{world.other_project}/rotate-webhook-secret"
    secret = world.admin.post(path).then(200)["webhook_secret"]
    digest = hmac.new(secret.encode(), json.dumps(call.body).encode(), hashlib.sha256).hexdigest()
    query = {"project_id": world.other_project}
    return replace(call, query=query, headers={"X-Hub-Signature-256": f"sha256={digest}"})


def _of_build(call: Call, world: World) -> Call:
    return replace(call, query={"job_id": world.job})


def _fresh_ai_job(call: Call, world: World) -> Call:
    return replace(call, ids={"job_id": world.new_ai_job(world.admin)})


def _ended_ai_job(call: Call, world: World) -> Call:
    """Takes a job of the member, since others cannot see it."""
    return replace(call, ids={"job_id": world.new_ai_job(world.member, is_complete=True)})


SPECIAL: dict[tuple[str, str], Callable[[Call, World], Call]] = {
    ("POST", "/api/v3/authenticate"): lambda call, world: replace(
        call, body={"username": ADMIN[0], "password": ADMIN[1]}
    ),
    ("POST", "/api/v3/sso"): lambda call, world: replace(call, body={"saml_response": world.new_saml_response()}),
    ("POST", "/api/v3/users"): _invitation,
    ("PUT", "/api/v3/users/{user_id}"): _fresh_user,
    ("POST", "/api/v3/reset-password/confirm"): _fresh_link,
    ("DELETE", "/api/v3/api-tokens/{token_id}"): lambda call, world: replace(call, ids={"token_id": world.new_token()}),
    ("PUT", "/api/v3/jobs/{job_id}"): lambda call, world: replace(call, ids={"job_id": world.new_job()}),
    ("DELETE", "/api/v3/jobs/{job_id}"): lambda call, world: replace(call, ids={"job_id": world.new_job()}),
    ("PUT", "/api/v3/jobs/{job_id}/configuration"): lambda call, world: replace(call, ids={"job_id": world.new_job()}),
    ("POST", "/api/v3/builds/start"): lambda call, world: replace(
        call, body={**(call.body or {}), "job_id": world.waiting_job}
    ),
    **{
        ("POST", f"/api/v3/tests/{{test_id}}/{what}"): _fresh_test
        for what in ("classification", "defect", "resolution", "known-issue")
    },
    ("POST", "/api/v3/builds/git-notify"): _for_a_trigger,
    ("POST", "/api/v3/gitops/webhook"): _signed,
    ("POST", "/api/v3/builds/{build_id}/restart"): _fresh_result,
    ("POST", "/api/v3/builds/{build_id}/stop"): _fresh_queued,
    ("DELETE", "/api/v3/builds/{build_id}"): _fresh_result,
    ("POST", "/api/v3/builds/{build_id}/push_to_top"): _fresh_queued,
    ("POST", "/api/v3/builds/{build_id}/keep-forever"): _fresh_result,
    ("POST", "/api/v3/builds/{build_id}/retry-flaky"): _fresh_result,
    # Not those that have no pool, which is null then.
    ("GET", "/api/v3/jobs"): lambda call, world: replace(call, query={"search": " Tests"}),
    ("GET", "/api/v3/builds"): _of_build,
    ("POST", "/api/v3/artifacts/upload"): lambda call, world: replace(
        call,
        body={"build_id": str(world.new_build(world.job, external=True)), "path": "reports/"},
        file=("report.xml", junit([("auth", "test_1", "passed")])),
    ),
    ("DELETE", "/api/v3/artifacts/{artifact_id}"): _fresh_artifact,
    ("GET", "/api/v3/nodes"): lambda call, world: replace(call, query={"pool_id": world.pool}),
    ("DELETE", "/api/v3/nodes/{node_id}"): _fresh_node,
    ("PUT", "/api/v3/nodes/{node_id}"): _fresh_node,
    ("POST", "/api/v3/nodes/{node_id}/quarantine"): _fresh_node,
    ("POST", "/api/v3/nodes/{node_id}/restart"): _while_connected,
    ("PUT", "/api/v3/node-pools/{id}"): _fresh_pool,
    # Its container has started, so that no time is null.
    ("GET", "/api/v3/docker-agents"): lambda call, world: replace(call, query={"status": "running"}),
    ("DELETE", "/api/v3/node-pools/{id}"): _fresh_pool,
    ("PUT", "/api/v3/webhooks/{id}"): _fresh_webhook,
    ("DELETE", "/api/v3/webhooks/{id}"): _fresh_webhook,
    ("POST", "/api/v3/webhooks/bulk-delete"): _fresh_webhooks,
    ("PUT", "/api/v3/ms-teams/{id}"): _fresh_channel,
    ("DELETE", "/api/v3/ms-teams/{id}"): _fresh_channel,
    ("POST", "/api/v3/gitops/sync"): _fresh_commit,
    ("PUT", "/api/v3/scm/{id}"): _fresh_scm_endpoint,
    ("DELETE", "/api/v3/scm/{id}"): _fresh_scm_endpoint,
    ("PUT", "/api/v3/jira/{id}"): _fresh_jira_integration,
    ("DELETE", "/api/v3/jira/{id}"): _fresh_jira_integration,
    ("PUT", "/api/v3/pipeline-templates/{template_id}"): _fresh_template,
    ("DELETE", "/api/v3/pipeline-templates/{template_id}"): _fresh_template,
    ("POST", "/api/v3/jobs/import"): _import,
    # This server has no language model.
    ("POST", "/api/v3/evals/runs"): lambda call, world: replace(call, body={"suite": "diagnosis", "sample_size": 50}),
    ("GET", "/api/v3/ai/job/{job_id}/result"): _ended_ai_job,
    ("POST", "/api/v3/ai/job/{job_id}/cancel"): _fresh_ai_job,
}
"""Where the example cannot be sent as it is: it would destroy what other tests look at."""
