"""Commands on nodes: what an admin asks, what the agent hears and answers."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

RESULT = {"exit_code": 0, "stdout": "Filesystem Size", "stderr": "", "truncated": False, "timed_out": False}


@dataclass
class FakeAgent:
    server: Any
    node: int
    token: str
    session: str = "session-1"

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.request(method, f"{self.server.url}/api/v3/agent/{path}", headers=headers, timeout=30, **more)

    def connect(self) -> "FakeAgent":
        hello = {"session": self.session, "version": "1", "platform": "linux", "hostname": "h"}
        answer = self.call("POST", "connect", json=hello | {"cpu_cores": 8, "ram_gb": 16.0, "running": []})
        assert answer.status_code == 200, answer.text
        return self

    def next(self) -> Any:
        answer = self.call("GET", "next", params={"session": self.session, "free": 1})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def answer(self, command_id: int, **more: Any) -> int:
        return self.call("POST", f"commands/{command_id}/result", json=RESULT | more).status_code


def new_agent(server: Any) -> FakeAgent:
    project = server.admin.post("/api/v3/projects", json={"name": "Commands"}).json()["id"]
    pool = server.admin.post("/api/v3/node-pools", json={"name": "linux", "project_id": project}).json()["id"]
    node = server.admin.post("/api/v3/nodes", json={"name": uuid.uuid4().hex, "pool_id": pool}).json()
    return FakeAgent(server, node["id"], node["agent_token"])


@pytest.fixture(name="agent")
def _agent(server: Any) -> FakeAgent:
    return new_agent(server).connect()


def execute(server: Any, node: int, **body: Any) -> requests.Response:
    answer: requests.Response = server.admin.post(
        f"/api/v3/nodes/{node}/execute", json={"command": "df -h /", "timeout_s": 10} | body
    )
    return answer


@pytest.mark.parametrize("polls_first", [True, False])
def test_execute(server: Any, agent: FakeAgent, polls_first: bool) -> None:
    with ThreadPoolExecutor() as threads:
        if polls_first:
            heard, asked = threads.submit(agent.next), threads.submit(execute, server, agent.node)
        else:
            asked, heard = threads.submit(execute, server, agent.node), threads.submit(agent.next)
        message = heard.result(30)
        assert message == {
            "type": "execute",
            "command_id": message["command_id"],
            "command": "df -h /",
            "timeout_s": 10,
        }
        assert agent.answer(message["command_id"]) == 200
        answer = asked.result(30)
    assert (answer.status_code, answer.json()) == (200, RESULT)
    assert answer.elapsed.total_seconds() < 5
    assert agent.answer(message["command_id"], stdout="other") == 200
    path = f"/api/v3/nodes/{agent.node}/commands/{message['command_id']}"
    assert server.admin.get(path).json() == RESULT


def test_an_answer_that_comes_too_late_can_be_asked_for(server: Any, agent: FakeAgent) -> None:
    answer = execute(server, agent.node, timeout_s=1)
    assert answer.status_code == 504
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    path = answer.headers["Location"]
    assert server.admin.get(path).status_code == 202
    command_id = int(path.rpartition("/")[2])
    # Nobody waits for it any more, so it does not run; an agent that heard it before may still answer.
    assert agent.answer(command_id, exit_code=None, timed_out=True) == 200
    shown = server.admin.get(path)
    assert (shown.status_code, shown.json()["exit_code"], shown.json()["timed_out"]) == (200, None, True)
    assert server.make_user("developer", {}).get(path).status_code == 403


def test_restart(server: Any, agent: FakeAgent) -> None:
    with ThreadPoolExecutor() as threads:
        heard = threads.submit(agent.next)
        answer = server.admin.post(f"/api/v3/nodes/{agent.node}/restart")
        message = heard.result(30)
    assert (answer.status_code, answer.json()) == (202, {"detail": f"Restart command sent to node {agent.node}."})
    assert message == {"type": "restart", "command_id": message["command_id"]}
    assert agent.answer(message["command_id"]) == 200


def test_without_an_agent(server: Any) -> None:
    node = new_agent(server).node
    for answer in (execute(server, node), server.admin.post(f"/api/v3/nodes/{node}/restart")):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0


def test_a_node_answers_only_for_itself(server: Any, agent: FakeAgent) -> None:
    path = execute(server, agent.node, timeout_s=1).headers["Location"]
    other = new_agent(server).connect()
    assert other.answer(int(path.rpartition("/")[2])) == 404
    assert agent.answer(2**52) == 404
    assert server.admin.get(path.replace(f"/nodes/{agent.node}/", f"/nodes/{other.node}/")).status_code == 404


def test_who_may(server: Any, agent: FakeAgent) -> None:
    developer = server.make_user("developer", {})
    assert developer.post(f"/api/v3/nodes/{agent.node}/execute", json={"command": "id"}).status_code == 403
    assert developer.post(f"/api/v3/nodes/{agent.node}/restart").status_code == 403
    assert execute(server, 2**52).status_code == 404


@pytest.mark.parametrize(
    "changes", [{"command": ""}, {"command": " "}, {"command": None}, {"timeout_s": 0}, {"timeout_s": 601}]
)
def test_fields_are_checked(server: Any, agent: FakeAgent, changes: dict[str, Any]) -> None:
    assert execute(server, agent.node, **changes).status_code == 422
