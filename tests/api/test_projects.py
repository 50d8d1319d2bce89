"""Projects, and the checks of text and ids that every area shares."""

import time
from typing import Any

import pytest
import requests

from tests.support.builders import Shop
from tests.support.server import Server

HUGE = "9" * 5_000


@pytest.fixture(name="project")
def _project(server: Server) -> dict[str, Any]:
    created: dict[str, Any] = server.admin.post("/api/v3/projects", json={"name": "Mobile App"}).json()
    return created


def test_create(server: Server) -> None:
    developer = server.make_user("developer", {})
    body = {"name": "Größe & Co", "description": "iOS"}
    answer = developer.post("/api/v3/projects", json=body)
    assert answer.status_code == 201
    created = answer.json()
    assert int(answer.headers["Testhide-Position"]) > 0
    assert created["slug"].startswith("gro-e-co") or created["slug"].startswith("groe-co")
    assert created["webhook_secret"].startswith("wh_sec_")
    assert developer.get("/api/v3/me").json()["permissions"]["projects"] == {str(created["id"]): "admin"}
    shown = developer.get(f"/api/v3/projects/{created['id']}").json()
    assert (shown["name"], shown["description"], shown["jobs_count"]) == ("Größe & Co", "iOS", 0)
    assert shown["webhook_url"].endswith(f"/webhook/proj/{created['id']}")
    assert "webhook_secret" not in shown


def test_viewers_create_none(server: Server) -> None:
    assert server.make_user("viewer", {}).post("/api/v3/projects", json={"name": "x"}).status_code == 403


def test_slugs_differ(server: Server, project: dict[str, Any]) -> None:
    again = server.admin.post("/api/v3/projects", json={"name": "Mobile App"}).json()
    assert again["slug"] != project["slug"]


def test_a_project_is_created_although_another_has_its_numbered_slug(server: Server) -> None:
    first = server.admin.create("/projects", name="Slug")["id"]
    other = server.admin.create("/projects", name=f"Slug {first + 2}")
    created = server.admin.create("/projects", name="Slug")
    assert created["id"] == first + 2
    assert created["slug"].startswith(f"{other['slug']}-")


def test_what_one_is_no_member_of_does_not_exist(server: Server, project: dict[str, Any]) -> None:
    stranger = server.make_user("developer", {})
    assert stranger.get(f"/api/v3/projects/{project['id']}").status_code == 404
    assert stranger.put(f"/api/v3/projects/{project['id']}", json={"name": "x"}).status_code == 404
    assert stranger.get("/api/v3/projects").json() == []


def test_projects_come_in_pages(server: Server) -> None:
    me = server.make_user("developer", {})
    ids = [me.post("/api/v3/projects", json={"name": "Paged"}).json()["id"] for _ in range(3)]
    assert [item["id"] for item in me.get("/api/v3/projects").json()] == ids
    assert [item["id"] for item in me.get("/api/v3/projects", params={"page": 2, "limit": 2}).json()] == ids[2:]
    first = me.get("/api/v3/projects", params={"limit": 2})
    assert [item["id"] for item in first.json()] == ids[:2]
    assert [item["id"] for item in me.get(first.links["next"]["url"]).json()] == ids[2:]
    for bad in ({"page": 0}, {"limit": 501}, {"after": -1}):
        assert me.get("/api/v3/projects", params=bad).status_code == 422


def test_update_takes_a_project_admin(server: Server, project: dict[str, Any]) -> None:
    writer = server.make_user("developer", {project["id"]: "write"})
    assert writer.put(f"/api/v3/projects/{project['id']}", json={"name": "x"}).status_code == 403
    changed = server.admin.put(f"/api/v3/projects/{project['id']}", json={"description": "new"})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["description"]) == ("Mobile App", "new")


@pytest.mark.parametrize("number", [0, 10**15, 2**53, 2**53 + 1, 2**63, 2**64, HUGE, -1, "x"])
def test_ids_that_no_project_has(server: Server, number: int | str) -> None:
    assert server.admin.get(f"/api/v3/projects/{number}").status_code == 404


@pytest.mark.parametrize("text", ["\0", "a\0b"])
def test_text_that_cannot_be_stored(server: Server, text: str) -> None:
    answer = server.admin.post("/api/v3/projects", json={"name": "x", "description": text})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "description"


