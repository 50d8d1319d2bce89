"""An event that cannot be read, over HTTP: said where it lies, and in nobody else's way."""

from tests.support.builders import given_build
from tests.support.damage import damaged
from tests.support.server import Server


def _queued(server: Server, build: int) -> int:
    server.wait_until_projected()  # a read model that comes to the damaged event later would park it
    (first,) = server.admin.get(f"/api/v3/audit/streams/build-{build}", params={"limit": 1}).json()
    assert first["type"] == "build.queued"
    return int(first["position"])


def test_what_needs_it_is_refused_and_says_why(server: Server, job: int) -> None:
    build, other = given_build(server, job), given_build(server, job)
    position = _queued(server, build)
    with damaged(server.settings.database_url, position):
        for answer in (
            server.admin.post(f"/api/v3/builds/{build}/comment", json={"text": "why?"}),
            server.admin.get(f"/api/v3/builds/{build}", params={"as_of": position}),
        ):
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:testhide:problem:damaged")
            assert answer.json()["detail"].startswith(
                f"build-{build} cannot be used: its event at position {position} cannot be read"
            )
        assert server.admin.get(f"/api/v3/builds/{build}").status_code == 200
        answer = server.admin.post(f"/api/v3/builds/{other}/comment", json={"text": "fine"})
        assert answer.status_code == 201
    assert server.admin.post(f"/api/v3/builds/{build}/comment", json={"text": "ah"}).status_code == 201


def test_the_audit_trail_shows_that_it_is_there(server: Server, job: int) -> None:
    build = given_build(server, job)
    position = _queued(server, build)
    with damaged(server.settings.database_url, position):
        for path in (f"streams/build-{build}", "events"):
            shown = server.admin.get(f"/api/v3/audit/{path}", params={"after": 0}).json()
            (one,) = [event for event in shown if event["position"] == position]
            assert (one["type"], one["stream"], one["area"]) == ("build.queued", f"build-{build}", "builds")
            assert "cannot be read any more: the stored state is not an event's" in one["summary"]


def test_a_time_is_found_past_it(server: Server, job: int) -> None:
    build = given_build(server, job)
    position = _queued(server, build)
    at = server.admin.get(f"/api/v3/audit/streams/build-{build}").json()[-1]["at"]
    job_position = int(server.admin.put(f"/api/v3/jobs/{job}", json={"name": "Later"}).headers["Testhide-Position"])
    with damaged(server.settings.database_url, position):
        answer = server.admin.get(f"/api/v3/jobs/{job}", params={"as_of": at})
        assert position <= int(answer.headers["Testhide-As-Of"]) < job_position
