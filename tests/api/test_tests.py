"""Reports and tests over HTTP, of builds whose pipeline runs elsewhere."""

import gzip
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from commands.results import LATE
from tests.commands.reports.reading import parsed
from tests.commands.reports.test_real_reporters import PYTEST_SAMPLE, UNITTEST_SAMPLE, run
from tests.support.builders import finish, given_build, given_project, upload
from tests.support.server import ADMIN, Server

REPORT = b"""<testsuites>
<testsuite name="auth">
  <testcase classname="t.test_auth" name="test_login" time="0.25"/>
  <testcase classname="t.test_auth" name="test_token" time="1.23">
    <failure message="AssertionError: Expected 200, got 401">Traceback: 401</failure><system-out>spoke</system-out>
  </testcase>
  <testcase classname="t.test_auth" name="test_sso" time="0"><skipped message="later"/></testcase>
</testsuite>
<testsuite name="shop">
  <testcase classname="t.test_shop" name="test_cart" time="0.5"><error message="ConnectionError"/></testcase>
  <testcase classname="t.test_shop" name="test_cart" time="0.5"/>
</testsuite>
</testsuites>"""
TWICE = (
    "tests that failed, before a test of the same name and suite did not: 1; they are read as attempts of one test, and"
    " excuse no exit code"
)
PASSES = b'<testsuite name="s"><testcase classname="t.test_x" name="test_a"/></testsuite>'
FAILS = PASSES.replace(b"/></", b"><failure message='boom'/></testcase></")


@pytest.fixture(name="project", scope="module")
def _project(server: Server) -> int:
    return given_project(server)


@pytest.fixture(name="build")
def _build(server: Server, job: int) -> int:
    build = given_build(server, job, commit_sha="abc123")
    answer = upload(server.admin, build, REPORT, path="reports/")
    assert answer.json()["report"] == {"cases": 5, "warnings": [TWICE]}, answer.text
    return build


