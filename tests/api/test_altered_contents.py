"""Logs and artifacts that somebody has changed in the database or the blob store are not served as if they had not."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
import zstandard

from projections.artifacts import ArtifactRow
from tests.support.builders import Shop, given_build, given_job, given_project, upload
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server

SMALL = bytes(range(256)) * 40
LARGE = hashlib.sha256(b"seed").digest() * (6 * 2**15)
"""6 MiB: more than is checked before the first byte."""


class StoredArtifact:
    def __init__(self, server: Server, build: int, content: bytes) -> None:
        self.server = server
        self.id = int(upload(server.admin, build, content, "core.bin").json()["id"])
        self.content = content
        (self.file,) = Path(urlsplit(server.settings.blobs).path).glob(f"jobs/*/builds/{build}/artifacts/{self.id}")

    def download(self, **headers: str) -> requests.Response:
        return self.server.admin.get(f"/api/v3/artifacts/{self.id}/download", headers=headers)


@pytest.fixture(name="stored")
def _stored(server: Server) -> Iterator[Callable[[bytes], StoredArtifact]]:
    build = given_build(server, given_job(server, given_project(server)))
    made: list[StoredArtifact] = []

    def store(content: bytes) -> StoredArtifact:
        made.append(StoredArtifact(server, build, content))
        return made[-1]

    yield store
    for artifact in made:  # others verify everything that this server has
        artifact.file.write_bytes(artifact.content)


def changed(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("change", [changed, lambda content: content[:-1], lambda content: content + b"x"])
def test_a_small_artifact(stored: Callable[[bytes], StoredArtifact], change: Callable[[bytes], bytes]) -> None:
    artifact = stored(SMALL)
    artifact.file.write_bytes(change(SMALL))
    for headers in ({}, {"Range": "bytes=0-9"}):
        answer = artifact.download(**headers)
        assert (answer.status_code, answer.json()["type"]) == (500, "urn:testhide:problem:contents-altered")
        assert f"The content of artifact {artifact.id} is not the one that was stored" in answer.json()["detail"]
    artifact.file.write_bytes(SMALL)
    assert artifact.download().content == SMALL


@pytest.mark.parametrize("change", [changed, lambda content: content[:-1], lambda content: content + b"x"])
def test_a_large_artifact_breaks_off(
    stored: Callable[[bytes], StoredArtifact], change: Callable[[bytes], bytes]
) -> None:
    artifact = stored(LARGE)
    assert artifact.download().content == LARGE
    artifact.file.write_bytes(change(LARGE))
    with pytest.raises(requests.exceptions.RequestException):
        _ = artifact.download().content


def test_a_read_model_that_was_changed_with_it(server: Server, stored: Callable[[bytes], StoredArtifact]) -> None:
    artifact = stored(SMALL)
    artifact.file.write_bytes(changed(SMALL))
    statement = f"UPDATE {ArtifactRow.table} SET sha256 = %s WHERE id = %s".encode()
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(statement, (hashlib.sha256(changed(SMALL)).hexdigest(), artifact.id))
        assert artifact.download().status_code == 500
        connection.execute(statement, (hashlib.sha256(SMALL).hexdigest(), artifact.id))


@pytest.fixture(name="build")
def _build(shop: Shop, agent: FakeAgent) -> dict[str, Any]:
    """A finished build with a log of three lines in two chunks."""
    shop.start()
    build = agent.take_up()
    agent.log(build, 0, ["one", "two"]).raise_for_status()
    agent.log(build, 2, ["FAILED tests/test_cart.py"]).raise_for_status()
    agent.finished(build, exit_code=1).raise_for_status()
    shop.server.wait_until_projected()
    return build


def test_the_log_of_a_finished_build(shop: Shop, build: dict[str, Any]) -> None:
    logs, stream = f"/builds/{build['id']}/pipeline_logs", f"/builds/{build['id']}/stream"
    where = "WHERE build_id = %s AND first_line = 2"
    with psycopg.connect(shop.server.settings.database_url, autocommit=True) as connection:
        row = connection.execute(f"SELECT lines FROM build_log_chunks {where}".encode(), (build["id"],)).fetchone()
        assert row is not None
        forged = zstandard.compress(zstandard.decompress(row[0]).replace(b"FAILED", b"PASSED"))
        statement = f"UPDATE build_log_chunks SET lines = %s {where}".encode()
        connection.execute(statement, (forged, build["id"]))
        for path in (logs, stream):
            problem = shop.admin.when("GET", path).then(500, type="urn:testhide:problem:contents-altered")
            assert f"The log of build {build['id']} is not the one that was stored: lines 3 to 3 were changed." in str(
                problem["detail"]
            )
        connection.execute(statement, (row[0], build["id"]))
    page = shop.admin.fetch(logs)
    assert (page["total_lines"], page["lines"][2]) == (3, "[10:00:05] FAILED tests/test_cart.py")


def test_lines_behind_the_end_of_a_log_are_not_shown(shop: Shop, build: dict[str, Any]) -> None:
    with psycopg.connect(shop.server.settings.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO build_log_chunks SELECT build_id, attempt, 3, line_count, lines, job_id, digest, size"
            " FROM build_log_chunks WHERE build_id = %s AND first_line = 2",
            (build["id"],),
        )
    page = shop.admin.fetch(f"/builds/{build['id']}/pipeline_logs", offset=1)
    assert (page["total_lines"], len(page["lines"])) == (3, 2)
    assert shop.admin.fetch(f"/builds/{build['id']}/pipeline_logs", offset=3)["lines"] == []
    for last in (None, f"{build['attempt']}:2"):
        headers = {} if last is None else {"Last-Event-ID": last}
        answer = shop.admin.get(f"/api/v3/builds/{build['id']}/stream", headers=headers)
        assert answer.text.count("FAILED tests/test_cart.py") == 1
        assert '"done"' in answer.text
