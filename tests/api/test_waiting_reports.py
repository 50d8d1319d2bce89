"""Reports of a project that brings many results faster than the read models show them."""

import signal

import pytest

from commands.reports import recording
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.in_process_server import serve_in_process
from tests.support.server import ADMIN, Server

REPORT = b'<testsuite name="s"><testcase name="a"/><testcase name="%d"/></testsuite>'


def test_the_next_report_of_a_project_waits_until_the_large_one_before_it_is_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_UNSHOWN_RESULTS", 1)
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