def results_of(server: Server, build: int, **more: Any) -> dict[str, Any]:
    answer = server.admin.get("/api/v3/tests", params={"build_id": build, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def report_of(server: Server, build: int) -> dict[str, Any]:
    answer = server.admin.get(f"/api/v3/report/{build}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [result["node_id"].rpartition("::")[2] for result in found["results"]]


def test_report(server: Server, build: int) -> None:
    found = report_of(server, build)
    assert found.items() >= {"build_id": build, "total": 4, "passed": 2, "failed": 1, "skipped": 1, "flaky": 1}.items()
    assert (found["duration_s"], type(found["duration_s"])) == (2, int)
    assert [(suite["name"], suite["passed"], suite["failed"]) for suite in found["suites"]] == [
        ("auth", 1, 1),
        ("shop", 1, 0),
    ]


def test_results(server: Server, build: int) -> None:
    found = results_of(server, build)
    assert found["total"] == 4
    assert names(found) == ["test_login", "test_token", "test_sso", "test_cart"]
    failed = found["results"][1]
    expected = {
        "node_id": "t/test_auth.py::test_token",
        "status": "failed",
        "duration_ms": 1230,
        "message": "AssertionError: Expected 200, got 401",
        "suite": "auth",
        "attempt": 1,
    }
    assert failed.items() >= expected.items()
    assert isinstance(failed["id"], int)
    cart = found["results"][3]
    assert (cart["status"], cart["attempt"], cart["flaky"]) == ("passed", 2, True)
    assert [result["attempt"] for result in results_of(server, build, all_attempts=True)["results"]] == [1, 1, 1, 1, 2]


def test_filters(server: Server, build: int) -> None:
    assert names(results_of(server, build, status="failed")) == ["test_token"]
    assert names(results_of(server, build, status="passed")) == ["test_login", "test_cart"]
    assert names(results_of(server, build, status="skipped")) == ["test_sso"]
    assert names(results_of(server, build, suite="shop")) == ["test_cart"]
    assert names(results_of(server, build, suite="sho")) == []
    assert names(results_of(server, build, search="TOKEN")) == ["test_token"]
    assert names(results_of(server, build, search="_%")) == []
    assert names(results_of(server, build, search="test_auth", status="passed", suite="auth")) == ["test_login"]


def test_pages(server: Server, build: int) -> None:
    found = results_of(server, build, limit=3)
    assert (found["total"], names(found)) == (4, ["test_login", "test_token", "test_sso"])
    assert names(results_of(server, build, limit=3, page=2)) == ["test_cart"]
    assert results_of(server, build, limit=3, page=9) == {"total": 4, "results": []}
    first = server.admin.get("/api/v3/tests", params={"build_id": build, "limit": 2, "search": "test"})
    assert names(server.admin.get(first.links["next"]["url"]).json()) == ["test_sso", "test_cart"]


@pytest.mark.parametrize(
    "wrong", [{"status": "broken"}, {"limit": 201}, {"limit": 0}, {"page": 0}, {"build_id": "x"}, {"build_id": 2**70}]
)
def test_bounds(server: Server, build: int, wrong: dict[str, Any]) -> None:
    assert server.admin.get("/api/v3/tests", params={"build_id": build, **wrong}).status_code == 422


def test_what_does_not_exist(server: Server, build: int) -> None:
    assert server.admin.get("/api/v3/tests").status_code == 422
    for url in (f"report/{2**52}", f"tests?build_id={2**52}", f"tests/{2**52}", f"tests/{2**52}/history", "tests/0"):
        assert server.admin.get(f"/api/v3/{url}").status_code == 404, url


def test_one_result_in_full(server: Server, build: int) -> None:
    listed = results_of(server, build, status="failed")["results"][0]
    shown = server.admin.get(f"/api/v3/tests/{listed['id']}").json()
    assert shown.items() >= listed.items()
    assert (shown["build_id"], shown["trace"], shown["system_out"]) == (build, "Traceback: 401", "spoke")
    passed = results_of(server, build, status="passed")["results"][0]
    assert server.admin.get(f"/api/v3/tests/{passed['id']}").json()["trace"] == ""


def test_history(server: Server, job: int) -> None:
    builds = []
    for content in (PASSES, FAILS, PASSES):
        builds.append(given_build(server, job))
        upload(server.admin, builds[-1], content)
    results = [results_of(server, build)["results"][0] for build in builds]
    assert len({result["test_case_id"] for result in results}) == 1
    assert len({result["id"] for result in results}) == 3
    answer = server.admin.get(f"/api/v3/tests/{results[0]['id']}/history").json()
    assert answer["node_id"] == "t/test_x.py::test_a"
    history = [(run["build_id"], run["status"]) for run in answer["history"]]
    assert history[:3] == [(builds[2], "passed"), (builds[1], "failed"), (builds[0], "passed")]
    limited = server.admin.get(f"/api/v3/tests/{results[0]['id']}/history", params={"limit": 1}).json()
    assert [run["build_id"] for run in limited["history"]] == [builds[2]]
    for limit in (0, 201):
        assert server.admin.get(f"/api/v3/tests/{results[0]['id']}/history?limit={limit}").status_code == 422


def test_a_pass_in_one_report_hides_no_failure_of_another(server: Server, job: int) -> None:
    build = given_build(server, job)
    upload(server.admin, build, FAILS, "junit.xml", path="py311")
    upload(server.admin, build, PASSES, "junit.xml", path="py312/junit.xml")
    found = report_of(server, build)
    assert (found["total"], found["passed"], found["failed"], found["flaky"], len(found["reports"])) == (2, 1, 1, 0, 2)
    assert [result["status"] for result in results_of(server, build)["results"]] == ["failed", "passed"]
    shown = server.admin.get(f"/api/v3/builds/{build}").json()
    assert (shown["passed"], shown["failed"]) == (1, 1)
    result = results_of(server, build)["results"][0]
    history = server.admin.get(f"/api/v3/tests/{result['id']}/history").json()["history"]
    assert [run["status"] for run in history if run["build_id"] == build] == ["passed", "failed"]
    done = server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"})
    assert done.json()["status"] == "failed"


def test_the_same_file_again_counts_once(server: Server, job: int) -> None:
    build = given_build(server, job)
    for _ in range(2):
        assert upload(server.admin, build, REPORT).json()["report"]["cases"] == 5
    assert report_of(server, build)["total"] == 4


def test_other_bytes_at_the_same_path_are_one_more_report(server: Server, job: int) -> None:
    build = given_build(server, job)
    first, second, again = (upload(server.admin, build, content) for content in (FAILS, PASSES, PASSES))
    assert (first.json()["path"], first.json()["report"]["warnings"]) == ("report.xml", [])
    assert (second.json()["path"], second.json()["name"], second.json()["report"]["cases"]) == (
        *("report-2.xml", "report-2.xml", 1),
    )
    assert "replace=true" in second.json()["report"]["warnings"][0]
    assert again.json() == second.json()
    found = report_of(server, build)
    assert (found["total"], found["failed"]) == (2, 1)
    listed = server.admin.get("/api/v3/artifacts", params={"build_id": build}).json()
    assert [item["path"] for item in listed] == ["report.xml", "report-2.xml"]


def test_a_report_is_replaced_where_it_is_asked_for(server: Server, job: int) -> None:
    build = given_build(server, job)
    upload(server.admin, build, FAILS)
    fields = {"build_id": str(build), "replace": "true"}
    url = "/artifacts/upload"
    for _ in range(2):
        answer = server.admin.when("POST", url, data=fields, files={"file": ("report.xml", PASSES)})
        assert (answer.status_code, answer.json()["path"], answer.json()["report"]["cases"]) == (201, "report.xml", 1)
    found = report_of(server, build)
    assert (found["total"], found["failed"], len(found["reports"])) == (1, 0, 1)
    shown = server.admin.get(f"/api/v3/builds/{build}").json()
    assert (shown["passed"], shown["failed"]) == (1, 0)
    assert [result["status"] for result in results_of(server, build, all_attempts=True)["results"]] == ["passed"]
    stored = [entry["type"] for entry in server.admin.fetch(f"/audit/streams/results-{build}")]
    assert stored == ["results.recorded", "results.replaced", "results.recorded"]
    for wrong in ({"replace": "maybe"}, {}):
        refused = server.admin.when("POST", url, data=fields | wrong, files={"file": ("a.log", b"x")})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "replace")
    done = server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"})
    assert done.json()["status"] == "passed"


def test_only_a_report_replaces_a_report(server: Server, job: int) -> None:
    build = given_build(server, job)
    stored = upload(server.admin, build, FAILS).json()["id"]
    fields, files = {"build_id": str(build), "replace": "true"}, {"file": ("report.xml", b"<coverage/>")}
    refused = server.admin.when("POST", "/artifacts/upload", data=fields, files=files)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "replace")
    assert [item["id"] for item in server.admin.fetch(f"/artifacts?build_id={build}")] == [stored]
    assert report_of(server, build)["failed"] == 1


def test_failures_fail_the_build(server: Server, build: int) -> None:
    done = server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"})
    assert done.json()["status"] == "failed"
    assert report_of(server, build)["total"] == 4


def test_a_report_that_comes_after_the_end_is_noted(server: Server, job: int) -> None:
    build = given_build(server, job)
    upload(server.admin, build, PASSES)
    finish(server, build)
    assert upload(server.admin, build, b"<project/>", "pom.xml").json()["report"] is None
    for _ in range(2):
        late = upload(server.admin, build, FAILS)
        assert (late.status_code, late.json()["path"], late.json()["report"]) == (
            *(201, "report-2.xml"),
            {"cases": 0, "warnings": [LATE]},
        )
    report = report_of(server, build)
    assert (report["total"], report["failed"], report["warnings"]) == (1, 0, [f"report-2.xml: {LATE}"])
    shown = server.admin.fetch(f"/builds/{build}")
    assert (shown["status"], shown["detail"]) == (
        *("passed", "The report report-2.xml came after the end and does not count."),
    )
    fields = {"build_id": str(build), "replace": "true"}
    refused = server.admin.when("POST", "/artifacts/upload", data=fields, files={"file": ("report.xml", FAILS)})
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"<html><body>502 Bad Gateway</body></html>", "report.xml"),
        (b"\x00\x01", "report.xml"),
        (b"", "report.xml"),
        (PASSES[:-5], "report.xml"),
        (gzip.compress(PASSES, mtime=0)[:-5], "report.xml.gz"),
        (b"\x1f\x8bnonsense", "report.xml.gz"),
        (b"<coverage/>", "junit.xml"),
        (b"<testng-results failed='1'/>", "testng-results.xml"),
    ],
)
def test_no_build_passes_with_a_report_that_cannot_be_read(server: Server, job: int, content: bytes, name: str) -> None:
    for ignore, ended in ((False, ("failed", "reports_unreadable")), (True, ("passed", None))):
        build = given_build(server, job)
        answer = upload(server.admin, build, content, name)
        assert answer.status_code == 201
        assert answer.json()["report"]["warnings"]
        assert answer.json()["type"] == ("report" if answer.json()["report"]["cases"] else "binary")
        assert report_of(server, build)["warnings"][0].startswith(f"{name}: ")
        finish = {"status": "passed"} | ({"ignore_unreadable_reports": True} if ignore else {})
        server.admin.post(f"/api/v3/builds/{build}/finish", json=finish).raise_for_status()
        shown = server.admin.get(f"/api/v3/builds/{build}").json()
        assert (shown["status"], shown["reason"]) == ended
        assert shown["detail"] == f"The report {name} is incomplete or cannot be read."


