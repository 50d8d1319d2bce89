"""Positions: every write says where it is in the log, every read what it shows, and reads wait for what they are told
to wait for.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from .operations import OPERATIONS, Operation
from .problems import problem_of
from .requests_of import call_of, caller_of
from .sample import Sample
from .world import World

POSITION = "Testhide-Position"
MIN_POSITION = "Testhide-Min-Position"
READS = [operation for operation in OPERATIONS if not operation.writes]
STRANGERS = [operation for operation in READS if not operation.auth]
READS_OF_USERS = [operation for operation in READS if operation.auth]


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.writes], ids=str)
def test_every_write_has_one(world: World, operation: Operation) -> None:
    before = int(world.admin.post("/api/v3/api-tokens", json={"name": "before"}).headers[POSITION])
    answer = call_of(operation, world).send(caller_of(operation, world))
    assert answer.status_code == operation.status
    assert int(answer.headers[POSITION]) > before
    assert "Testhide-Projected" not in answer.headers


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.writes], ids=str)
def test_also_without_waiting_and_when_it_comes_again(world: World, operation: Operation) -> None:
    """What comes again has often nothing to do: then its position covers what left it nothing."""
    call, caller = call_of(operation, world), caller_of(operation, world)
    answer = call.send(caller, headers={"Prefer": "respond-async"})
    assert answer.status_code == operation.status
    assert int(answer.headers[POSITION]) > 0
    again = call.send(caller)
    if again.status_code == operation.status:
        assert int(again.headers[POSITION]) >= int(answer.headers[POSITION])


@pytest.mark.parametrize("operation", READS_OF_USERS, ids=str)
def test_every_read_says_what_it_shows(world: World, operation: Operation) -> None:
    written = int(world.admin.post("/api/v3/api-tokens", json={"name": "written"}).headers[POSITION])
    answer = call_of(operation, world).send(caller_of(operation, world), stream=operation.sse)
    assert answer.status_code == operation.status
    assert int(answer.headers[POSITION]) >= written


@pytest.mark.parametrize("operation", STRANGERS, ids=str)
def test_a_stranger_does_not_see_whether_the_log_grows(world: World, operation: Operation) -> None:
    answer = call_of(operation, world).send(caller_of(operation, world), headers={MIN_POSITION: str(10**15)})
    assert answer.status_code == operation.status
    assert not {POSITION, "Testhide-Projected"} & answer.headers.keys()


def test_so_does_what_is_not_found(world: World) -> None:
    written = int(world.admin.post("/api/v3/api-tokens", json={"name": "written"}).headers[POSITION])
    answer = world.admin.get(f"/api/v3/projects/{2**50}")
    assert answer.status_code == 404
    assert int(answer.headers[POSITION]) >= written


def test_a_read_waits_for_a_write(world: World) -> None:
    for number in range(10):
        made = world.admin.post(
            "/api/v3/projects", json={"name": f"async {number}"}, headers={"Prefer": "respond-async"}
        )
        wanted = {MIN_POSITION: made.headers[POSITION]}
        shown = world.admin.get(f"/api/v3/projects/{made.json()['id']}", headers=wanted)
        assert shown.status_code == 200
        assert "Testhide-Projected" not in shown.headers


def test_every_read_waits(world: World) -> None:
    """For a position that never comes, a while: that is no error, but it is said."""
    world.beat()
    never = {MIN_POSITION: str(10**15)}

    def read(operation: Operation) -> tuple[Operation, requests.Response]:
        # A session is no thread's to share.
        with requests.Session() as session:
            call = call_of(operation, world)
            url = world.server.url + call.path.format(**call.ids)
            headers = {"Authorization": str(caller_of(operation, world).headers["Authorization"]), **never}
            return operation, session.request(call.method, url, params=call.query, headers=headers, timeout=30)

    with ThreadPoolExecutor(len(READS_OF_USERS)) as pool:
        for operation, answer in pool.map(read, READS_OF_USERS):
            assert answer.status_code == operation.status, f"{operation}: {answer.text[:300]}"
            assert answer.headers.get("Testhide-Projected") == "false", operation


@pytest.mark.parametrize("operation", READS, ids=str)
def test_no_position(world: World, sample: Sample, operation: Operation) -> None:
    call = call_of(operation, world)
    for wrong in sample(("x", "-1", "1.5", "9" * 30, "1 2")):
        problem = problem_of(call.send(caller_of(operation, world), headers={MIN_POSITION: wrong}), 422)
        assert [error["field"] for error in problem["errors"]] == [MIN_POSITION]
