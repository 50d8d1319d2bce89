"""The audit trail over HTTP: what is shown, to whom, and that reading it is seen."""

import uuid
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.builders import given_build, given_project, upload
from tests.support.server import Server

REPORT = b"""<testsuite name="s"><testcase classname="t.test_x" name="test_a"><failure message="boom">trace</failure>
</testcase></testsuite>"""


def events(client: Any, **params: Any) -> Any:
    answer = client.get("/api/v3/audit/events", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def story(client: Any, stream: str, **params: Any) -> Any:
    answer = client.get(f"/api/v3/audit/streams/{stream}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def types(shown: Any) -> list[str]:
    return [event["type"] for event in shown]


def changed(event: Any) -> dict[str, tuple[Any, Any]]:
    return {change["field"]: (change["from"], change["to"]) for change in event["changes"]}


def test_everything_of_a_project_newest_first(server: Server, project: int, job: int) -> None:
    name = uuid.uuid4().hex
    answer = server.admin.put(f"/api/v3/jobs/{job}", json={"name": name})
    shown = events(server.admin, project_id=project)
    assert types(shown) == ["job.updated", "job.created", "project.member_admitted", "project.created"]
    newest = shown[0]
    assert newest["position"] == int(answer.headers["Testhide-Position"])
    assert newest["summary"] == f"{newest['actor_name']} changed job {job}."
    assert changed(newest) == {"title": ("Smoke", name)}
    expected = {"stream": f"job-{job}", "version": 2, "area": "jobs", "project_id": project, "erased": False}
    assert newest.items() >= expected.items()
    assert [event["position"] for event in events(server.admin, project_id=project, order="oldest")] == sorted(
        event["position"] for event in shown
    )


def test_filters(server: Server, project: int, job: int) -> None:
    build = given_build(server, job)
    assert types(events(server.admin, project_id=project, area="builds")) == ["build.started", "build.queued"]
    assert types(events(server.admin, project_id=project, type="job.created")) == ["job.created"]
    assert types(events(server.admin, project_id=project, type="job.created", area="jobs")) == ["job.created"]
    assert types(events(server.admin, stream=f"build-{build}", order="oldest")) == ["build.queued", "build.started"]
    who = server.make_user("developer", {project: "write"})
    me = who.get("/api/v3/me").json()["id"]
    commented = who.post(f"/api/v3/builds/{build}/comment", json={"text": "hm"})
    assert commented.status_code in (200, 201), commented.text
    (shown,) = events(server.admin, project_id=project, actor=f"user:{me}")
    assert (shown["type"], shown["actor"]) == ("build.commented", f"user:{me}")
    assert shown["summary"].endswith(f"commented on build {build}: “hm”.")
    assert events(server.admin, project_id=project, actor="node:1") == []
    assert types(events(server.admin, actor=f"user:{me}", limit=1)) == ["build.commented"]


def test_periods(server: Server, project: int, job: int) -> None:
    shown = events(server.admin, project_id=project)
    at = [datetime.fromisoformat(event["at"]) for event in shown]
    middle = max(at)
    later, earlier = (
        events(server.admin, project_id=project, since=middle.isoformat()),
        events(server.admin, project_id=project, until=middle.isoformat()),
    )
    assert later
    assert later + earlier == shown
    since = (middle - timedelta(days=1)).isoformat()
    assert (
        events(server.admin, project_id=project, since=since, until=(middle + timedelta(days=1)).isoformat()) == shown
    )
    assert events(server.admin, project_id=project, until=since) == []


def test_pages_follow_each_other(server: Server, project: int, job: int) -> None:
    every = events(server.admin, project_id=project)
    for order in ("newest", "oldest"):
        found, url = [], f"/api/v3/audit/events?project_id={project}&order={order}&limit=1"
        while url:
            answer = server.admin.get(url)
            assert answer.status_code == 200, answer.text
            found += answer.json()
            url = answer.links.get("next", {}).get("url", "")
        assert [one for one in found if one["type"] != "audit.read"] == (every if order == "newest" else every[::-1])


def test_the_story_of_a_stream(server: Server, job: int) -> None:
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}).raise_for_status()
    shown = story(server.admin, f"build-{build}")
    assert types(shown) == ["build.queued", "build.started", "build.report_recorded", "build.finished"]
    assert [event["version"] for event in shown] == [1, 2, 3, 4]
    assert changed(shown[-1])["status"] == ("running", "failed")
    assert [event["version"] for event in story(server.admin, f"build-{build}", order="newest", limit=2)] == [4, 3]
    answer = server.admin.get(f"/api/v3/audit/streams/build-{build}", params={"limit": 3})
    assert types(server.admin.get(answer.links["next"]["url"]).json()) == ["build.finished"]
    (results,) = story(server.admin, f"results-{build}")
    assert (results["type"], results["changes"]) == ("results.recorded", [])