def test_a_report_that_cannot_be_read_is_replaced(server: Server, job: int) -> None:
    build = given_build(server, job)
    upload(server.admin, build, b"")
    fields = {"build_id": str(build), "replace": "true"}
    server.admin.when("POST", "/artifacts/upload", data=fields, files={"file": ("report.xml", PASSES)})
    done = server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"})
    assert done.json()["status"] == "passed"


def test_a_compressed_report_is_read(server: Server, job: int) -> None:
    build = given_build(server, job)
    answer = upload(server.admin, build, gzip.compress(REPORT), "report.xml.gz")
    assert (answer.json()["type"], answer.json()["report"]) == ("report", {"cases": 5, "warnings": [TWICE]})


def test_what_is_no_report_is_only_stored(server: Server, job: int) -> None:
    build = given_build(server, job)
    answer = upload(server.admin, build, b"<project><a/></project>")
    assert (answer.status_code, answer.json()["report"]) == (201, None)
    assert report_of(server, build)["reports"] == []


def test_a_broken_report_is_recorded_as_far_as_it_goes(server: Server, job: int) -> None:
    build = given_build(server, job)
    broken = REPORT.replace(b"spoke", b"\x1b[31mred\x00 &#0; \xff")[:-200]
    recorded = upload(server.admin, build, broken).json()["report"]
    assert recorded["cases"] >= 3
    assert recorded["warnings"]
    assert report_of(server, build)["warnings"][0].startswith("report.xml: ")


