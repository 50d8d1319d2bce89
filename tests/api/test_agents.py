"""What agents are answered: docs/agent-protocol.md. Who gets which build is tests/workers/test_dispatch.py's."""

import hashlib
import re
import uuid
from typing import Any

import psycopg
import pytest

from commands.reports.recording import DENIED, MISSING
from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server

REPORT = b"""<testsuite name="s" tests="2" failures="1"><testcase classname="c" name="a"/>
<testcase classname="c" name="b"><failure message="no">trace</failure></testcase></testsuite>"""


@pytest.fixture(name="build")
def _build(shop: Shop, agent: FakeAgent) -> dict[str, Any]:
    shop.start()
    return agent.take_up()


def test_connect(shop: Shop) -> None:
    answer = FakeAgent(shop.server.url, shop.new_token(max_parallel=3)).connect()
    assert answer.status_code == 200
    assert answer.json().items() >= {"max_parallel": 3, "heartbeat_s": 10, "poll_s": 20}.items()
    shown = shop.admin.get(f"/api/v3/nodes/{answer.json()['node_id']}").json()
    assert (shown["name"], shown["status"]) == (answer.json()["name"], "online")


@pytest.mark.parametrize("token", ["agt_unknown", "agt_" + "é" * 8, "th_live_x", ""])
def test_a_token_that_is_no_nodes(server: Server, token: str) -> None:
    agent = FakeAgent(server.url, token.encode().decode("latin-1"))
    assert agent.connect().status_code == 401


def test_people_are_no_agents(server: Server) -> None:
    answer = server.admin.get("/api/v3/agent/next", params={"session": "s" * 8, "free": "1"})
    assert answer.status_code == 403


def test_a_deleted_nodes_token_is_no_good_any_more(shop: Shop) -> None:
    agent = FakeAgent(shop.server.url, shop.new_token())
    node = agent.connect().json()["node_id"]
    assert shop.admin.delete(f"/api/v3/nodes/{node}").status_code == 204
    assert agent.ask().status_code == 401


def test_a_token_is_rotated_without_a_gap(shop: Shop) -> None:
    old = FakeAgent(shop.server.url, shop.new_token())
    node = old.connect().json()["node_id"]
    path = f"/nodes/{node}/rotate-token"
    unused = shop.admin.when("POST", path).then(200)["agent_token"]
    rotated = shop.admin.when("POST", path).then(200)
    assert rotated["old_token_until"] is not None
    new = FakeAgent(shop.server.url, rotated["agent_token"])
    new.session = old.session
    assert FakeAgent(shop.server.url, unused).connect().status_code == 401
    assert old.beat() == []
    story = f"/audit/streams/node-{node}"
    assert "node.token_retired" not in [entry["type"] for entry in shop.admin.fetch(story)]
    assert new.beat() == []
    assert old.ask().status_code == 401
    assert new.beat() == []
    by_type = {entry["type"]: entry for entry in shop.admin.fetch(story)}
    assert by_type["node.token_retired"]["actor"] == f"node:{node}"
    assert by_type["node.token_rotated"]["actor"] == "user:1"
    assert [change["field"] for change in by_type["node.token_rotated"]["changes"]] == ["agent_token"]

    last = shop.admin.when("POST", path, params={"at_once": True}).then(200)
    assert last["old_token_until"] is None
    assert new.ask().status_code == 401
    assert FakeAgent(shop.server.url, last["agent_token"]).connect().status_code == 200


def test_another_session_must_connect_first(agent: FakeAgent) -> None:
    session, agent.session = agent.session, uuid.uuid4().hex
    try:
        assert agent.ask().status_code == 409
    finally:
        agent.session = session


def test_a_released_session_makes_room_at_once(shop: Shop) -> None:
    token = shop.new_token()
    first, second = (FakeAgent(shop.server.url, token) for _ in range(2))
    node = first.connect().json()["node_id"]
    assert second.disconnect().status_code == 200, "it has no session to release"
    assert second.connect().status_code == 409
    assert (first.disconnect().status_code, first.disconnect().status_code) == (200, 200)
    assert shop.admin.get(f"/api/v3/nodes/{node}").json()["status"] == "offline"
    assert second.connect().status_code == 200
    assert first.disconnect().status_code == 200
    assert shop.admin.get(f"/api/v3/nodes/{node}").json()["status"] == "online"
    assert (first.ask().status_code, second.beat()) == (409, [])


def test_what_a_released_session_had_goes_to_the_next_one(shop: Shop) -> None:
    token = shop.new_token()
    first, second = (FakeAgent(shop.server.url, token) for _ in range(2))
    shop.start()
    build = first.connected().take_up()
    first.disconnect().raise_for_status()
    again = second.connected().take_up()
    assert (again["id"], again["attempt"]) == (build["id"], 2)
    second.finished(again).raise_for_status()


