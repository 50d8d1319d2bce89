"""Artifacts over HTTP."""

import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from api import artifacts
from api.http.uploads import MAX_HELD_BYTES
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.in_process_server import serve_in_process
from tests.support.server import ADMIN, Server

CONTENT = bytes(range(256)) * 40


@pytest.fixture(name="project", scope="module")
def _project(server: Server) -> int:
    return given_project(server)


@pytest.fixture(name="build")
def _build(server: Server, project: int) -> int:
    return given_build(server, given_job(server, project))


@pytest.fixture(name="artifact")
def _artifact(server: Server, build: int) -> int:
    answer = upload(server.admin, build, CONTENT, 'Prüf "1".bin', "out/")
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_a_field_that_an_upload_does_not_have(server: Server, build: int) -> None:
    for is_first in (True, False):
        named = [("build_id", (None, str(build))), ("replce", (None, "true"))]
        file = [("file", ("report.xml", CONTENT))]
        answer = server.admin.post("/api/v3/artifacts/upload", files=named + file if is_first else file + named)
        expected = [{"field": "replce", "message": "is not known here; did you mean replace?"}]
        assert (answer.status_code, answer.json()["errors"]) == (422, expected)
    assert server.admin.fetch("/artifacts", build_id=build) == []


def test_upload(server: Server, build: int) -> None:
    answer = upload(server.admin, build, b"<a/>", path="reports/")
    assert answer.status_code == 201
    assert answer.json().items() >= {"name": "report.xml", "size_bytes": 4, "path": "reports/report.xml"}.items()
    assert isinstance(answer.json()["id"], int)
    assert answer.json()["sha256"] == hashlib.sha256(b"<a/>").hexdigest()
    assert int(answer.headers["Testhide-Position"]) > 0
    listed = server.admin.get("/api/v3/artifacts", params={"build_id": build}).json()
    assert [(item["id"], item["name"], item["type"]) for item in listed] == [
        (answer.json()["id"], "report.xml", "report")
    ]
    assert listed[0]["created_at"].endswith("Z")


def test_the_same_file_again_is_the_same_artifact(server: Server, build: int) -> None:
    first, again, other = (upload(server.admin, build, content, "a.log") for content in (b"x", b"x", b"y"))
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]


def test_so_it_is_when_it_comes_while_the_first_is_still_being_stored(server: Server, build: int) -> None:
    """As from an agent whose connection was cut."""
    clients = [server.client() for _ in range(8)]
    for client in clients:
        client.authorize(server.admin.token)
    with ThreadPoolExecutor(len(clients)) as threads:
        answers = list(threads.map(lambda client: upload(client, build, CONTENT, "a.bin"), clients))
    assert {answer.status_code for answer in answers} == {201}
    listed = server.admin.get("/api/v3/artifacts", params={"build_id": build}).json()
    assert {answer.json()["id"] for answer in answers} == {listed[0]["id"]}
    assert len(listed) == 1


def test_a_deleted_file_can_be_stored_again(server: Server, build: int) -> None:
    first = upload(server.admin, build, b"x", "a.log").json()["id"]
    server.admin.delete(f"/api/v3/artifacts/{first}").raise_for_status()
    again = upload(server.admin, build, b"x", "a.log")
    assert again.status_code == 201
    listed = server.admin.get("/api/v3/artifacts", params={"build_id": build}).json()
    assert [item["id"] for item in listed] == [again.json()["id"]] != [first]


def test_the_file_may_come_first(server: Server, build: int) -> None:
    parts = [("file", ("a.log", b"x")), ("build_id", (None, str(build)))]
    answer = server.admin.post("/api/v3/artifacts/upload", files=parts)
    assert (answer.status_code, answer.json().get("path")) == (201, "a.log")


def test_an_empty_file(server: Server, build: int) -> None:
    artifact = upload(server.admin, build, b"", "empty.log").json()["id"]
    answer = server.admin.get(f"/api/v3/artifacts/{artifact}/download")
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("path", "name", "whole"),
    [
        ("py311", "junit.xml", "py311/junit.xml"),
        ("py311/", "junit.xml", "py311/junit.xml"),
        ("py311/junit.xml", "junit.xml", "py311/junit.xml"),
        ("py311\\x", "C:\\junit.xml", "py311/x/junit.xml"),
        ("py311/core", "-", "py311/core"),
    ],
)
def test_a_path_is_a_folder_unless_it_ends_in_the_name(
    server: Server, build: int, path: str, name: str, whole: str
) -> None:
    assert upload(server.admin, build, b"x", name, path).json()["path"] == whole


