"""The documented request gets the documented answer: status, media type, every key with its type."""

import json
from typing import Any

import pytest

from .operations import OPERATIONS, Operation
from .requests_of import call_of, caller_of
from .shape import same_shape
from .world import CASES, LINES, World, junit

OPTIONAL: dict[tuple[str, str], set[str]] = {
    ("GET", "/api/v3/jobs"): {"[].node_pool_id"},
    ("GET", "/api/v3/docker-agents"): {"[].build_id"},
}
"""Where null is right, by operation: the documentation says that a job without a pool takes any available, and a
container may have no build.
"""

PEOPLES_OWN = {"labels", "env", "by_reason", "projects"}
"""Objects whose keys are not ours: only their values have documented types."""

JSON_OPERATIONS = [operation for operation in OPERATIONS if operation.response is not None and not operation.sse]


@pytest.mark.parametrize("operation", JSON_OPERATIONS, ids=str)
def test_documented_answer(world: World, operation: Operation) -> None:
    world.beat()
    answer = call_of(operation, world).send(caller_of(operation, world))
    assert answer.status_code == operation.status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert same_shape(operation.response, answer.json(), OPTIONAL.get(operation.key, ()), PEOPLES_OWN) == []


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation.status == 204], ids=str)
def test_nothing_to_say(world: World, operation: Operation) -> None:
    answer = call_of(operation, world).send(caller_of(operation, world))
    assert answer.status_code == 204, answer.text
    assert answer.content == b""


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation.sse], ids=str)
def test_stream_of_a_finished_build(world: World, operation: Operation) -> None:
    answer = call_of(operation, world).send(world.member)
    assert answer.status_code == operation.status
    assert answer.headers["Content-Type"].partition(";")[0] == "text/event-stream"
    lines = [line for line in answer.content.decode().split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    messages = [json.loads(line.removeprefix("data: ")) for line in lines]
    documented = [json.loads(line.removeprefix("data: ")) for line in operation.response]
    assert [message["type"] for message in messages] == ["log"] * LINES + ["status", "done"]
    assert [same_shape(documented[0], message) for message in messages[:LINES]] == [[]] * LINES
    assert messages[-2:] == [{"type": "status", "data": "failed"}, {"type": "done"}]


def test_download(world: World) -> None:
    answer = world.member.get(f"/api/v3/artifacts/{world.artifact}/download")
    assert (answer.status_code, answer.content) == (200, junit(CASES))


def test_values_that_the_examples_only_hint_at(world: World) -> None:
    """What a shape cannot say: which values they are."""
    world.beat()

    def answer_of(path: str) -> Any:
        return world.member.get(f"/api/v3{path}").json()

    build = answer_of(f"/builds/{world.build}")
    assert (build["status"], build["node_id"], build["job_id"]) == ("failed", world.node, world.job)
    assert (build["total_tests"], build["passed"], build["failed"], build["skipped"]) == (60, 30, 15, 15)
    report = answer_of(f"/report/{world.build}")
    assert (report["total"], report["passed"], report["failed"], report["skipped"]) == (60, 30, 15, 15)
    assert {suite["name"]: suite["passed"] + suite["failed"] for suite in report["suites"]}.keys() == {"auth", "cart"}
    assert answer_of(f"/jobs/{world.job}")["last_build_id"] >= world.running_build
    me = answer_of("/me")
    assert (me["id"], me["role"]) == (world.member_id, "developer")
    assert me["projects"] == [world.project, world.other_project]
    assert {job["id"]: job["enabled"] for job in answer_of("/jobs")}[world.disabled_job] is False
    node = answer_of(f"/nodes/{world.node}")
    assert (node["name"], node["status"], node["cpu_cores"]) == (world.node_name, "online", 8)
    health = answer_of(f"/nodes/{world.node}/health")
    assert (health["node_id"], health["cpu_pct"]) == (world.node, 62)
    tree = answer_of(f"/artifacts/tree?build_id={world.build}")
    assert tree["name"] == "/"
    assert [child["name"] for child in tree["children"]] == ["bin", "logs", "reports", "shots"]
    assert tree["children"][2]["children"][0]["id"] == world.artifact
    latest = answer_of("/nodes/agent/latest")
    assert latest["linux_amd64"]["url"].endswith(f"/agent/{latest['version']}/linux-amd64")
