"""Commands on nodes: what an admin asks, what the agent hears and answers."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from store.postgres.notifications import AGENT_NOTIFICATIONS
from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent
from tests.support.in_process_server import serve_in_process
from tests.support.server import ADMIN, Server

RESULT = {"exit_code": 0, "stdout": "Filesystem Size", "stderr": "", "truncated": False, "timed_out": False}


@dataclass
class Machine:
    """A node and its agent."""

    node: int
    agent: FakeAgent

    def next(self) -> dict[str, Any]:
        return self.agent.next()

    def answer(self, command_id: int, **more: Any) -> int:
        return self.agent.http.post(f"/api/v3/agent/commands/{command_id}/result", json=RESULT | more).status_code


Late = list[tuple[Machine, requests.Response]]


def new_machine(server: Server) -> Machine:
    agent = FakeAgent(server.url, Shop(server).new_token())
    return Machine(agent.connect().json()["node_id"], agent)


@pytest.fixture(name="machine")
def _machine(server: Server) -> Machine:
    return new_machine(server)


def execute(server: Server, node: int, **body: Any) -> requests.Response:
    answer: requests.Response = server.admin.post(
        f"/api/v3/nodes/{node}/execute", json={"command": "df -h /", "timeout_s": 10} | body
    )
    return answer


@pytest.fixture(scope="module")
def late(server: Server) -> Late:
    """Machines that have not run a command in time, each with what was answered: one for each test that takes it.

    They are asked at once, since each takes six seconds.
    """
    machines = [new_machine(server) for _ in range(3)]
    with ThreadPoolExecutor() as threads:
        answers = threads.map(lambda machine: execute(server, machine.node, timeout_s=1), machines)
        return list(zip(machines, answers, strict=True))


@pytest.mark.parametrize("polls_first", [True, False])
def test_execute(server: Server, machine: Machine, polls_first: bool) -> None:
    with ThreadPoolExecutor() as threads:
        if polls_first:
            heard, asked = threads.submit(machine.next), threads.submit(execute, server, machine.node)
        else:
            asked, heard = threads.submit(execute, server, machine.node), threads.submit(machine.next)
        message = heard.result(30)
        assert message == {
            "type": "execute",
            "command_id": message["command_id"],
            "command": "df -h /",
            "timeout_s": 10,
            "receipt": message["receipt"],
        }
        assert machine.answer(message["command_id"]) == 200
        answer = asked.result(30)
    assert (answer.status_code, answer.json()) == (200, RESULT)
    assert answer.elapsed.total_seconds() < 5
    assert machine.answer(message["command_id"], stdout="other") == 200
    path = f"/api/v3/nodes/{machine.node}/commands/{message['command_id']}"
    assert server.admin.get(path).json() == RESULT


def test_an_answer_that_comes_too_late_can_be_asked_for(server: Server, late: Late) -> None:
    machine, answer = late.pop()
    assert answer.status_code == 504
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    path = answer.headers["Location"]
    assert server.admin.get(path).status_code == 202
    command_id = int(path.rpartition("/")[2])
    # Nobody waits for it any more, so it does not run; an agent that heard it before may still answer.
    assert machine.answer(command_id, exit_code=None, timed_out=True) == 200
    shown = server.admin.get(path)
    assert (shown.status_code, shown.json()["exit_code"], shown.json()["timed_out"]) == (200, None, True)
    assert server.make_user("developer", {}).get(path).status_code == 403


def test_who_hangs_up_is_not_waited_for(server: Server, machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    with serve_in_process(server) as inside:
        waiting = inside.services.listener._callbacks[AGENT_NOTIFICATIONS]
        admin = inside.client(*ADMIN)
        body = {"command": "df -h /", "timeout_s": 60}
        with pytest.raises(requests.ReadTimeout):
            admin.post(f"/api/v3/nodes/{machine.node}/execute", json=body, timeout=1)
        deadline = time.monotonic() + 10
        while inside.call(lambda: len(waiting)):
            assert time.monotonic() < deadline, "it waits for the agent's answer although nobody wants it"
            time.sleep(0.02)  # between two looks
    assert "Traceback" not in capfd.readouterr().err


def test_restart(server: Server, machine: Machine) -> None:
    with ThreadPoolExecutor() as threads:
        heard = threads.submit(machine.next)
        answer = server.admin.post(f"/api/v3/nodes/{machine.node}/restart")
        message = heard.result(30)
    assert (answer.status_code, answer.json()) == (202, {"detail": f"Restart command sent to node {machine.node}."})
    assert message == {
        "type": "restart",
        "command_id": message["command_id"],
        "receipt": message["receipt"],
    }
    assert machine.answer(message["command_id"]) == 200


def test_without_an_agent(server: Server) -> None:
    shop = Shop(server)
    body = {"name": f"idle {shop.pool}", "pool_id": shop.pool}
    node = server.admin.post("/api/v3/nodes", json=body).json()["id"]
    for answer in (execute(server, node), server.admin.post(f"/api/v3/nodes/{node}/restart")):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0


def test_a_node_answers_only_for_itself(server: Server, late: Late) -> None:
    machine, answer = late.pop()
    path = answer.headers["Location"]
    other = new_machine(server)
    assert other.answer(int(path.rpartition("/")[2])) == 404
    assert machine.answer(2**52) == 404
    assert server.admin.get(path.replace(f"/nodes/{machine.node}/", f"/nodes/{other.node}/")).status_code == 404


def test_who_may(server: Server, machine: Machine) -> None:
    developer = server.make_user("developer", {})
    assert developer.post(f"/api/v3/nodes/{machine.node}/execute", json={"command": "id"}).status_code == 403
    assert developer.post(f"/api/v3/nodes/{machine.node}/restart").status_code == 403
    assert execute(server, 2**52).status_code == 404


@pytest.mark.parametrize(
    "changes", [{"command": ""}, {"command": " "}, {"command": None}, {"timeout_s": 0}, {"timeout_s": 601}]
)
def test_fields_are_checked(server: Server, machine: Machine, changes: dict[str, Any]) -> None:
    assert execute(server, machine.node, **changes).status_code == 422


def test_any_output_can_be_told(server: Server, late: Late) -> None:
    machine, answer = late.pop()
    path = answer.headers["Location"]
    assert machine.answer(int(path.rpartition("/")[2]), stdout="a\0b", stderr="x" * 262_144) == 200
    shown = server.admin.get(path).json()
    assert (shown["stdout"], len(shown["stderr"])) == ("a\N{REPLACEMENT CHARACTER}b", 262_144)
