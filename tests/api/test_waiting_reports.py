"""Reports that wait: for the read models to show large ones, or for their turn."""

import http.client
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psutil
import pytest
import requests

from commands.reports import recording
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.in_process_server import serve_in_process
from tests.support.server import ADMIN, Server

TEXT = b"<system-out>twenty or more letters</system-out>"
REPORT = b'<testsuite name="s"><testcase name="a"/><testcase name="%d">' + TEXT + b"</testcase></testsuite>"


@pytest.mark.parametrize(("results", "text_of_result"), [(1, 1024), (20_000, 0.001)])
def test_the_next_report_of_a_project_waits_until_the_large_one_before_it_is_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, results: int, text_of_result: float
) -> None:
    """Large by its results, or by its texts."""
    monkeypatch.setattr(recording, "MAX_UNSHOWN_RESULTS", results)
    monkeypatch.setattr(recording, "TEXT_OF_RESULT", text_of_result)
    monkeypatch.setattr(recording, "MAX_LAG_S", 0.1)
    build, of_another = (given_build(server, given_job(server, given_project(server))) for _ in range(2))
    with serve_in_process(server) as process:
        admin = process.client(*ADMIN)
        projector = server.processes["project"]
        projector.send_signal(signal.SIGSTOP)
        try:
            upload(admin, build, REPORT % 1).then(201)
            assert "read models lag behind" in upload(admin, build, REPORT % 2).then(503)["detail"]
            upload(admin, of_another, REPORT % 1).then(201)
        finally:
            projector.send_signal(signal.SIGCONT)
        server.wait_until_projected()
        assert upload(admin, build, REPORT % 2).then(201)["report"]["cases"] == 2


def test_new_tests_of_a_large_report_come_in_parts_and_the_report_can_be_repeated(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_NEW_CASES", 2)
    monkeypatch.setattr(recording, "MAX_LAG_S", 0.1)
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    report = b"<testsuite name='s'>%b</testsuite>" % b"".join(b"<testcase name='%d'/>" % test for test in range(5))
    with serve_in_process(server) as process:
        admin = process.client(*ADMIN)
        admin.headers["Idempotency-Key"] = uuid4().hex
        projector = server.processes["project"]
        projector.send_signal(signal.SIGSTOP)
        try:
            assert "read models lag behind" in upload(admin, build, report).then(503)["detail"]
        finally:
            projector.send_signal(signal.SIGCONT)
        server.wait_until_projected()
        monkeypatch.setattr(recording, "MAX_LAG_S", 30.0)
        first, again = (upload(admin, build, report) for _ in range(2))
        assert first.then(201)["report"]["cases"] == 5
        assert again.then(201) == first.json()
    server.wait_until_projected()
    query = f"/audit/events?project_id={project}&type="
    assert len(server.admin.fetch(f"{query}test_cases.seen")) == 3
    assert len(server.admin.fetch(f"{query}build.report_recorded")) == 1


def is_reading(process: psutil.Process) -> bool:
    return "commands.reports.reading_process" in process.cmdline()


def test_a_report_whose_client_leaves_is_dropped_before_it_is_read(server: Server) -> None:
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    with serve_in_process(server) as process, ThreadPoolExecutor() as threads:
        client, spool = process.client(*ADMIN), process.services.spool

        def wait_for_files(count: int) -> None:
            deadline = time.monotonic() + 20
            while spool.used_by(project) != count * len(REPORT % 1):
                assert time.monotonic() < deadline
                time.sleep(0.01)  # between two looks

        upload(client, build, REPORT % 1).then(201)
        children = psutil.Process().children()
        (reader,) = (child for child in children if child.status() != "zombie" and is_reading(child))
        reader.suspend()
        try:
            being_read = threads.submit(upload, process.client(*ADMIN), build, REPORT % 2)
            wait_for_files(1)
            form = requests.Request(
                "POST", process.url, data={"build_id": build}, files={"file": ("r.xml", REPORT % 3)}
            )
            prepared = client.prepare_request(form)
            connection = http.client.HTTPConnection(process.url.partition("//")[2].rstrip("/"))
            connection.request("POST", "/api/v3/artifacts/upload", prepared.body, dict(prepared.headers))
            wait_for_files(2)
            connection.close()
            wait_for_files(1)
        finally:
            reader.resume()
        being_read.result().then(201)
    server.wait_until_projected()
    paths = [row["path"] for row in server.admin.fetch(f"/artifacts?build_id={build}")]
    assert paths == ["report.xml", "report-2.xml"]