def test_the_story_of_a_build_says_which_known_issue_classified_which_result(
    server: Server, project: int, job: int
) -> None:
    issue = {"project_id": project, "title": "Boom", "classification": "infra", "pattern": "boom"}
    known = server.admin.post("/api/v3/known-issues", json=issue).json()["id"]
    other = server.admin.post("/api/v3/known-issues", json=issue | {"pattern": "other"}).json()["id"]
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    failed = server.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"][0]["id"]
    by_rule = {f"results.{failed}.classification": (None, "infra"), f"results.{failed}.known_issue_id": (None, known)}
    reported = story(server.admin, f"build-{build}")[-1]
    assert reported["type"] == "build.report_recorded"
    assert changed(reported).items() >= by_rule.items()
    classified = story(server.admin, f"results-{build}")[-1]
    assert classified["summary"].endswith(f"classified 1 failure of build {build} by known issue {known}.")
    assert changed(classified) == by_rule

    tests, me = f"/api/v3/tests/{failed}", server.admin.fetch("/me")["id"]
    server.admin.post(f"{tests}/known-issue", json={"known_issue_id": other}).raise_for_status()
    server.admin.post(f"{tests}/classification", json={"classification": "product_bug"}).raise_for_status()
    linked, decided = story(server.admin, f"result-{failed}")
    person = {"set_by_kind": ("rule", "user"), "set_by": (None, me)}
    assert changed(linked) == {"known_issue_id": (known, other)} | person
    assert decided["summary"].endswith("as product bug, before infra.")
    assert changed(decided)["classification"] == ("infra", "product_bug")
    assert "set_by_kind" not in changed(decided)


def test_a_deleted_build_stays_listed_without_its_texts(server: Server, project: int, job: int) -> None:
    build = given_build(server, job, branch="very-secret-branch")
    server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}).raise_for_status()
    assert "very-secret-branch" in story(server.admin, f"build-{build}")[0]["summary"]
    assert server.admin.delete(f"/api/v3/builds/{build}").status_code == 204
    answer = server.admin.get(f"/api/v3/audit/streams/build-{build}")
    assert "very-secret-branch" not in answer.text
    shown = answer.json()
    assert types(shown)[-1] == "build.deleted"
    assert shown[0]["erased"] is True
    assert "Its texts were erased." in shown[0]["summary"]
    assert changed(shown[-1])["status"] == ("failed", "deleted")


def test_secrets_are_not_shown(server: Server, project: int, job: int) -> None:
    configuration = {
        "command": "x",
        "setup": [],
        "env": {"HOST": "a"},
        "artifacts": [],
        "secrets": {"KEY": "hush-hush"},
    }
    server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).raise_for_status()
    server.admin.post("/api/v3/api-tokens", json={"name": "mine"}).raise_for_status()
    answer = server.admin.get("/api/v3/audit/events", params={"stream": f"job-{job}", "limit": 1})
    (shown,) = answer.json()
    assert changed(shown)["configuration.secrets.KEY"] == (None, "(secret)")
    assert changed(shown)["configuration.env.HOST"] == (None, "a")
    assert "hush" not in answer.text
    (token,) = events(server.admin, type="api_token.created", limit=1)
    assert changed(token)["token_hash"] == (None, "(secret)")


def test_a_projects_admin_reads_the_projects_trail_only(server: Server, project: int, job: int) -> None:
    other = given_project(server)
    client = server.make_user("developer", {project: "admin"})
    assert {event["project_id"] for event in events(client)} == {project}
    assert types(story(client, f"job-{job}")) == ["job.created"]
    for stream in (f"project-{other}", "user-1", "dispatch-leader", "build-999999999"):
        assert client.get(f"/api/v3/audit/streams/{stream}").status_code == 404, stream
        assert client.get("/api/v3/audit/events", params={"stream": stream}).status_code == 422, stream
    assert client.get("/api/v3/audit/events", params={"project_id": other}).status_code == 404


@pytest.mark.parametrize("role", ["developer", "viewer"])
def test_others_read_none_of_it(server: Server, project: int, job: int, role: Any) -> None:
    member, stranger = server.make_user(role, {project: "write"}), server.make_user(role)
    assert member.get("/api/v3/audit/events").status_code == 403
    assert member.get("/api/v3/audit/events", params={"project_id": project}).status_code == 403
    assert member.get(f"/api/v3/audit/streams/job-{job}").status_code == 403
    assert stranger.get("/api/v3/audit/events").status_code == 403
    assert stranger.get("/api/v3/audit/events", params={"project_id": project}).status_code == 404
    assert stranger.get(f"/api/v3/audit/streams/job-{job}").status_code == 404
    assert server.client().get("/api/v3/audit/events").status_code == 401