@pytest.mark.parametrize("path", ["/etc/", "../", "a/../../b", "C:\\x\\", "a\x01/", "x" * 1_001])
def test_paths_that_lead_out_are_refused(server: Server, build: int, path: str) -> None:
    answer = upload(server.admin, build, b"x", path=path)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "path")
    assert server.admin.get("/api/v3/artifacts", params={"build_id": build}).json() == []


@pytest.mark.parametrize("build", ["", "x", "0", "051", "-1", "1.5", "²", "9" * 30, "true"])
def test_builds_that_are_none(server: Server, build: str) -> None:
    answer = upload(server.admin, build, b"x")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "build_id")


def test_unknown_builds(server: Server) -> None:
    assert upload(server.admin, 2**52, b"x").status_code == 404
    for path in ("", "/tree"):
        answer = server.admin.get(f"/api/v3/artifacts{path}", params={"build_id": 2**52})
        assert answer.status_code == 404
    assert server.admin.get(f"/api/v3/artifacts/{2**52}/download").status_code == 404
    assert server.admin.get("/api/v3/artifacts").status_code == 422


def test_bodies_that_are_no_form(server: Server, build: int) -> None:
    post = server.admin.post
    url = "/api/v3/artifacts/upload"
    assert post(url, json={"build_id": build}).status_code == 415
    assert post(url, data=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 422
    boundary = {"Content-Type": "multipart/form-data; boundary=b"}
    assert post(url, data=b"nonsense", headers=boundary).status_code == 422
    assert post(url, data=b"", headers=boundary).status_code == 422
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
    assert post(url, data=cut, headers=boundary).status_code == 422
    without_file = post(url, files=[("build_id", (None, str(build)))])
    assert (without_file.status_code, without_file.json()["errors"][0]["field"]) == (422, "file")
    long_field = post(url, files=[("build_id", (None, "1" * 10_000)), ("file", ("a", b"x"))])
    assert long_field.status_code == 422
    many = post(url, files=[(f"f{number}", (None, "x")) for number in range(50)])
    assert many.status_code == 422
    assert server.admin.get("/api/v3/artifacts", params={"build_id": build}).json() == []


def answer_to_beginning(client: Client, body: bytes, length: int) -> int:
    """The status of an upload whose body is said to have `length` bytes, and of which no more than `body` comes."""
    address = urlsplit(client.url)
    head = (
        f"POST /api/v3/artifacts/upload HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {length}\r\n"
        f"Authorization: Bearer {client.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        connection.sendall(head.encode() + body)
        return int(connection.recv(100).split()[1])


def test_too_large_a_file_is_refused_at_its_head(server: Server) -> None:
    assert answer_to_beginning(server.admin, b"--b\r\n", 2**31 + 2**20) == 413


def test_a_file_is_refused_before_it_is_received(server: Server, project: int, build: int) -> None:
    def field(value: object) -> bytes:
        return b'--b\r\nContent-Disposition: form-data; name="build_id"\r\n\r\n%s\r\n--b\r\n' % str(value).encode()

    reader = server.make_user("developer", {project: "read"})
    stranger = server.make_user("developer", {})
    viewer = server.make_user("viewer", {project: "write"})
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    size = 10**9
    assert answer_to_beginning(reader, field(build), size) == 403
    assert answer_to_beginning(stranger, field(build), size) == 404
    assert answer_to_beginning(viewer, field(build), size) == 403
    assert answer_to_beginning(server.admin, field(2**52), size) == 404
    assert answer_to_beginning(server.admin, field("x"), size) == 422
    assert answer_to_beginning(server.admin, file + bytes(MAX_HELD_BYTES + 1), size) == 422
    late = server.admin.post(
        "/api/v3/artifacts/upload", files=[("file", ("a", bytes(10**6))), ("build_id", (None, str(build)))]
    )
    expected = {"field": "build_id", "message": f"must come before a file of more than {MAX_HELD_BYTES:,} bytes"}
    assert (late.status_code, late.json()["errors"]) == (422, [expected])
    assert list(Path(server.settings.data_dir, "spool").iterdir()) == []


def test_a_project_has_a_quota(server: Server) -> None:
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    with serve_in_process(server, artifact_quota=1_000_000) as inside:
        client = inside.client(*ADMIN)

        def used() -> tuple[int, int]:
            server.wait_until_projected()
            shown = client.fetch(f"/projects/{project}")
            return shown["artifact_bytes"], shown["artifact_quota"]

        assert used() == (0, 1_000_000)
        first = upload(client, build, bytes(700_000), "a.bin").json()["id"]
        upload(client, build, b"x" * 5_000, "b.bin").then(201)
        assert used() == (705_000, 1_000_000)
        refused = upload(client, build, b"y" * 300_000, "c.bin").then(413)
        assert f"Project {project} has 705,000 bytes of artifacts and may have 1,000,000" in refused["detail"]
        body = b'--b\r\nContent-Disposition: form-data; name="build_id"\r\n\r\n%d\r\n--b\r\n' % build
        assert answer_to_beginning(client, body, 600_000) == 413, "before it is received"
        assert [item["name"] for item in client.fetch("/artifacts", build_id=build)] == ["a.bin", "b.bin"]
        client.delete(f"/api/v3/artifacts/{first}").raise_for_status()
        assert used() == (5_000, 1_000_000)
        upload(client, build, b"y" * 300_000, "c.bin").then(201)


def test_a_build_has_a_number_of_artifacts(server: Server, build: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_FILES", 1)
    with serve_in_process(server) as inside:
        client = inside.client(*ADMIN)
        upload(client, build, b"", "a.bin").then(201)
        server.wait_until_projected()
        assert "may have no more" in upload(client, build, b"", "b.bin").then(413)["detail"]


def test_uploads_under_way_are_bounded_in_all(server: Server, build: int) -> None:
    with serve_in_process(server) as inside:
        client, spool = inside.client(*ADMIN), inside.services.spool
        spool.max_bytes = 100_000
        refused = upload(client, build, bytes(60_000), "a.bin")
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        upload(client, build, bytes(40_000), "a.bin").then(201)
        spool.reserve(project_id=0, size=50_000)
        spool.reserve(project_id=-1, size=20_000)
        assert upload(client, build, bytes(40_000), "b.bin").status_code == 503
        assert list(spool.folder.iterdir()) == []


def test_download(server: Server, artifact: int) -> None:
    answer = server.admin.get(f"/api/v3/artifacts/{artifact}/download")
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["ETag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Type"].startswith("application/octet-stream")
    assert answer.headers["Content-Disposition"] == (
        "attachment; filename=\"Pr_f _1_.bin\"; filename*=UTF-8''Pr%C3%BCf%20%221%22.bin"
    )


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-9", 5, 10), ("bytes=10000-", 10_000, None), ("bytes=-5", -5, None)],
)
def test_ranges(server: Server, artifact: int, wanted: str, start: int, end: int | None) -> None:
    answer = server.admin.get(f"/api/v3/artifacts/{artifact}/download", headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    first = range(len(CONTENT))[start]
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("wanted", ["bytes=99999-", "bytes=-0"])
def test_ranges_beyond_the_end(server: Server, artifact: int, wanted: str) -> None:
    answer = server.admin.get(f"/api/v3/artifacts/{artifact}/download", headers={"Range": wanted})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")
    assert answer.json()["status"] == 416


@pytest.mark.parametrize("wanted", ["bytes=5-1", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "bytes=a-b"])
def test_ranges_that_are_ignored(server: Server, artifact: int, wanted: str) -> None:
    answer = server.admin.get(f"/api/v3/artifacts/{artifact}/download", headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_what_the_client_has_is_not_sent_again(server: Server, artifact: int) -> None:
    url = f"/api/v3/artifacts/{artifact}/download"
    etag = server.admin.get(url).headers["ETag"]
    assert server.admin.get(url, headers={"If-None-Match": etag}).status_code == 304
    changed = server.admin.get(url, headers={"Range": "bytes=0-1", "If-Range": '"old"'})
    assert (changed.status_code, changed.content) == (200, CONTENT)
    assert server.admin.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206


def test_filters_and_pages(server: Server, build: int) -> None:
    for name in ("a/report.xml", "b/Shot.png", "shot.log", "core"):
        content = b"<testsuite/>" if name.endswith(".xml") else name.encode()
        assert upload(server.admin, build, content, name.rpartition("/")[2], name).status_code == 201

    def names(**more: Any) -> list[str]:
        answer = server.admin.get("/api/v3/artifacts", params={"build_id": build, **more})
        assert answer.status_code == 200, answer.text
        return [item["path"] for item in answer.json()]

    assert names() == ["a/report.xml", "b/Shot.png", "shot.log", "core"]
    assert [names(type=kind) for kind in ("report", "log", "screenshot", "binary")] == [
        ["a/report.xml"],
        ["shot.log"],
        ["b/Shot.png"],
        ["core"],
    ]
    assert names(search="SHOT") == ["b/Shot.png", "shot.log"]
    assert names(search="b/") == names(search="%") == []
    assert names(search="shot", type="log") == ["shot.log"]
    assert names(limit=3, page=2) == ["core"]
    answer = server.admin.get("/api/v3/artifacts", params={"build_id": build, "limit": 2})
    following = server.admin.get(answer.links["next"]["url"]).json()
    assert [item["path"] for item in following] == ["shot.log", "core"]
    assert server.admin.get("/api/v3/artifacts", params={"build_id": build, "type": "x"}).status_code == 422


def test_tree(server: Server, build: int) -> None:
    ids = {
        path: upload(server.admin, build, path.encode(), path.rpartition("/")[2], path).json()["id"]
        for path in ("z.txt", "reports/b/deep.xml", "reports/a.xml", "logs/x.log")
    }
    tree = server.admin.get("/api/v3/artifacts/tree", params={"build_id": build}).json()

    def shape(node: dict[str, Any]) -> Any:
        return (node["name"], [shape(child) for child in node["children"]] if "children" in node else node["id"])

    assert shape(tree) == (
        "/",
        [
            ("logs", [("x.log", ids["logs/x.log"])]),
            ("reports", [("b", [("deep.xml", ids["reports/b/deep.xml"])]), ("a.xml", ids["reports/a.xml"])]),
            ("z.txt", ids["z.txt"]),
        ],
    )


def test_who_may(server: Server, project: int, build: int, artifact: int) -> None:
    writer, reader = (server.make_user("developer", {project: level}) for level in ("write", "read"))
    viewer, stranger = server.make_user("viewer", {project: "write"}), server.make_user("developer")
    assert upload(writer, build, b"1").status_code == 201
    assert [upload(user, build, b"2").status_code for user in (reader, viewer, stranger)] == [403, 403, 404]
    download = f"/api/v3/artifacts/{artifact}/download"
    for url in (f"/api/v3/artifacts?build_id={build}", f"/api/v3/artifacts/tree?build_id={build}", download):
        assert [user.get(url).status_code for user in (writer, reader, viewer, stranger)] == [200, 200, 200, 404]
        assert server.client().get(url).status_code == 401
    assert upload(server.client(), build, b"3").status_code == 401


def test_agents_add_only_to_their_builds(server: Server, project: int, build: int) -> None:
    pool = server.admin.post("/api/v3/node-pools", json={"name": f"pool-{build}", "project_id": project}).json()["id"]
    created = server.admin.post("/api/v3/nodes", json={"name": f"agent-{build}", "pool_id": pool})
    assert created.status_code == 201, created.text
    agent = server.client()
    agent.authorize(created.json()["agent_token"])
    assert upload(agent, build, b"x").status_code == 404
    assert agent.get("/api/v3/artifacts", params={"build_id": build}).status_code == 401


def test_a_large_file_goes_through(server: Server, build: int) -> None:
    content = hashlib.sha256(b"seed").digest() * 2**20  # 32 MiB
    answer = upload(server.admin, build, content, "core.bin")
    assert answer.status_code == 201
    got = server.admin.get(f"/api/v3/artifacts/{answer.json()['id']}/download", headers={"Range": "bytes=33554400-"})
    assert got.content == content[33_554_400:]
    with server.admin.get(f"/api/v3/artifacts/{answer.json()['id']}/download", stream=True) as whole:
        digest = hashlib.sha256()
        for chunk in whole.iter_content(2**20):
            digest.update(chunk)
    assert digest.hexdigest() == answer.json()["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("build", [2**52, "none"])
def test_a_large_file_that_nobody_may_send_is_refused_at_its_head(server: Server, build: object) -> None:
    answer = upload(server.admin, build, bytes(64 * 2**20), "core.bin")
    assert answer.status_code in (404, 422)
    assert answer.elapsed.total_seconds() < 10


def test_a_deleted_job_takes_its_artifacts_along(server: Server, project: int) -> None:
    job = given_job(server, project)
    build = given_build(server, job)
    artifact = upload(server.admin, build, b"x").json()["id"]
    server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"})
    assert server.admin.delete(f"/api/v3/jobs/{job}").status_code == 204
    assert server.admin.get(f"/api/v3/artifacts/{artifact}/download").status_code == 404
    assert server.admin.get(f"/api/v3/artifacts?build_id={build}").status_code == 404
    assert upload(server.admin, build, b"y").status_code == 404


@pytest.mark.parametrize(("size", "is_cut"), [(8_192, False), (8_193, True)])
def test_a_field_has_8_192_bytes_at_most(server: Server, build: int, size: int, is_cut: bool) -> None:
    problem = upload(server.admin, build, b"x", path="p" * (size - 1) + "/").then(422)
    assert [error["field"] for error in problem["errors"]] == ["path"]
    assert ("has more than 8,192 bytes" in problem["detail"]) == is_cut
