"""A build's log as server-sent events."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent
from tests.support.http import Client


@pytest.fixture(name="build")
def _build(shop: Shop, agent: FakeAgent) -> Iterator[dict[str, Any]]:
    shop.start()
    build = agent.take_up()
    yield build
    agent.finished(build)


def stream(shop: Shop, build: dict[str, Any], last: str | None = None, **params: Any) -> str:
    """Until its end."""
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = shop.admin.get(f"/api/v3/builds/{build['id']}/stream", headers=headers, params=params)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return answer.content.decode()


def test_the_lines_are_exactly_these(shop: Shop, agent: FakeAgent, build: dict[str, Any]) -> None:
    agent.log(build, 0, ["one", 'a "quoted" line']).raise_for_status()
    agent.finished(build).raise_for_status()
    expected = (
        'data: {"type":"log","data":"[10:00:05] one"}\n\n'
        'data: {"type":"log","data":"[10:00:05] a \\"quoted\\" line"}\n\n'
        'data: {"type":"status","data":"passed"}\n\n'
        'data: {"type":"done"}\n\n'
    )
    assert stream(shop, build) == expected
    assert stream(shop, build) == expected, "a finished build replays"


def test_lines_come_while_the_build_runs(shop: Shop, agent: FakeAgent, build: dict[str, Any]) -> None:
    path = f"/api/v3/builds/{build['id']}/stream"
    with shop.admin.get(path, stream=True) as answer:
        lines = (line for line in answer.iter_lines() if line)
        for number, text in enumerate(("one", "two")):
            agent.log(build, number, [text]).raise_for_status()
            assert json.loads(next(lines).removeprefix(b"data: ")) == {"type": "log", "data": f"[10:00:05] {text}"}
        agent.finished(build, exit_code=1).raise_for_status()
        rest = [json.loads(line.removeprefix(b"data: ")) for line in lines]
    assert rest == [{"type": "status", "data": "failed"}, {"type": "done"}]


def test_a_reader_goes_on_where_it_was(shop: Shop, agent: FakeAgent, build: dict[str, Any]) -> None:
    agent.log(build, 0, ["one", "two", "three"]).raise_for_status()
    agent.finished(build).raise_for_status()
    whole = stream(shop, build, ids="true")
    assert whole.startswith('id: 1:1\ndata: {"type":"log","data":"[10:00:05] one"}\n\nid: 1:2\n')
    assert whole.endswith('id: 1:3\ndata: {"type":"status","data":"passed"}\n\nid: 1:3:done\ndata: {"type":"done"}\n\n')
    assert stream(shop, build, last="1:2") == whole[whole.index("id: 1:3\ndata") :]
    assert '"log"' not in stream(shop, build, last="1:3")


def test_an_event_source_that_has_everything_is_told_to_stay_away(
    shop: Shop, agent: FakeAgent, build: dict[str, Any]
) -> None:
    path = f"/api/v3/builds/{build['id']}/stream"
    agent.log(build, 0, ["one"]).raise_for_status()
    agent.finished(build).raise_for_status()
    *_, done = re.findall(r"^id: (.+)$", stream(shop, build, ids="true"), re.MULTILINE)
    again = shop.admin.get(path, headers={"Last-Event-ID": done})
    assert (again.status_code, again.content) == (204, b"")
    assert '"done"' in stream(shop, build, last="1:1"), "who has not seen the end gets it"


EVENT_SOURCE = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
"""Headers of every request of an EventSource, by the HTML and fetch standards."""


def test_an_event_source_gets_ids_although_it_does_not_ask(shop: Shop, agent: FakeAgent, build: dict[str, Any]) -> None:
    """Without ids it would come back after the end without `Last-Event-ID`, and get the whole log again and again."""
    path = f"/api/v3/builds/{build['id']}/stream"
    agent.log(build, 0, ["one"]).raise_for_status()
    agent.finished(build).raise_for_status()
    plain = stream(shop, build)
    assert shop.admin.get(path, headers=EVENT_SOURCE).content.decode() == stream(shop, build, ids="true") != plain
    documented = {"Accept": "text/event-stream"}
    assert shop.admin.get(path, headers=documented).content.decode() == plain, "such clients parse every line"


@pytest.mark.parametrize("last", ["x", "1", ":", "1:2:x", "99999999999999999999:1", "-1:-1", "1:" + "9" * 5_000])
def test_an_id_that_no_message_has_is_refused(shop: Shop, last: str) -> None:
    path = f"/api/v3/builds/{shop.start(external=True)}/stream"
    answer = shop.admin.get(path, headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Last-Event-ID")


@pytest.mark.parametrize("last", ["", "0:0", "7:1"])
def test_an_id_that_the_build_does_not_have_starts_at_the_beginning(shop: Shop, agent: FakeAgent, last: str) -> None:
    shop.start()
    build = agent.take_up()
    agent.log(build, 0, ["one"]).raise_for_status()
    agent.finished(build).raise_for_status()
    assert stream(shop, build, last=last) == stream(shop, build, ids="true")


def test_who_has_seen_more_lines_than_a_stopped_build_counts_gets_none_again(
    shop: Shop, agent: FakeAgent, build: dict[str, Any]
) -> None:
    """Lines in flight when a build is stopped reach readers, though the end of the build may not count them."""
    agent.log(build, 0, ["one", "two"]).raise_for_status()
    agent.finished(build).raise_for_status()
    assert '"log"' not in stream(shop, build, last="1:3")
    assert '"done"' in stream(shop, build, last="1:3")


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\r", "\n"])
def test_what_clients_take_for_a_line_end_is_escaped(
    shop: Shop, agent: FakeAgent, build: dict[str, Any], character: str
) -> None:
    agent.log(build, 0, [f"a{character}b"]).raise_for_status()
    agent.finished(build).raise_for_status()
    first = stream(shop, build).split("\n\n")[0]
    assert len(first.splitlines()) == 1
    assert json.loads(first.removeprefix("data: "))["data"] == f"[10:00:05] a{character}b"


def test_a_build_that_waits_is_streamed_from_its_queue_on(shop: Shop, agent: FakeAgent) -> None:
    number = shop.start()
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(stream, shop, {"id": number})
        build = agent.take_up()
        agent.log(build, 0, ["one"]).raise_for_status()
        agent.finished(build).raise_for_status()
        assert '"[10:00:05] one"' in reading.result(30)


def test_a_stopped_build_ends_its_stream(shop: Shop) -> None:
    number = shop.start(external=True)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(stream, shop, {"id": number})
        shop.admin.post(f"/api/v3/builds/{number}/stop").raise_for_status()
        assert reading.result(30) == 'data: {"type":"status","data":"aborted"}\n\ndata: {"type":"done"}\n\n'


def with_token(reader: Client) -> Client:
    """The same user by an API token."""
    made = reader.post("/api/v3/api-tokens", json={"name": "reading"}).json()
    reader.authorize(made["secret"])
    return reader


def log_out(reader: Client) -> None:
    assert reader.post("/api/v3/logout").status_code == 204


def revoke_token(reader: Client) -> None:
    (token,) = reader.get("/api/v3/api-tokens").json()
    assert reader.delete(f"/api/v3/api-tokens/{token['id']}").status_code == 204


@pytest.mark.parametrize("talks", [False, True])
@pytest.mark.parametrize(("becomes", "leave"), [(lambda reader: reader, log_out), (with_token, revoke_token)])
def test_a_stream_ends_when_its_reader_has_lost_access(
    shop: Shop,
    agent: FakeAgent,
    build: dict[str, Any],
    becomes: Callable[[Client], Client],
    leave: Callable[[Client], None],
    talks: bool,
) -> None:
    reader = becomes(shop.server.make_user("viewer", {shop.project: "read"}))
    texts = count()

    def talk() -> None:
        number = next(texts)
        agent.log(build, number, [f"line {number}"]).raise_for_status()

    talk()
    with reader.get(f"/api/v3/builds/{build['id']}/stream", stream=True) as answer:
        lines = answer.iter_lines()
        assert b"line 0" in next(lines)
        leave(reader)
        left = time.monotonic()
        with ThreadPoolExecutor() as threads:
            rest = threads.submit(list, lines)
            while talks and not rest.done() and time.monotonic() < left + 10:
                talk()
        assert time.monotonic() - left < 5
        assert b'"done"' not in b"".join(rest.result())