def test_reading_what_others_did_is_seen(server: Server, project: int, job: int) -> None:
    client = server.make_user("developer", {project: "admin"})
    me = client.get("/api/v3/me").json()["id"]
    for path in ("events", f"streams/job-{job}"):
        refused = client.get(f"/api/v3/audit/{path}", params={"limit": 5, "token": "not to be kept"})
        assert refused.status_code == 422
    events(client, project_id=project, area="jobs")
    story(client, f"job-{job}")
    server.wait_until_projected()
    # What was refused has shown nothing, and what it sent is nowhere.
    second, first = events(server.admin, project_id=project, type="audit.read")
    assert "not to be kept" not in str(events(server.admin))
    assert (first["actor"], first["project_id"]) == (f"user:{me}", project)
    assert f"read the audit trail (project_id {project}, area jobs), 1 event." in first["summary"]
    assert f"read the story of a stream (stream job-{job}), 1 event." in second["summary"]


def test_a_reading_is_noted_as_it_was_understood(server: Server, project: int, job: int) -> None:
    other = server.make_user("developer").post("/api/v3/projects", json={"name": uuid.uuid4().hex}).json()["id"]
    until = f"2099-01-01T00:00:00.{'0' * 5_000}Z"
    doubled = server.admin.get(f"/api/v3/audit/events?project_id={project}&project_id={other}")
    assert doubled.json()["errors"] == [{"field": "project_id", "message": "is given 2 times; give it once"}]
    events(server.admin, project_id=other, since="2026-01-01", until=until)
    server.wait_until_projected()
    (noted,) = events(server.admin, project_id=other, type="audit.read")
    assert f"(project_id {other}, since 2026-01-01T00:00:00Z, until 2099-01-01T00:00:00.0" in noted["summary"]
    assert len(noted["summary"]) < 500


def test_a_head_request_shows_nothing_and_is_not_noted(server: Server, project: int, job: int) -> None:
    for path in ("events", f"streams/job-{job}"):
        assert server.admin.head(f"/api/v3/audit/{path}", params={"limit": 5}).status_code == 200
    client = server.make_user("developer", {project: "admin"})
    assert client.head("/api/v3/audit/events", params={"project_id": project}).status_code == 200
    server.wait_until_projected()
    assert events(server.admin, project_id=project, type="audit.read") == []


def test_reading_ones_own_acts_is_not(server: Server, project: int) -> None:
    client = server.make_user("developer", {project: "admin"})
    me = client.get("/api/v3/me").json()["id"]
    client.post("/api/v3/jobs", json={"name": "Mine", "project_id": project}).raise_for_status()
    assert types(events(client, project_id=project, actor=f"user:{me}")) == ["job.created"]
    server.wait_until_projected()
    assert events(server.admin, project_id=project, type="audit.read") == []


@pytest.mark.parametrize(
    ("params", "field", "says"),
    [
        ({"type": "build.exploded"}, "type", "build.queued"),
        ({"type": "nothing"}, "type", "job.created"),
        ({"area": "weather"}, "area", "builds"),
        ({"area": "jobs", "type": "build.queued"}, "type", "builds"),
        ({"actor": "anna"}, "actor", "user:7"),
        ({"actor": "user:0"}, "actor", "user:7"),
        ({"stream": "build-99999999"}, "stream", "build-1025"),
        ({"since": "2026-05-20T10:00:00"}, "since", "with its offset"),
        ({"since": "yesterday"}, "since", ""),
        ({"since": "2026-05-20T10:00:00Z", "until": "2026-05-20T10:00:00Z"}, "until", "later"),
        ({"after": "-1"}, "after", ""),
        ({"order": "up"}, "order", ""),
        ({"limit": "201"}, "limit", ""),
        ({"project_id": "x"}, "project_id", ""),
    ],
)
def test_unknown_filters_are_named(server: Server, params: dict[str, str], field: str, says: str) -> None:
    answer = server.admin.get("/api/v3/audit/events", params=params)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert says in error["message"]


def test_what_is_not_there(server: Server) -> None:
    assert server.admin.get("/api/v3/audit/events", params={"project_id": 2**52}).status_code == 404
    for stream in ("build-99999999", "nonsense", quote("a b/ü")):
        assert server.admin.get(f"/api/v3/audit/streams/{stream}").status_code == 404
