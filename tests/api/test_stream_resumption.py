"""A stream goes on at another process than the one that served it before."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from tests.support.builders import Shop, given_project
from tests.support.http import Client
from tests.support.server import ADMIN, Server, running_server

LINES = 24
EVENTS = 12


@pytest.fixture(scope="module")
def admins(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Client]]:
    """The admin at either of two processes on one database."""
    folder = tmp_path_factory.mktemp("beside")
    with running_server(server.engines, folder, "serve", blobs_url=server.settings.blobs) as second:
        yield [server.admin, second.client(*ADMIN)]


def first(client: Client, path: str, last: str | None, **params: Any) -> tuple[str, dict[str, Any]]:
    """The next message and its id."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with client.get(path, headers=headers, params=params, stream=True) as answer:
        assert answer.status_code == 200
        message_id = ""
        for line in answer.iter_lines():
            field, _, value = line.decode().partition(": ")
            if field == "id":
                message_id = value
            elif field == "data":
                return message_id, json.loads(value)
    raise AssertionError("the stream ended")


def content(answer: requests.Response) -> bytes:
    """Until its end."""
    return answer.content


def test_a_reader_of_a_build_goes_on_at_the_other_process(server: Server, admins: list[Client]) -> None:
    shop = Shop(server)
    agent = shop.new_agent()
    shop.start()
    build = agent.take_up()
    path = f"/api/v3/builds/{build['id']}/stream"
    with ExitStack() as open_streams, ThreadPoolExecutor() as threads:
        # Each process already has a feed of this build, which may be a little behind the other's.
        lasting = [open_streams.enter_context(admin.get(path, params={"ids": True}, stream=True)) for admin in admins]
        whole = threads.map(content, lasting)
        last, seen = None, list[tuple[str, str]]()
        for offset in range(0, LINES, 2):
            agent.log(build, offset, [f"line {offset}", f"line {offset + 1}"]).raise_for_status()
            for admin in admins:
                last, message = first(admin, path, last, ids=True)
                seen.append((last, message["data"]))
        agent.finished(build).raise_for_status()
        assert seen == [(f"1:{line + 1}", f"[10:00:05] line {line}") for line in range(LINES)]
        one, other = whole
        assert one == other
        # What is left for who has it all, at either process.
        for admin in admins:
            rest = admin.get(path, headers={"Last-Event-ID": str(last)}).content
            assert rest == one[one.index(b'data: {"type":"status"') - len(f"id: {last}\n") :]


def test_a_reader_of_all_events_goes_on_at_the_other_process(server: Server, admins: list[Client]) -> None:
    project = given_project(server)
    path = "/api/v3/events/stream"
    last, made, seen = "", list[str](), list[tuple[str, int]]()
    with ExitStack() as open_streams:
        for admin in admins:
            lasting = open_streams.enter_context(admin.get(path, stream=True))
            # Where its process begins to tell.
            last = next(lasting.iter_lines()).decode().removeprefix("id: ")
        for number in range(EVENTS):
            answer = server.admin.post("/api/v3/jobs", json={"name": f"Job {number}", "project_id": project})
            assert answer.status_code == 201
            made.append(answer.headers["Testhide-Position"])
            last, message = first(admins[number % 2], path, last, project_id=project)
            seen.append((last, message["position"]))
    assert seen == [(position, int(position)) for position in made]