def test_an_escaped_backslash_is_no_nul(server: Server) -> None:
    answer = server.admin.post(
        "/api/v3/projects", data=rb'{"name": "\\u0000"}', headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["name"]) == (201, r"\u0000")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"null", 422),
        (b"[]", 422),
        (b"{", 400),
        (b"{'name': 1}", 400),
        (b"\xff\xfe", 400),
        (rb'{"name": "\ud800"}', 422),
        (rb'{"name": "\udc00\ud800"}', 422),
        (rb'{"name": "x", "\u0000": 1}', 422),
        (b'{"name": "x", "scm_endpoint_id": 1e400}', 422),
        (b'{"name": "x", "scm_endpoint_id": ' + HUGE.encode() + b"}", 422),
        (b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422),
        (b"[" * 100_000, 422),
    ],
)
def test_bodies_that_are_no_project(server: Server, body: bytes, status: int) -> None:
    answer = server.admin.post("/api/v3/projects", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")


def test_other_media_types(server: Server) -> None:
    assert server.admin.post("/api/v3/projects", data={"name": "x"}).status_code == 415
    plain = {"Content-Type": "application/json; charset=utf-8"}
    assert server.admin.post("/api/v3/projects", data=b'{"name": "x"}', headers=plain).status_code == 201
    assert server.admin.post("/api/v3/projects", data=b'{"name": "x"}').status_code == 201  # none is said


@pytest.mark.parametrize("query", ["search=%00", "search=%ff", "search=%ed%a0%80", "project_id=%00", "x=%00"])
def test_query_strings_that_are_no_text(server: Server, query: str) -> None:
    assert server.admin.get(f"/api/v3/jobs?{query}").status_code == 422


def test_paths_that_are_no_text(server: Server) -> None:
    for path in ("/agent/%00/linux-amd64", "/agent/%ff/linux-amd64", "/agent/%ed%a0%80/linux-amd64"):
        assert requests.get(server.url + path, timeout=10).status_code in (400, 404)


def test_a_rotated_webhook_secret_is_another_one(server: Server) -> None:
    created = server.admin.post("/api/v3/projects", json={"name": "Rotates"}).json()
    path = f"/api/v3/projects/{created['id']}/rotate-webhook-secret"
    answers = [server.admin.post(path) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    secrets = {created["webhook_secret"], *(answer.json()["webhook_secret"] for answer in answers)}
    assert len(secrets) == 3
    assert all(secret.startswith("wh_sec_") for secret in secrets)
    assert server.make_user("developer", {created["id"]: "write"}).post(path).status_code == 403


def test_deleting_takes_a_project_admin(server: Server, project: dict[str, Any]) -> None:
    path = f"/api/v3/projects/{project['id']}"
    assert server.make_user("developer", {project["id"]: "write"}).delete(path).status_code == 403
    assert server.make_user("developer").delete(path).status_code == 404
    admin = server.make_user("developer", {project["id"]: "admin"})
    answer = admin.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert int(answer.headers["Testhide-Position"]) > 0
    assert admin.get(path).status_code == server.admin.get(path).status_code == 404
    assert server.admin.delete(path).status_code == 404
    assert admin.get("/api/v3/projects").json() == []


def test_a_deleted_projects_name_is_free_again(server: Server) -> None:
    name = {"name": f"Once {id(server)}"}
    first = server.admin.post("/api/v3/projects", json=name).json()
    assert server.admin.delete(f"/api/v3/projects/{first['id']}").status_code == 204
    assert server.admin.post("/api/v3/projects", json=name).json()["slug"] == first["slug"]


def test_all_that_was_in_it_goes_with_it(server: Server, project: dict[str, Any]) -> None:
    """What runs on a node is ended there, and no other project notices."""
    shop, other = Shop(server), Shop(server)
    agent, elsewhere = shop.new_agent(max_parallel=2), other.new_agent()
    runs, waits, kept = shop.start(), shop.start(external=True), other.start()
    build, also_runs = agent.take_up(), elsewhere.take_up()
    assert (build["id"], also_runs["id"]) == (runs, kept)
    assert server.admin.delete(f"/api/v3/projects/{shop.project}").status_code == 204
    gone = (f"jobs/{shop.job}", f"builds/{runs}", f"builds/{waits}", f"node-pools/{shop.pool}")
    assert {server.admin.get(f"/api/v3/{path}").status_code for path in gone} == {404}
    deadline = time.monotonic() + 30
    while agent.beat(build) != [[runs, "stopped"]]:
        assert time.monotonic() < deadline, "its agent is not told that it was aborted"
    body = {"name": "late", "project_id": shop.project}
    assert server.admin.post("/api/v3/jobs", json=body).status_code == 404
    assert elsewhere.finished(also_runs).status_code == 200
    assert other.ended(kept)["status"] == "passed"


def test_a_project_whose_pools_others_use_at_this_moment_stays(server: Server) -> None:
    host, guest = Shop(server), Shop(server)
    server.admin.put(f"/api/v3/node-pools/{host.pool}", json={"shared": True}).raise_for_status()
    job = guest.new_job(node_pool_id=host.pool)
    build = guest.start(job)
    answer = server.admin.delete(f"/api/v3/projects/{host.project}")
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("1 build of another project is queued or running in node pools")
    assert host.new_job() > 0, "it is as open as before"
    server.admin.post(f"/api/v3/builds/{build}/stop").raise_for_status()
    assert server.admin.delete(f"/api/v3/projects/{host.project}").status_code == 204
    assert server.admin.get(f"/api/v3/jobs/{job}").status_code == 200
