"""HEAD answers where GET does: the same status and headers, and no body."""

import pytest
import requests

from .operations import OPERATIONS, Operation
from .requests_of import call_of, caller_of
from .world import World

CHANGING = {"date", "testhide-position", "transfer-encoding", "x-request-id"}
"""Headers that differ between two answers to GET, or that say how the body is sent."""


def headers_of(answer: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items() if name.lower() not in CHANGING}


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.method == "GET"], ids=str)
def test_the_headers_of_get_without_its_body(world: World, operation: Operation) -> None:
    call = call_of(operation, world)
    url = call.path.format(**call.ids)
    caller = caller_of(operation, world)
    got = caller.get(url, params=call.query, stream=True)
    head = caller.head(url, params=call.query, allow_redirects=False)
    assert (head.status_code, head.content) == (operation.status, b"")
    assert headers_of(head) == headers_of(got)
    assert int(head.headers.get("Testhide-Position", 0)) > 0 or not operation.auth


def test_a_stream_without_an_end_ends(world: World) -> None:
    for path in ("/api/v3/events/stream", f"/api/v3/builds/{world.running_build}/stream"):
        answer = world.member.head(path, timeout=5)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Type"].startswith("text/event-stream")
    # The connection is free for the next request.
    assert world.member.get("/api/v3/me").status_code == 200


def test_a_range_and_what_the_client_has(world: World) -> None:
    path = f"/api/v3/artifacts/{world.artifact}/download"
    whole = world.member.head(path)
    part = world.member.head(path, headers={"Range": "bytes=0-4"})
    assert (part.status_code, part.headers["Content-Length"]) == (206, "5")
    assert world.member.head(path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304


def test_access_is_the_same(world: World) -> None:
    path = f"/api/v3/builds/{world.build}"
    assert world.server.client().head(path).status_code == 401
    assert world.stranger.head(path).status_code == 404
