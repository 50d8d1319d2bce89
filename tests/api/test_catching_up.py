"""Clients of the event feed that are behind by large events; with a look into the process that serves them."""

import asyncio
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.live import event_feed
from tests.api.test_event_feed import AT, messages, until
from tests.api.test_stream_clients import until as until_inside
from tests.support.builders import given_job, given_project
from tests.support.http import Client
from tests.support.in_process_server import InProcessServer
from tests.support.server import ADMIN, Server

CONFIGURATIONS = 20
VARIABLES = 200
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def positions(server: Server) -> tuple[int, int]:
    """The position before a job with large changes, and that of its last event."""
    project = given_project(server)
    before = int(server.admin.put(f"/api/v3/projects/{project}", json={"name": "Large"}).headers["Testhide-Position"])
    return before, configure(server, given_job(server, project))


def configure(server: Server, job: int) -> int:
    """Changes many variables of a job many times: each event has a message of about 100 KB."""
    last = 0
    for number in range(CONFIGURATIONS):
        env = {f"V{index}": f"{number}-".ljust(600, "x") for index in range(VARIABLES)}
        configuration = {"command": "true", "setup": [], "env": env, "artifacts": []}
        answer = server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration)
        answer.raise_for_status()
        last = int(answer.headers["Testhide-Position"])
    return last


@pytest.fixture
def admin(inside: InProcessServer) -> Client:
    return inside.client(*ADMIN)


def read_at_once(inside: InProcessServer, after: int, last: int) -> int:
    """Reads the messages after a position up to that of `last` with 8 clients at once. Returns the peak of memory."""
    clients = [inside.client(*ADMIN) for _ in range(8)]

    def read(client: Client) -> None:
        with client.get(AT, headers={"Last-Event-ID": str(after)}, stream=True) as answer:
            next(line for line in answer.iter_lines(16 * 1024) if line == b"id: %d" % last)

    with ThreadPoolExecutor(len(clients)) as pool:
        tracemalloc.start()
        try:
            list(pool.map(read, clients))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return peak


def test_each_client_has_few_messages_in_memory(inside: InProcessServer, positions: tuple[int, int]) -> None:
    before, last = positions
    peak = read_at_once(inside, before, last)
    assert peak < 12 * MIB, f"{peak / MIB:.0f} MiB"


def test_each_client_has_few_remembered_messages_in_memory(
    inside: InProcessServer, admin: Client, server: Server
) -> None:
    with admin.get(AT, params={"type": "user.deleted"}, stream=True) as live:
        lines = live.iter_lines()
        begun = int(next(lines).removeprefix(b"id: "))
        last = configure(server, given_job(server, given_project(server)))
        until_inside(inside, lambda: inside.streams.events.position >= last, "it has not heard of them")
        peak = read_at_once(inside, begun, last)
    assert peak < 12 * MIB, f"{peak / MIB:.0f} MiB"


@pytest.mark.parametrize("limit", ["PAGE_SIZE", "PAGE_READ_BYTES", "PIECE_BYTES", "MAX_REMEMBERED_BYTES"])
def test_nothing_is_lost_or_doubled_at_a_limit(
    admin: Client, positions: tuple[int, int], limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, last = positions
    whole = until(messages(admin, before), last)
    assert len(whole) > CONFIGURATIONS
    monkeypatch.setattr(event_feed, limit, 1)
    assert until(messages(admin, before), last) == whole


def test_users_take_turns(
    inside: InProcessServer, admin: Client, server: Server, positions: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, last = positions
    other = server.make_user("admin", {})
    turns = inside.streams.events._turns
    turn = turns.take(f"user:{admin.get('/api/v3/me').json()['id']}")
    asyncio.run_coroutine_threadsafe(turn.__aenter__(), inside.loop).result(30)
    with admin.get(AT, headers={"Last-Event-ID": str(before)}, stream=True) as waiting:
        until_inside(inside, lambda: len(turns) == 2, "it does not wait")
        with other.get(inside.url + AT, headers={"Last-Event-ID": str(before)}, stream=True) as going_on:
            sent = (json.loads(line[6:]) for line in going_on.iter_lines() if line.startswith(b"data: "))
            assert until(sent, last)
        until_inside(inside, lambda: len(turns) == 2, "the first one does not wait any more")
        asyncio.run_coroutine_threadsafe(turn.__aexit__(None, None, None), inside.loop).result(30)
        sent = (json.loads(line[6:]) for line in waiting.iter_lines() if line.startswith(b"data: "))
        assert until(sent, last)
