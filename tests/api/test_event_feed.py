"""Everything that happens, as server-sent events."""

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.builders import given_build, given_job, given_project
from tests.support.http import Client
from tests.support.server import Server

AT = "/api/v3/events/stream"


def messages(client: Client, last: int | str | None, **params: Any) -> Iterator[dict[str, Any]]:
    """As they come, without end."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.get(AT, headers=headers, params=params, stream=True) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines(16 * 1024):  # by default, 100 KB are put together of pieces of 512 bytes
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
    mine, other = given_project(server), given_project(server)
    reader = server.make_user("viewer", {mine: "read"})
    for project in (mine, other):
        given_build(server, given_job(server, project))
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
    project = given_project(server)
    branch = uuid.uuid4().hex
    with server.admin.get(AT, params={"project_id": project}, stream=True) as live:
        lines = live.iter_lines()
        # Where it begins; what comes after that the process remembers.
        begun = int(next(lines).removeprefix(b"id: "))
        build = given_build(server, given_job(server, project), branch=branch)
        server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}).raise_for_status()
        next(line for line in lines if branch.encode() in line)
        deleted = server.admin.delete(f"/api/v3/builds/{build}")
        assert deleted.status_code == 204
        last = int(deleted.headers["Testhide-Position"])
        next(line for line in lines if line == b"id: %d" % last)  # The process has heard of it.
        again = until(messages(server.admin, begun, project_id=project), last)
    assert branch not in json.dumps(again)
    assert any(message["data"]["erased"] for message in again)


def log_out(reader: Client, server: Server) -> None:
    assert reader.post("/api/v3/logout").status_code == 204


def be_deleted(reader: Client, server: Server) -> None:
    user = reader.get("/api/v3/me").json()["id"]
    assert server.admin.delete(f"/api/v3/users/{user}").status_code == 204


@pytest.mark.parametrize("of_project", [False, True])
@pytest.mark.parametrize("leave", [log_out, be_deleted])
def test_a_stream_ends_when_its_reader_has_lost_access(
    server: Server, leave: Callable[[Client, Server], None], of_project: bool
) -> None:
    project = given_project(server)
    reader = server.make_user("viewer", {project: "read"})
    with reader.get(AT, params={"project_id": project} if of_project else {}, stream=True) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(b"id: ")
        leave(reader, server)
        left = time.monotonic()
        deque(lines, maxlen=0)  # until its end
        assert time.monotonic() - left < 5


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99999999999999999999", "9" * 5_000, "\u0661"])
def test_an_id_that_is_no_position_is_refused(server: Server, last: str) -> None:
    answer = server.admin.get(AT, headers={"Last-Event-ID": last.encode()})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


def test_who_may(server: Server) -> None:
    project = given_project(server)
    assert server.client().get(AT).status_code == 401
    stranger = server.make_user("developer", {})
    assert stranger.get(AT, params={"project_id": project}).status_code == 404
    assert server.admin.get(AT, params={"project_id": 2**50}).status_code == 404
    assert server.admin.get(AT, params={"type": "build.exploded"}).status_code == 422
