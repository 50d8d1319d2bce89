"""The logs of Docker agents as streams: who gets how many, and their end."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from api.live.streams import MAX_CONTAINER_LOGS_PER_USER
from tests.api.test_build_feed import EVENT_SOURCE
from tests.support.docker_engine import fake_engine
from tests.support.http import Client
from tests.support.server import ADMIN, Server, running_server

LINE = b'data: {"type":"log","data":"[10:00:05] Registered as da-1."}'


@pytest.fixture(name="docked", scope="module")
def _docked(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process with a Docker host whose containers print a line and go on running."""
    folder = tmp_path_factory.mktemp("docked")
    with fake_engine(folder, ["Registered as da-1."]) as url:
        host, blobs = f"build-host-01={url}", server.settings.blobs
        with running_server(server.engines, folder, "serve", docker_hosts=host, blobs_url=blobs) as docked:
            yield docked


@pytest.fixture(name="path", scope="module")
def _path(server: Server) -> str:
    body = {"host": "build-host-01", "image": "testhide/agent:3.14"}
    agent_id = server.admin.post("/api/v3/docker-agents/spawn", json=body).then(201)["id"]
    return f"/api/v3/docker-agents/{agent_id}/logs"


def test_one_user_does_not_take_all_readers(server: Server, docked: Server, path: str) -> None:
    viewer, other = (docked.client().authorize(server.make_user("viewer").token) for _ in range(2))
    opened = list[Iterator[bytes]]()  # kept, since a stream is closed with the iterator over its lines
    with ExitStack() as open_streams:

        def follow(client: Client) -> None:
            answer = open_streams.enter_context(client.get(path, params={"stream": True}, stream=True))
            opened.append(answer.iter_lines())
            assert next(opened[-1]) == LINE

        for _ in range(MAX_CONTAINER_LOGS_PER_USER):
            follow(viewer)
        refused = viewer.get(path, params={"stream": True}).then(429)
        assert refused["detail"].startswith(f"You have {MAX_CONTAINER_LOGS_PER_USER} logs of Docker agents open")
        assert viewer.get(path).then(200) == {"lines": ["[10:00:05] Registered as da-1."]}
        follow(other)


def test_an_event_source_stops_after_the_end(server: Server, docked: Server, path: str) -> None:
    """The host of the first server is away, which ends the stream."""
    ended = 'data: {{"type":"error","data":"{}"}}\n\n{}data: {{"type":"done"}}\n\n'
    for headers, done_id in (({}, ""), (EVENT_SOURCE, "id: done\n")):
        answer = server.admin.get(path, params={"stream": True}, headers=headers)
        away = answer.content.decode().partition('"data":"')[2].partition('"}')[0]
        assert "cannot be reached" in away
        assert answer.content.decode() == ended.format(away, done_id)
    again = docked.client(*ADMIN).get(path, params={"stream": True}, headers={"Last-Event-ID": "done"})
    assert (again.status_code, again.content) == (204, b"")