def test_who_shows_the_secret_of_a_session_takes_its_place_and_what_it_had(shop: Shop) -> None:
    token, secret = shop.new_token(), uuid.uuid4().hex
    first, second = (FakeAgent(shop.server.url, token) for _ in range(2))
    first.session = hashlib.sha256(secret.encode()).hexdigest()
    shop.start()
    build = first.connected().take_up()
    for no_proof in (None, "", uuid.uuid4().hex, first.session):
        assert second.connect(replaces=no_proof).status_code == 409

    assert second.connect(replaces=secret).status_code == 200
    again = second.take_up()
    assert (again["id"], again["attempt"]) == (build["id"], 2)
    assert first.finished(build).status_code == 409
    assert FakeAgent(shop.server.url, token).connect(replaces=secret).status_code == 409, "it is of a past session"
    second.finished(again).raise_for_status()


@pytest.mark.parametrize("changes", [{"session": "short"}, {"cpu_cores": -1}, {"ram_gb": "much"}, {"hostname": None}])
def test_fields_are_checked(shop: Shop, changes: dict[str, Any]) -> None:
    agent = FakeAgent(shop.server.url, shop.new_token())
    hello = {"version": "1", "platform": "linux", "hostname": "h", "cpu_cores": 2, "ram_gb": 4.0, "running": []}
    answer = agent.http.post("/api/v3/agent/connect", json=hello | {"session": agent.session} | changes)
    assert answer.status_code == 422
    assert next(iter(changes)) in answer.json()["errors"][0]["field"]


def test_heartbeats_tell_what_is_lost(agent: FakeAgent, build: dict[str, Any]) -> None:
    assert agent.beat(build) == []
    other = {"id": 2**40, "attempt": 1}
    assert agent.beat(build, other, {"id": build["id"], "attempt": 2}) == [
        [2**40, "reassigned"],
        [build["id"], "reassigned"],
    ]
    many = [{"id": 2**40 + number, "attempt": 1} for number in range(1_500)]
    assert len(agent.beat(*many, build)) == 1_500
    agent.finished(build).raise_for_status()
    assert agent.beat(build) == [[build["id"], "stopped"]]


def test_a_heartbeat_is_stored_with_the_builds_that_it_names(
    server: Server, agent: FakeAgent, build: dict[str, Any]
) -> None:
    """The dispatcher reads there which builds the agent has forgotten."""
    agent.beat(build)
    with psycopg.connect(server.engines.database_url, autocommit=True) as database:
        query = "SELECT heartbeat FROM agent_gauges WHERE session = %s"
        stored = {"session": agent.session, "uptime_s": 4, "builds": [[build["id"], build["attempt"]]]}
        assert database.execute(query, (agent.session,)).fetchone() == (stored,)
        agent.beat()
        assert database.execute(query, (agent.session,)).fetchone() == (stored | {"builds": []},)
    agent.finished(build).raise_for_status()


def test_head_takes_no_message(shop: Shop) -> None:
    agent = shop.new_agent()
    build = shop.start()
    params: dict[str, Any] = {"session": agent.session, "free": 1}
    for _ in range(2):
        answer = agent.http.head("/api/v3/agent/next", params=params, timeout=5)
        assert (answer.status_code, answer.content) == (204, b"")
    taken = agent.take_up()
    assert taken["id"] == build
    agent.finished(taken).raise_for_status()


def test_log_lines_are_acknowledged(agent: FakeAgent, build: dict[str, Any]) -> None:
    assert agent.log(build, 0, ["a", "b"]).json() == {"acknowledged": 2}
    assert agent.log(build, 5, ["gap"]).json() == {"acknowledged": 2}
    assert agent.log(build, 1, ["b", "c"]).json() == {"acknowledged": 3}
    assert agent.log(build, -1, ["x"]).status_code == 422
    for at_ms in (10**30, 2**63, -(2**63) - 1):
        assert agent.log(build, 3, ["x"], at_ms).status_code == 422
    agent.finished(build).raise_for_status()
    assert agent.log(build, 3, ["late"]).status_code == 409


@pytest.mark.parametrize("media_type", [None, "application/json", "text/xml"])
def test_a_report_may_have_an_idempotency_key(agent: FakeAgent, build: dict[str, Any], media_type: str | None) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex, "Content-Type": media_type}
    params = {"attempt": build["attempt"], "path": "junit.xml"}

    path = f"/api/v3/agent/builds/{build['id']}/report"
    for _ in range(2):
        answer = agent.http.post(path, params=params, data=REPORT, headers=headers)
        assert (answer.status_code, answer.json()["recorded"]) == (200, 2)
    agent.finished(build).raise_for_status()


