"""Diagnoses and summaries of builds, and insights into projects, over HTTP."""

from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from tests.support.builders import CONFIGURATION, REPOSITORY, finish, given_build, given_job, given_project, upload
from tests.support.http import Answer
from tests.support.semantic_index import index_words
from tests.support.server import Server

REFUSED = "psycopg.OperationalError: connection refused"


def junit(**messages: str | None) -> bytes:
    """Returns a report: test -> message of its failure, or None if it passed."""
    failures = {
        name: "" if text is None else f"<failure message={quoteattr(text)}/>" for name, text in messages.items()
    }
    cases = [f'<testcase classname="t" name="{name}">{failure}</testcase>' for name, failure in failures.items()]
    return f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()


def run(server: Server, job: int, commit: str, **messages: str | None) -> int:
    build = given_build(server, job, commit_sha=commit)
    upload(server.admin, build, junit(**messages)).then(201)
    finish(server, build, "failed" if any(messages.values()) else "passed")
    return build


def diagnose(server: Server, build: int, **fields: Any) -> Answer:
    return server.admin.when("POST", "/ai/diagnose", json={"build_id": build, **fields})


def result_of(server: Server, build: int, name: str) -> int:
    found = server.admin.fetch("/tests", build_id=build, search=name, status="failed")
    return int(found["results"][0]["id"])


def test_a_commit_that_broke_a_test(server: Server, job: int) -> None:
    good = run(server, job, "aaaa1111", test_total=None, test_other=None)
    bad = run(server, job, "bbbb1111", test_total="AssertionError: assert 9 == 10", test_other=None)

    found = diagnose(server, bad).then(200)

    assert found["build_id"] == bad
    assert (found["classification"], found["affected_tests"]) == ("product_bug", 1)
    assert found["root_cause"] == "AssertionError: assert 9 == 10"
    assert 0.5 < found["confidence"] < 0.9
    result = result_of(server, bad, "test_total")
    assert {f"build:{bad}", f"build:{good}", f"test:{result}", "commit:bbbb1111"} <= set(found["sources"])
    assert found["provider"] == "builtin"
    assert found["suggested_fix"]


def test_a_changed_file_through_which_the_trace_passes(server: Server) -> None:
    project = given_project(server)
    nightly, pushed = given_job(server, project), given_job(server, project, repository=REPOSITORY)
    server.admin.when("PUT", f"/jobs/{pushed}/configuration", json=CONFIGURATION).then(200)
    server.admin.when("PUT", f"/jobs/{pushed}/triggers", json={"branches": ["**"]}).then(200)
    server.wait_until_projected()
    trace = '<failure message="assert 9 == 10">File &quot;/build/src/discount.py&quot;, line 3</failure>'
    builds = []
    for commit, failure, branch in (("aaaa7777", "", "main"), ("bbbb7777", "", "other"), ("cccc7777", trace, "main")):
        push: dict[str, Any] = {
            "branch": branch,
            "commit_sha": commit,
            "message": f"Push {commit} password=hunter2",
            "author": "Ann",
        }
        push |= {"project_id": project, "paths": ["README.md", "src/discount.py"]}
        server.admin.when("POST", "/builds/git-notify", json=push).then(200)
        if branch == "main":
            build = given_build(server, nightly, branch="main", commit_sha=commit)
            report = f'<testsuite name="s"><testcase classname="t" name="test_total">{failure}</testcase></testsuite>'
            upload(server.admin, build, report.encode()).then(201)
            finish(server, build, "failed" if failure else "passed")
            builds.append(build)
    found = diagnose(server, builds[1]).then(200)
    text = " ".join(claim["text"] for claim in found["claims"])
    assert (
        "src/discount.py was changed in commit cccc7777 by Ann (“Push cccc7777 password=[secret]”), and the trace"
        in text
    )
    assert "commit:cccc7777" in found["sources"]
    assert "aaaa7777 by" not in text
    assert "bbbb7777" not in text
    assert "git log aaaa7777..cccc7777" in found["suggested_fix"]


def test_the_next_step_can_be_carried_out(server: Server, job: int) -> None:
    run(server, job, "aaaa2222", test_a=None)
    step = diagnose(server, run(server, job, "bbbb2222", test_a="AssertionError: no")).then(200)["next_step"]
    assert step["action"] == "known_issue"
    server.admin.when(step["method"], step["path"], json=step["body"]).then(201)

    run(server, job, "cccc2222", test_b=None)
    flaky = diagnose(server, run(server, job, "cccc2222", test_b="AssertionError: other")).then(200)
    assert flaky["classification"] == "flaky"
    step = flaky["next_step"]
    server.admin.when(step["method"], step["path"], json=step["body"]).then(200)
    assert [entry["node_id"] for entry in server.admin.fetch("/quarantine", job_id=job)] == step["body"]["node_ids"]


