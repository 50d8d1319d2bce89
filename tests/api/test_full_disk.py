"""A full disk: what is refused says which disk it is, readiness too, and all goes on when there is room."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builders import upload
from tests.support.full_disk import fill, log_on_small_disk, small_disk
from tests.support.http import Answer
from tests.support.server import Server

CONTENT = os.urandom(300_000)
COMMENT = {"text": "written"}


@pytest.fixture(name="disk")
def _disk() -> Iterator[Path]:
    # Not pytest's tmp_path, whose mode locks out the account of the engines when we are root.
    with tempfile.TemporaryDirectory(prefix="testhide-disk-") as folder:
        Path(folder).chmod(0o711)
        with small_disk(Path(folder, "disk"), "4m") as disk:
            yield disk


def readiness(server: Server) -> str:
    return str(server.client().get("/api/v3/readyz").json()["status"])


def must_name(answer: Answer, what: str) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"] == "urn:testhide:problem:insufficient-storage"
    assert what in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) > 0


def test_the_database_is_full(server: Server, build: int, disk: Path) -> None:
    server.wait_until_projected()
    with log_on_small_disk(server.engines, server.settings.database_url, disk):
        filler = fill(disk)
        written = []  # into the room that is left in the pages of the log
        while (answer := server.admin.post(f"/api/v3/builds/{build}/comment", json=COMMENT)).status_code == 201:
            written.append(answer.json()["id"])
        must_name(answer, "The disk of the database is full")
        must_name(upload(server.admin, build, CONTENT, os.urandom(100).hex()), "The disk of the database is full")
        assert "the disk of the database is full" in readiness(server)
        assert server.admin.fetch("/artifacts", build_id=build) == []
        assert not list(Path(server.settings.data_dir, "blobs").rglob(f"builds/{build}/*/*"))
        filler.unlink()
        written.append(server.admin.create(f"/builds/{build}/comment", **COMMENT)["id"])
        assert "full" not in readiness(server)
    assert [comment["id"] for comment in server.admin.fetch(f"/builds/{build}")["comments"]] == written


@pytest.mark.parametrize(("name", "what"), [("spool", "data folder"), ("blobs", "artifacts")])
def test_the_disk_of_files_is_full(server: Server, build: int, name: str, what: str) -> None:
    with small_disk(Path(server.settings.data_dir, name), "1m") as disk:
        assert f"the disk of the {what} has" in readiness(server)
        filler = fill(disk)
        must_name(upload(server.admin, build, CONTENT, "a.bin"), f"The disk of the {what} is full")
        assert f"the disk of the {what} has 0 MB free: make room" in readiness(server)
        assert server.admin.fetch("/artifacts", build_id=build) == []
        assert [path for path in disk.rglob("*") if path.is_file()] == [filler]
        filler.unlink()
        stored = upload(server.admin, build, CONTENT, "a.bin").then(201, size_bytes=len(CONTENT))["id"]
        # Its content goes with the disk.
        server.admin.when("DELETE", f"/artifacts/{stored}").then(204)
    assert "the disk" not in readiness(server)


def test_a_folder_that_is_gone_is_named(server: Server) -> None:
    folder = Path(server.settings.data_dir, "blobs")
    folder.rename(folder.with_name("elsewhere"))
    try:
        assert "the folder of the artifacts cannot be used: No such file or directory" in readiness(server)
    finally:
        folder.with_name("elsewhere").rename(folder)
