"""Everything that happens, as server-sent events."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.external import new_build, new_job, new_project
from tests.conftest import Client, Server

AT = "/api/v3/events/stream"


def messages(client: Client, last: int | str | None, **params: Any) -> Iterator[dict[str, Any]]:
    """As they come, without end."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.get(AT, headers=headers, params=params, stream=True) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def until(found: Iterator[dict[str, Any]], position: int) -> list[dict[str, Any]]:
    taken = []
    for message in found:
        taken.append(message)
        if message["position"] >= position:
            return taken
    raise AssertionError("the stream ended")


def head(server: Server) -> int:
    """The position of something that concerns everybody: a new template."""
    answer = server.admin.post("/api/v3/pipeline-templates", json={"name": uuid.uuid4().hex, "setup": [], "env": {}})
    assert answer.status_code == 201, answer.text
    return int(answer.headers["Testhide-Position"])


def test_a_reader_sees_its_projects_in_order_and_goes_on_where_it_was(server: Server) -> None:
    before = head(server)
    mine, other = new_project(server), new_project(server)
    reader = server.make_user("viewer", {mine: "read"})
    for project in (mine, other):
        new_build(server, new_job(server, project))
    last = head(server)
    seen = until(messages(reader, before), last)
    assert {message["project_id"] for message in seen} == {mine, None}
    positions = [message["position"] for message in seen]
    assert positions == sorted(set(positions))
    assert {"project.created", "job.created"} <= {message["type"] for message in seen}
    assert until(messages(reader, positions[0]), last) == seen[1:]
    of_project = [message for message in seen if message["project_id"] == mine]
    found = messages(reader, before, project_id=mine)
    assert [next(found) for _ in of_project] == of_project
    found = messages(server.admin, before, type="job.created")
    assert [next(found)["project_id"] for _ in range(2)] == [mine, other]


def test_what_was_erased_is_not_told_again(server: Server) -> None:
    project = new_project(server)
    branch = uuid.uuid4().hex
    before = head(server)
    live = messages(server.admin, before, project_id=project)
    build = new_build(server, new_job(server, project), branch=branch)
    path = f"/api/v3/builds/{build}"
    server.admin.post(f"{path}/finish", json={"status": "passed"}).raise_for_status()
    position = int(server.admin.get(path).headers.get("Testhide-Position", 0)) or head(server)
    seen = [next(live) for _ in range(3)]
    assert branch in json.dumps(seen)
    deleted = server.admin.delete(path)
    assert deleted.status_code == 204
    last = int(deleted.headers["Testhide-Position"])
    until(live, last)  # this process has heard of it
    assert position < last
    again = until(messages(server.admin, before, project_id=project), last)
    assert branch not in json.dumps(again)
    assert any(message["data"]["erased"] for message in again)


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99999999999999999999", "\u0661"])
def test_an_id_that_is_no_position_is_refused(server: Server, last: str) -> None:
    answer = server.admin.get(AT, headers={"Last-Event-ID": last.encode()})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


def test_who_may(server: Server) -> None:
    project = new_project(server)
    assert server.client().get(AT).status_code == 401
    stranger = server.make_user("developer", {})
    assert stranger.get(AT, params={"project_id": project}).status_code == 404
    assert server.admin.get(AT, params={"project_id": 2**50}).status_code == 404
    assert server.admin.get(AT, params={"type": "build.exploded"}).status_code == 422
