"""Who is refused what: no credentials, no such thing, not theirs, not allowed."""

from dataclasses import replace

import pytest

from .operations import OPERATIONS, Operation, in_a_project
from .problems import problem_of
from .requests_of import call_of
from .sample import Sample
from .world import World

NOWHERE = 2**52
UNKNOWN_IDS = (NOWHERE, 0, -1, 2**63, 2**64, 10**30)
ADMINS = ("/api/v3/evals",)
"""Lists that only admins may read."""
QUESTIONS = ("/api/v3/ai/diagnose", "/api/v3/ai/job/stream", "/api/v3/ai/job/{job_id}/cancel")
"""Writes that readers may do, too: a question to the assistant is recorded, and changes nothing."""
EVERYONES = ("/api/v3/nodes", "/api/v3/docker-agents", "/api/v3/pipeline-templates", "/api/v3/vcenter")
"""Lists that all see whole."""
PROTECTED = [operation for operation in OPERATIONS if operation.auth]
WITH_IDS = [operation for operation in OPERATIONS if operation.path_params]
SCOPED = [operation for operation in OPERATIONS if in_a_project(operation)]
BAD_TOKENS = (
    "",
    "Bearer",
    "Bearer ",
    "Bearer nonsense",
    "Basic YWRtaW46YWRtaW4=",
    "Bearer th_live_unknown",
    "Bearer agt_unknown",
    # Signed with another key, and not signed at all.
    "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIiwianRpIjoiYSIsImV4cCI6OTk5OTk5OTk5OX0.c2lnbmF0dXJl",
    "Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiIxIiwianRpIjoiYSIsImV4cCI6OTk5OTk5OTk5OX0.",
)


@pytest.mark.parametrize("operation", PROTECTED, ids=str)
def test_no_credentials(world: World, sample: Sample, operation: Operation) -> None:
    call = call_of(operation, world)
    anonymous = world.server.client()
    problem_of(call.send(anonymous), 401)
    for bad in sample(BAD_TOKENS):
        problem_of(call.send(anonymous, headers={"Authorization": bad}), 401)


@pytest.mark.parametrize("operation", PROTECTED, ids=str)
def test_a_nodes_token_is_no_users(world: World, operation: Operation) -> None:
    if operation.form:  # agents send artifacts too, of the builds that they hold
        problem_of(call_of(operation, world).send(world.agent), 404)
    else:
        problem_of(call_of(operation, world).send(world.agent), 401)


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if not o.auth], ids=str)
def test_public(world: World, operation: Operation) -> None:
    assert call_of(operation, world).send(world.server.client()).status_code == operation.status


@pytest.mark.parametrize("operation", WITH_IDS, ids=str)
def test_an_id_that_nothing_has(world: World, sample: Sample, operation: Operation) -> None:
    call = call_of(operation, world)
    for name in call.ids:
        for unknown in sample(UNKNOWN_IDS):
            problem_of(replace(call, ids={**call.ids, name: unknown}).send(world.admin), 404)


@pytest.mark.parametrize("operation", [o for o in SCOPED if any(q.required for q in o.query)], ids=str)
def test_a_required_id_in_a_query_that_nothing_has(world: World, operation: Operation) -> None:
    call = call_of(operation, world)
    for parameter in operation.query:
        if parameter.required:
            call.query[parameter.name] = NOWHERE
    problem_of(call.send(world.admin), 404)


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.writes and (o.body or o.form)], ids=str)
def test_an_id_in_a_body_that_nothing_has(world: World, operation: Operation) -> None:
    call = call_of(operation, world)
    body = call.body or {}
    for name in body.keys() & {"project_id", "job_id", "build_id", "pool_id", "node_pool_id", "known_issue_id"}:
        value = str(NOWHERE) if operation.form else NOWHERE
        answer = replace(call, body={**body, name: value}).send(world.admin)
        # What the operation is about does not exist, or a field of it names what does not exist.
        problem = problem_of(answer, 404 if answer.status_code == 404 else 422)
        assert str(NOWHERE) in problem["detail"]


@pytest.mark.parametrize("operation", SCOPED, ids=str)
def test_a_project_that_the_caller_cannot_see(world: World, operation: Operation) -> None:
    problem_of(call_of(operation, world).send(world.stranger), 404)


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if isinstance(o.response, list) and not o.sse], ids=str)
def test_lists_leave_out_what_the_caller_cannot_see(world: World, operation: Operation) -> None:
    if operation.takes or operation.path in EVERYONES + ADMINS:
        return
    shown = call_of(operation, world).send(world.member).json()
    seen = {item["id"] for item in shown if not item.get("shared")}  # shared pools are everybody's
    answer = call_of(operation, world).send(world.stranger)
    assert answer.status_code == 200
    assert seen
    assert not seen & {item["id"] for item in answer.json()}


def test_builds_leave_out_what_the_caller_cannot_see(world: World) -> None:
    assert world.stranger.get("/api/v3/builds").json() == {"total": 0, "results": []}
    assert world.stranger.get("/api/v3/builds", params={"job_id": world.job}).json()["total"] == 0


@pytest.mark.parametrize("operation", [o for o in SCOPED if not o.writes and "ai/job/" not in o.path], ids=str)
def test_readers_read(world: World, operation: Operation) -> None:
    """AI jobs are left out, since only their owners see them (tests/api/test_ai_jobs.py)."""
    for who in (world.reader, world.viewer):
        assert call_of(operation, world).send(who).status_code == operation.status


@pytest.mark.parametrize("operation", [o for o in SCOPED if o.writes and o.path not in QUESTIONS], ids=str)
def test_readers_do_not_write(world: World, operation: Operation) -> None:
    for who in (world.reader, world.viewer):
        problem_of(call_of(operation, world).send(who), 403)


NEEDS_MORE = {
    ("PUT", "/api/v3/projects/{project_id}"),
    ("DELETE", "/api/v3/jobs/{job_id}"),
    ("DELETE", "/api/v3/builds/{build_id}"),
    ("POST", "/api/v3/node-pools"),
    ("POST", "/api/v3/nodes"),
    ("DELETE", "/api/v3/nodes/{node_id}"),
    ("PUT", "/api/v3/nodes/{node_id}"),
    ("POST", "/api/v3/nodes/{node_id}/quarantine"),
    ("POST", "/api/v3/nodes/{node_id}/restart"),
    ("PUT", "/api/v3/node-pools/{id}"),
    ("DELETE", "/api/v3/node-pools/{id}"),
    ("PUT", "/api/v3/pipeline-templates/{template_id}"),
    ("DELETE", "/api/v3/pipeline-templates/{template_id}"),
}


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.key in NEEDS_MORE], ids=str)
def test_writing_is_not_enough(world: World, operation: Operation) -> None:
    problem_of(call_of(operation, world).send(world.writer), 403)


def test_viewers_create_no_projects(world: World) -> None:
    problem_of(world.viewer.post("/api/v3/projects", json={"name": "x"}), 403)


def test_a_token_of_someone_else(world: World) -> None:
    problem_of(world.stranger.delete(f"/api/v3/api-tokens/{world.token}"), 404)
    assert world.token in {token["id"] for token in world.member.get("/api/v3/api-tokens").json()}
