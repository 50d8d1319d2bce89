"""The documented requests about Docker agents, as the reference shows them, against a real engine."""

import json
import os
from typing import Any

import pytest

from tests.contract.operations import DOCUMENTED
from tests.contract.shape import same_shape
from tests.real.docker.yard import DockerYard

pytestmark = pytest.mark.real("dockerd")
AT = "/api/v3/docker-agents"


def check(key: tuple[str, str], answer: Any) -> Any:
    operation = DOCUMENTED[key]
    assert answer.status_code == operation.status, answer.text
    if operation.response is None:
        assert answer.content == b""
        return None
    shown = answer.json()
    assert same_shape(operation.response, shown) == []
    return shown


def test_the_requests_of_the_reference(yard: DockerYard) -> None:
    admin = yard.server.admin
    running = yard.build(yard.job("sleep 600"))
    example = DOCUMENTED["POST", f"{AT}/spawn"].request_example
    assert example is not None
    # Only the id of the pool is another one, and Docker refuses more processors than the machine has.
    body = example | {"pool_id": yard.pool, "cpus": min(example["cpus"], float(os.cpu_count() or 1))}
    agent_id = check(("POST", f"{AT}/spawn"), admin.post(f"{AT}/spawn", json=body))["id"]
    yard.wait(agent_id, build_id=running)
    listed = check(("GET", AT), admin.get(f"{AT}?status=running"))
    assert [agent["id"] for agent in listed] == [agent_id]
    assert admin.get(AT, params={"project_id": yard.project}).json() == listed
    assert admin.get(AT, params={"project_id": 10**6}).json() == []
    assert admin.get(AT, params={"status": "stopped"}).json() == []
    lines = check(("GET", f"{AT}/{{id}}/logs"), admin.get(f"{AT}/{agent_id}/logs?tail=100"))["lines"]
    assert any(f"Registered as {agent_id}" in line for line in lines), lines
    assert check(("POST", f"{AT}/{{id}}/stop"), admin.post(f"{AT}/{agent_id}/stop"))["status"] == "stopped"
    yard.wait_build(running, status="queued")
    assert check(("POST", f"{AT}/{{id}}/start"), admin.post(f"{AT}/{agent_id}/start"))["status"] == "running"
    yard.wait(agent_id, build_id=running)
    check(("DELETE", f"{AT}/{{id}}"), admin.delete(f"{AT}/{agent_id}"))
    assert yard.wait_build(running, status="aborted")["reason"] == "node_removed"


def test_a_log_as_a_stream(yard: DockerYard) -> None:
    agent_id = yard.spawn()
    yard.wait_online(agent_id)
    with yard.server.admin.get(f"{AT}/{agent_id}/logs?stream=true", stream=True) as answer:
        assert answer.headers["Content-Type"].partition(";")[0] == "text/event-stream"
        messages = (json.loads(line.removeprefix(b"data: ")) for line in answer.iter_lines() if line)
        first = next(messages)
        assert first["type"] == "log"
        yard.destroy(agent_id)
        rest = list(messages)
    assert [message["type"] for message in rest][-1:] == ["done"]
    assert any("Registered as" in message.get("data", "") for message in [first, *rest])
