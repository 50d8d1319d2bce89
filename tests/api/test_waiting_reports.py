"""Reports that wait: for the read models to show large ones, or for their turn."""

import fcntl
import http.client
import signal
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psutil
import pytest
import requests

from commands.reports import recording
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.in_process_server import InProcessServer, serve_in_process
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


def begin_upload(process: InProcessServer, client: Client, build: int, report: bytes) -> http.client.HTTPConnection:
    """Sends a report without waiting for the answer. Returns the connection."""
    form = requests.Request("POST", process.url, data={"build_id": build}, files={"file": ("r.xml", report)})
    prepared = client.prepare_request(form)
    connection = http.client.HTTPConnection(process.url.partition("//")[2].rstrip("/"))
    connection.request("POST", "/api/v3/artifacts/upload", prepared.body, dict(prepared.headers))
    return connection


def wait_for_files(process: InProcessServer, project: int, count: int) -> None:
    """Waits until the spool has this number of reports of the project."""
    deadline = time.monotonic() + 20
    while process.services.spool.used_by(project) != count * len(REPORT % 1):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks


def test_a_report_whose_client_leaves_while_the_read_models_lag_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_UNSHOWN_RESULTS", 1)
    monkeypatch.setattr(recording, "MAX_LAG_S", 600.0)
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    with serve_in_process(server) as process:
        client = process.client(*ADMIN)
        projector = server.processes["project"]
        projector.send_signal(signal.SIGSTOP)
        try:
            upload(client, build, REPORT % 1).then(201)
            connection = begin_upload(process, client, build, REPORT % 2)
            wait_for_files(process, project, 1)
            connection.close()
            wait_for_files(process, project, 0)
        finally:
            projector.send_signal(signal.SIGCONT)
    server.wait_until_projected()
    assert [row["path"] for row in server.admin.fetch(f"/artifacts?build_id={build}")] == ["report.xml"]


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


def wait_for_request(reader: psutil.Process) -> None:
    """Waits until a suspended process has a report to read: the request is in its pipe."""
    deadline = time.monotonic() + 20
    with open(f"/proc/{reader.pid}/fd/0", "rb", buffering=0) as pipe:
        while not int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
            assert time.monotonic() < deadline
            time.sleep(0.01)  # between two looks


def test_a_report_whose_client_leaves_is_dropped_before_it_is_read(server: Server) -> None:
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    with serve_in_process(server) as process, ThreadPoolExecutor() as threads:
        client = process.client(*ADMIN)
        upload(client, build, REPORT % 1).then(201)
        children = psutil.Process().children()
        (reader,) = (child for child in children if child.status() != "zombie" and is_reading(child))
        reader.suspend()
        try:
            being_read = threads.submit(upload, process.client(*ADMIN), build, REPORT % 2)
            wait_for_request(reader)  # otherwise the next upload may overtake this one, and be read instead
            connection = begin_upload(process, client, build, REPORT % 3)
            wait_for_files(process, project, 2)
            connection.close()
            wait_for_files(process, project, 1)
        finally:
            reader.resume()
        being_read.result().then(201)
    server.wait_until_projected()
    paths = [row["path"] for row in server.admin.fetch(f"/artifacts?build_id={build}")]
    assert paths == ["report.xml", "report-2.xml"]