def test_the_cause_of_most_failures(server: Server, job: int) -> None:
    refused = {f"test_{number}": REFUSED for number in range(4)}
    build = run(server, job, "dddd1111", **refused, test_total="AssertionError: assert 9 == 10", test_fine=None)
    found = diagnose(server, build).then(200)
    assert (found["classification"], found["affected_tests"]) == ("infra", 4)
    assert REFUSED in found["root_cause"]
    fewer = diagnose(server, build, max_tests=1).then(200)
    assert (fewer["classification"], fewer["affected_tests"]) == ("infra", 4)


def test_failures_that_count_come_before_quarantined_ones(server: Server, job: int) -> None:
    flaky = {f"test_{name}": f"RuntimeError: {name} is away" for name in ("stock", "mail", "cart")}
    body = {"job_id": job, "action": "add", "node_ids": [f"t.{name}" for name in flaky], "reason": "flaky"}
    server.admin.when("POST", "/quarantine/bulk", json=body).then(200)
    found = diagnose(server, run(server, job, "dddd2222", **flaky, test_total=REFUSED), max_tests=1).then(200)
    assert REFUSED in found["root_cause"]


def test_a_person_has_classified_the_failure_before(server: Server, job: int) -> None:
    first = run(server, job, "eeee1111", test_x="RuntimeError: strange")
    result = result_of(server, first, "test_x")
    server.admin.when("POST", f"/tests/{result}/classification", json={"classification": "test_bug"}).then(200)
    assert diagnose(server, first).then(200)["classification"] == "test_bug"
    found = diagnose(server, run(server, job, "ffff1111", test_x="RuntimeError: strange")).then(200)
    assert found["classification"] == "test_bug"
    assert f"test:{result}" in found["sources"]


def test_a_failure_of_another_test_with_a_similar_message(server: Server, job: int) -> None:
    message = "RuntimeError: warehouse replied with unreadable pallet"
    first = run(server, job, "eeee3333", test_x=f"{message} 17")
    result = result_of(server, first, "test_x")
    server.admin.when("POST", f"/tests/{result}/classification", json={"classification": "test_bug"}).then(200)
    index_words(server)
    found = diagnose(server, run(server, job, "ffff3333", test_y=f"{message} for order 9")).then(200)
    assert found["classification"] == "test_bug"
    assert f"test:{result}" in found["sources"]

    server.admin.when("DELETE", f"/builds/{first}").then(204)
    found = diagnose(server, run(server, job, "ffff4444", test_z=f"{message} in row 3")).then(200)
    assert f"test:{result}" not in found["sources"]


def test_a_known_issue(server: Server, job: int) -> None:
    project = server.admin.fetch(f"/jobs/{job}")["project_id"]
    issue = {"project_id": project, "title": "Sandbox down", "classification": "infra", "pattern": "frobnicated"}
    issue_id = server.admin.create("/known-issues", **issue)["id"]
    found = diagnose(server, run(server, job, "abcd1111", test_x="it was frobnicated")).then(200)
    assert found["classification"] == "infra"
    assert f"known_issue:{issue_id}" in found["sources"]
    assert "Sandbox down" in found["root_cause"]


def test_a_classification_rule_is_no_known_issue(server: Server, job: int) -> None:
    project = server.admin.fetch(f"/jobs/{job}")["project_id"]
    rule = {"title": "Prices", "classification": "product_bug", "pattern": "wrong price"}
    server.admin.when("PUT", f"/projects/{project}/classification-rules", json={"rules": [rule]}).then(200)
    found = diagnose(server, run(server, job, "abcd2222", test_price="AssertionError: wrong price")).then(200)
    assert "A rule has classified" in " ".join(claim["text"] for claim in found["claims"])
    assert found["next_step"]["action"] == "known_issue"


def test_the_log_of_a_build_without_tests(server: Server, job: int) -> None:
    build = given_build(server, job)
    text = "+ make\nworking\nwrite: No space left on device\nmake: *** [all] Error 1\n"
    server.admin.when("POST", f"/builds/{build}/log", json={"offset": 0, "text": text}).then(200)
    finish(server, build, "failed")
    found = diagnose(server, build).then(200)
    assert found["classification"] == "infra"
    assert "No space left on device" in found["root_cause"]
    (log,) = {ref for ref in found["sources"] if ref.startswith("log:")}
    assert log.startswith(f"log:{build}:")
    without = diagnose(server, build, include_logs=False).then(200)
    assert without["classification"] is None
    assert without["confidence"] < 0.3
    assert not any(ref.startswith("log:") for ref in without["sources"])


def test_what_has_no_failure_is_refused(server: Server, job: int) -> None:
    running = given_build(server, job)
    assert "has not ended" in diagnose(server, running).then(409)["detail"]
    finish(server, running)
    assert "passed" in diagnose(server, running).then(409)["detail"]
    diagnose(server, 999_999_999).then(404)
    for fields in ({"max_tests": 0}, {"max_tests": 101}, {"include_logs": "yes"}, {"other": 1}):
        diagnose(server, running, **fields).then(422)