def test_a_build_without_reports(server: Server, job: int) -> None:
    build = given_build(server, job)
    found = report_of(server, build)
    assert (found["total"], found["duration_s"], found["suites"]) == (0, 0, [])
    assert results_of(server, build) == {"total": 0, "results": []}


def test_who_may(server: Server, project: int, build: int) -> None:
    reader, stranger = server.make_user("viewer", {project: "read"}), server.make_user("developer")
    result = results_of(server, build)["results"][0]["id"]
    for url in (f"report/{build}", f"tests?build_id={build}", f"tests/{result}", f"tests/{result}/history"):
        assert [user.get(f"/api/v3/{url}").status_code for user in (reader, stranger)] == [200, 404]
        assert server.client().get(f"/api/v3/{url}").status_code == 401


def test_a_deleted_job_takes_its_results_along(server: Server, job: int, build: int) -> None:
    result = results_of(server, build)["results"][0]["id"]
    server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"})
    assert server.admin.delete(f"/api/v3/jobs/{job}").status_code == 204
    for url in (f"report/{build}", f"tests?build_id={build}", f"tests/{result}/history"):
        assert server.admin.get(f"/api/v3/{url}").status_code == 404


def test_many_builds_bring_the_same_new_tests_at_once(server: Server, job: int) -> None:
    mark = uuid.uuid4().hex
    cases = "".join(f'<testcase classname="t.test_{mark}" name="test_{n}"/>' for n in range(50))
    content = f'<testsuite name="s">{cases}</testsuite>'.encode()
    builds = [given_build(server, job) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda build: upload(server.client(*ADMIN), build, content), builds))
    assert [answer.json()["report"]["cases"] for answer in answers] == [50] * 8
    server.wait_until_projected()
    by_build = [[result["test_case_id"] for result in results_of(server, build)["results"]] for build in builds]
    assert all(len(set(cases)) == 50 and cases == by_build[0] for cases in by_build)


