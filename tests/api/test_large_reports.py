"""A report of 100,000 tests and 50 MB: stored and readable within seconds, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from projections.results_blocks import BlockRow
from testhide.engines import Engines
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.server import Server, server_on_new_database

CASES = 100_000
MEMORY_MB = 300
BYTES_A_RESULT = 70
"""Of the first build, which brings all tests anew; later ones need a third (see docs/decisions/0010)."""


def large_report() -> Iterator[str]:
    yield "<testsuites>"
    for suite in range(CASES // 1_000):
        yield f'<testsuite name="suite{suite}">'
        for number in range(1_000):
            line = f"line of test {suite * 1_000 + number}, which says something or other.\n"
            failure = "<failure message='AssertionError: 1'>trace</failure>" if number == 7 else ""
            yield f'<testcase classname="pkg{suite}.test_mod{number // 50}.TestThing" name="test_it[{number}]">'
            yield f"<system-out>{line * 7}</system-out>{failure}</testcase>\n"
        yield "</testsuite>"
    yield "</testsuites>"


@pytest.fixture
def server(engines: Engines, tmp_path: Path) -> Iterator[Server]:
    """A server on a database of its own: other tests look through whole tables."""
    with server_on_new_database(engines, tmp_path, "serve", "project") as started:
        yield started


def test_a_large_report(server: Server) -> None:
    content = "".join(large_report()).encode()
    assert len(content) > 45 * 10**6
    build = given_build(server, given_job(server, given_project(server)))
    process = psutil.Process(server.processes["serve"].pid)
    before = process.memory_info().rss
    answer = upload(server.admin, build, content, timeout=120)
    assert answer.json()["report"]["cases"] == CASES, answer.text
    grown = (process.memory_info().rss - before) / 2**20
    server.wait_until_projected()
    report = server.admin.get(f"/api/v3/report/{build}").json()
    assert (report["total"], report["failed"], len(report["suites"])) == (CASES, 100, 100)
    assert grown < MEMORY_MB
    deep = {"build_id": build, "page": CASES // 200, "limit": 200}
    last = server.admin.get("/api/v3/tests", params=deep).json()
    assert (last["total"], len(last["results"])) == (CASES, 200)
    found = server.admin.get("/api/v3/tests", params={"build_id": build, "status": "failed", "suite": "suite99"}).json()
    assert [result["suite"] for result in found["results"]] == ["suite99"]
    shown = server.admin.get(f"/api/v3/tests/{found['results'][0]['id']}").json()
    assert shown["system_out"].startswith("line of test 99007,")
    with psycopg.connect(server.engines.database_url) as connection:
        query = f"SELECT pg_total_relation_size('{BlockRow.table}')::float8 / sum(results) FROM {BlockRow.table}"
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    assert row[0] < BYTES_A_RESULT