def test_strangers_see_nothing(server: Server, job: int) -> None:
    build = run(server, job, "abcd2222", test_x="boom")
    project = server.admin.fetch(f"/jobs/{job}")["project_id"]
    stranger = server.make_user("developer", {})
    stranger.when("POST", "/ai/diagnose", json={"build_id": build}).then(404)
    stranger.when("GET", f"/ai/summary/{build}").then(404)
    stranger.when("GET", f"/ai/insights?project_id={project}").then(404)


def test_a_diagnosis_is_in_the_audit_trail(server: Server, job: int) -> None:
    build = run(server, job, "abcd3333", test_x="boom")
    diagnose(server, build).then(200)
    project = server.admin.fetch(f"/jobs/{job}")["project_id"]
    events = server.admin.fetch("/audit/events", project_id=project, limit=5)
    types = [event["type"] for event in events]
    assert {"inquiry.asked", "inquiry.answered"} <= set(types)


def test_an_unchanged_diagnosis_is_recorded_once_for_each_user(server: Server) -> None:
    project = given_project(server)
    build = run(server, given_job(server, project), "abcd3333", test_x="boom")

    def count_recorded() -> int:
        server.wait_until_projected()
        events = server.admin.fetch("/audit/events", project_id=project, limit=50)
        return [event["type"] for event in events].count("inquiry.answered")

    first = diagnose(server, build).then(200)
    assert (diagnose(server, build).then(200), count_recorded()) == (first, 1)
    diagnose(server, build, max_tests=1).then(200)
    assert count_recorded() == 2
    member = server.make_user("viewer", {project: "read"})
    for _ in range(2):
        assert member.when("POST", "/ai/diagnose", json={"build_id": build}).then(200) == first
    assert count_recorded() == 3
    result = result_of(server, build, "test_x")
    server.admin.when("POST", f"/tests/{result}/classification", json={"classification": "test_bug"}).then(200)
    assert diagnose(server, build).then(200)["classification"] == "test_bug"
    assert count_recorded() == 4


def test_a_summary(server: Server, job: int) -> None:
    build = run(server, job, "abcd4444", test_a=REFUSED, test_b=None, test_c=None)
    found = server.admin.fetch(f"/ai/summary/{build}")
    assert found["build_id"] == build
    assert "It ran 3 tests, 1 failed." in found["summary"]
    assert "a problem of the infrastructure" in found["summary"]
    assert found["sources"][0] == f"build:{build}"
    assert " ".join(claim["text"] for claim in found["claims"]) == found["summary"]
    passed = server.admin.fetch(f"/ai/summary/{run(server, job, 'abcd5555', test_a=None)}")
    assert "passed" in passed["summary"]
    assert "is running" in server.admin.fetch(f"/ai/summary/{given_build(server, job)}")["summary"]
    server.admin.when("GET", "/ai/summary/999999999").then(404)


@pytest.fixture(name="shaky", scope="module")
def _shaky(server: Server) -> int:
    """A project in which one test fails in every third build, with one message but for numbers."""
    project = given_project(server)
    job = given_job(server, project)
    for number in range(12):
        message = f"TimeoutError after {number} s" if number % 3 == 2 else None
        run(server, job, f"abc{number:05}", test_shaky=message, test_steady=None)
    return project


def test_insights(server: Server, shaky: int) -> None:
    found = server.admin.fetch("/ai/insights", project_id=shaky)
    assert (found["project_id"], found["period_days"]) == (shaky, 7)
    assert found["build_pass_rate"] == round(8 / 12, 4)
    (flaky,) = found["top_flaky_tests"]
    assert flaky["test"].endswith("test_shaky")
    assert 0 < flaky["flake_rate"] < 1
    assert (flaky["runs"], flaky["failed_runs"]) == (12, 4)
    (pattern,) = found["failure_patterns"]
    assert pattern.startswith("TimeoutError after")
    assert "67% of 12 builds passed" in found["summary"]
    assert f"project:{shaky}" in found["sources"]
    assert server.admin.fetch("/ai/insights", project_id=shaky, days=14)["period_days"] == 14


def test_insights_of_an_empty_project(server: Server) -> None:
    found = server.admin.fetch("/ai/insights", project_id=given_project(server))
    assert (found["build_pass_rate"], found["top_flaky_tests"], found["failure_patterns"]) == (None, [], [])
    server.admin.when("GET", "/ai/insights?project_id=999999999").then(404)
    server.admin.when("GET", "/ai/insights").then(422)


def test_a_known_issue_that_comes_and_goes_came_with_no_commit(server: Server) -> None:
    project = given_project(server)
    issue = {"project_id": project, "title": "Gateway", "classification": "product_bug", "pattern": "gateway"}
    server.admin.when("POST", "/known-issues", json=issue).then(201)
    job = given_job(server, project)
    fixes: list[str] = []
    for number in range(4):
        failure = "RuntimeError: gateway 7 is empty" if number in (1, 3) else None
        build = run(server, job, f"{number}" * 12, test_old=failure)
        if failure:
            fixes.append(diagnose(server, build).then(200)["suggested_fix"])
    assert fixes[0].startswith("Look at the change since the last build that passed")
    assert fixes[1].startswith("Compare the builds in which the test failed")