def test_a_pattern_of_reports_without_a_file_is_a_warning(shop: Shop, agent: FakeAgent, build: dict[str, Any]) -> None:
    for _ in range(2):
        answer = agent.report(build, b"", "out/*.xml", missing="true")
        assert (answer.status_code, answer.json()) == (200, {"recorded": 0, "warnings": [MISSING]})
    agent.finished(build).raise_for_status()
    shown = shop.ended(build["id"])
    assert (shown["status"], shown["detail"]) == (
        "passed",
        "No readable file of this build matches out/*.xml, which names reports.",
    )
    assert shop.admin.fetch(f"/report/{build['id']}")["warnings"] == [f"out/*.xml: {MISSING}"]


def test_a_report_that_the_agent_may_not_read_fails_the_build(
    shop: Shop, agent: FakeAgent, build: dict[str, Any]
) -> None:
    answer = agent.report(build, b"", "r/a.xml", unreadable="true")
    assert answer.json() == {"recorded": 0, "warnings": [f"{DENIED}: none of its results was read"]}
    assert agent.finished(build, exit_code=0).json() == {"status": "failed"}
    shown = shop.ended(build["id"])
    assert (shown["reason"], shown["detail"]) == (
        "reports_unreadable",
        "The report r/a.xml is incomplete or cannot be read.",
    )


def test_a_report_is_counted(shop: Shop, agent: FakeAgent, build: dict[str, Any]) -> None:
    answer = agent.report(build, REPORT)
    assert answer.status_code == 200
    assert answer.json().items() >= {"recorded": 2, "warnings": []}.items()
    assert agent.finished(build, exit_code=0).json() == {"status": "failed"}, "a failed test fails the build"
    shown = shop.build(build["id"])
    counts = {"total_tests": 2, "failed_tests": 1, "passed": 1, "failed": 1, "reason": "tests_failed", "exit_code": 0}
    assert shown.items() >= counts.items()


@pytest.mark.parametrize(
    ("ending", "status", "reason"),
    [
        ({"exit_code": 0}, "passed", None),
        ({"exit_code": 2}, "failed", "command_failed"),
        ({"exit_code": None, "reason": "timeout", "detail": "after 60 s"}, "failed", "timeout"),
        ({"exit_code": None, "reason": "setup_failed"}, "failed", "setup_failed"),
        ({"exit_code": None, "reason": "stopped"}, "aborted", "agent_stopped"),
    ],
)
def test_verdicts(
    shop: Shop, agent: FakeAgent, build: dict[str, Any], ending: dict[str, Any], status: str, reason: str | None
) -> None:
    assert agent.finished(build, **ending).json() == {"status": status}
    assert agent.finished(build, **ending).json() == {"status": status}, "sent twice"
    shown = shop.build(build["id"])
    assert (shown["status"], shown["reason"], shown["detail"]) == (status, reason, ending.get("detail"))


def test_an_agent_learns_nothing_about_another_agents_build(
    shop: Shop, agent: FakeAgent, build: dict[str, Any]
) -> None:
    """It cannot even learn whether the build exists: every answer is that about an unknown build."""
    other = shop.new_agent()

    def without_id(text: str, build_id: int) -> str:
        return re.sub(rf"\b{build_id}\b", "N", text)  # whole numbers only: 40 is also in the status 404

    def answers(build_id: int) -> list[tuple[int, str]]:
        asked: dict[str, Any] = {"id": build_id, "attempt": 1}
        form = {"data": {"build_id": str(build_id)}, "files": {"file": ("a.txt", b"x")}}
        sent = (
            other.started(asked),
            other.log(asked, 0, ["x"]),
            other.log(asked, 1, ["x"]),
            other.report(asked, REPORT),
            other.report(asked, b"", "*.xml", missing="true"),
            other.finished(asked),
            other.http.post("/api/v3/artifacts/upload", **form),
        )
        about = [(answer.status_code, without_id(answer.text, build_id)) for answer in sent]
        return [*about, (200, without_id(str(other.beat(asked)), build_id))]

    unknown = answers(2**40)
    assert [status for status, _ in unknown] == [404] * 7 + [200]
    external = shop.start(external=True)
    assert answers(external) == unknown
    agent.log(build, 0, ["a"]).raise_for_status()
    assert answers(build["id"]) == unknown, "it runs"
    agent.finished(build).raise_for_status()
    assert answers(build["id"]) == unknown, "it has ended"
    shop.admin.delete(f"/api/v3/builds/{build['id']}").raise_for_status()
    assert answers(build["id"]) == unknown, "it was deleted"