def test_many_files_of_one_build_at_once(server: Server, job: int) -> None:
    build = given_build(server, job)

    token = server.admin.token

    def send(number: int) -> int:
        ending = "" if number % 2 else "<failure/>"
        case = f'<testcase classname="t" name="test_{number}_{build}">{ending}</testcase>'
        content = f'<testsuite name="s">{case}</testsuite>'.encode()
        return upload(server.client().authorize(token), build, content, f"{number}.xml").status_code

    with ThreadPoolExecutor(24) as threads:
        assert list(threads.map(send, range(24))) == [201] * 24
    server.wait_until_projected()
    found = report_of(server, build)
    assert (found["total"], found["failed"], len(found["reports"])) == (24, 12, 24)
    shown = server.admin.get(f"/api/v3/builds/{build}").json()
    assert (shown["passed"], shown["failed"]) == (found["passed"], found["failed"])


@pytest.mark.parametrize("runner", ["pytest", "unittest"])
def test_the_real_reporters(server: Server, job: int, tmp_path: Path, runner: str) -> None:
    """What the public packages write is shown as their own files say."""
    if runner == "pytest":
        (tmp_path / "test_shop.py").write_text(PYTEST_SAMPLE, encoding="utf-8")
        output = run(tmp_path, "-m", "pytest", "--report-xml=r.xml", "test_shop.py")
    else:
        (tmp_path / "test_mod.py").write_text(UNITTEST_SAMPLE)
        output = run(tmp_path, "-m", "testhide_unittest", "test_mod", "--report-xml", "r.xml")
    content = (tmp_path / "r.xml").read_bytes()
    local = parsed(content)
    build = given_build(server, job)
    assert upload(server.admin, build, content, "junittests.xml").json()["report"]["cases"] == len(local.cases), output
    found = results_of(server, build, limit=200)
    assert {result["node_id"]: result["status"] for result in found["results"]} == {
        case.node_id: case.status for case in local.cases
    }
    counts, shown = local.suites[0].counts, report_of(server, build)
    assert (shown["total"], shown["passed"], shown["failed"], shown["skipped"]) == (
        counts.tests,
        counts.passed,
        counts.failed,
        counts.skipped,
    )
    assert shown["known_issues"] == [case.known_issue for case in local.cases].count(True) > 0
    by_id = {case.node_id: case for case in local.cases}
    assert all(result["fail_id"] == by_id[result["node_id"]].fail_id for result in found["results"])
