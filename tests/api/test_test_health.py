"""Health of tests over HTTP: the ranked list, one test with its evidence, and emerging flakiness."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from api.emerging import EmergingTest, compare, sort_key
from api.test_health_views import FailurePattern, find_counting, mask_line, recommend, to_item
from commands.flakiness import RecordChangedFlakiness
from commands.handler import CommandContext, Handler
from domain.flakiness import FlakinessEmerged, FlakinessSettled
from domain.run_histories import NotableRun, RunHistory
from domain.test_health import BROKEN_BUILD, FAILED
from projections.emerging import EmergenceRow
from projections.test_health import CaseHistory
from store.clock import utcnow
from testhide.processes import core
from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.server import Server
from workers.project_analyses import ProjectAnalyst

CASES = ("steady", "shaky", "retried")


def junit(**results: str) -> bytes:
    """Returns a report. The value of a test is `passed`, `failed`, `retried`, or the message of its failure."""
    cases = []
    for name, result in results.items():
        failure = f'<testcase classname="t" name="{name}"><failure message="{result} at 10:00:05"/></testcase>'
        passed = f'<testcase classname="t" name="{name}"/>'
        cases.append({"passed": passed, "retried": failure + passed}.get(result, failure))
    return f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()


def given_results(server: Server, job: int, branch: str = "main", **results: str) -> int:
    build = given_build(server, job, branch=branch)
    upload(server.admin, build, junit(**results)).then(201)
    has_failed = any(result not in ("passed", "retried") for result in results.values())
    finish(server, build, "failed" if has_failed else "passed")
    return build


@pytest.fixture(name="history", scope="module")
def _history(server: Server) -> dict[str, Any]:
    """A project in which one test fails now and then, one passes on a retry, and one passes."""
    project = given_project(server)
    job = given_job(server, project)
    builds = []
    for number in range(12):
        shaky = ("timeout" if number < 9 else "refused") if number % 3 == 2 else "passed"
        retried = "retried" if number == 4 else "passed"
        builds.append(given_results(server, job, steady="passed", shaky=shaky, retried=retried))
    server.wait_until_projected()
    return {"project": project, "job": job, "builds": builds}


def health_of(server: Server, project: int, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.admin.fetch("/ai/tests/health", project_id=project, **query)["tests"]
    return found


def names(tests: list[dict[str, Any]]) -> list[str]:
    return [test["name"].rpartition(".")[2] for test in tests]


def test_tests_are_ranked_by_risk(server: Server, history: dict[str, Any]) -> None:
    answer = server.admin.fetch("/ai/tests/health", project_id=history["project"])
    assert names(answer["tests"]) == ["shaky", "retried", "steady"]
    assert answer["total"] == 2, "tests that failed or were retried"
    shaky, retried, steady = answer["tests"]
    assert [test["runs"] for test in answer["tests"]] == [12, 12, 12]
    assert (shaky["failed_runs"], retried["retried_runs"], steady["failed_runs"]) == (4, 1, 0)
    assert shaky["health_score"] < steady["health_score"]
    assert shaky["flake_rate_low"] <= shaky["flake_rate"] <= shaky["flake_rate_high"]


def test_parameters_do_what_they_say(server: Server, history: dict[str, Any]) -> None:
    project = history["project"]
    assert names(health_of(server, project, limit=1)) == ["shaky"]
    assert names(health_of(server, project, limit=2)) == ["shaky", "retried"]
    assert names(health_of(server, project, min_runs=12)) == ["shaky", "retried", "steady"]
    assert health_of(server, project, min_runs=13) == []
    assert len(health_of(server, project, days=2)) == 3
    for query in ({"days": 0}, {"days": 366}, {"limit": 0}, {"min_runs": 0}, {"days": "x"}, {"day": 1}):
        answer = server.admin.get("/api/v3/ai/tests/health", params={"project_id": project} | query)
        assert answer.status_code == 422, query
    assert server.admin.get("/api/v3/ai/tests/health").status_code == 422
    assert server.admin.get("/api/v3/ai/tests/health", params={"project_id": 10**9}).status_code == 404


def test_one_test_with_its_evidence(server: Server, history: dict[str, Any]) -> None:
    test_id = health_of(server, history["project"])[0]["test_id"]
    builds = history["builds"]
    found = server.admin.fetch(f"/ai/tests/{test_id}/health")
    assert found["test_id"] == test_id
    failed = [builds[number] for number in (2, 5, 8, 11)]
    assert found["correlated_builds"] == failed[::-1]
    assert found["failure_patterns"] == ["timeout at <time>", "refused at <time>"]
    assert [(one["failures"], one["builds"]) for one in found["failures"]] == [
        (3, failed[2::-1]),
        (1, failed[3:]),
    ]
    assert [(run["build_id"], run["failed"], run["passes_before"]) for run in found["evidence"]] == [
        (build, True, 2) for build in failed
    ]
    assert "4 of 12 runs in 30 days failed" in found["recommendation"]
    assert "timeout at <time>" in found["recommendation"]
    at = datetime.fromisoformat(found["evidence"][0]["at"])
    assert abs((datetime.now(UTC) - at).total_seconds()) < 3_600


def test_failures_before_a_retry_that_passed_are_shown(server: Server, history: dict[str, Any]) -> None:
    (test_id,) = (test["test_id"] for test in health_of(server, history["project"]) if test["retried_runs"])
    found = server.admin.fetch(f"/ai/tests/{test_id}/health")
    assert [(one["message"], one["builds"]) for one in found["failures"]] == [
        ("retried at <time>", [history["builds"][4]])
    ]
    assert "retried at <time>" in found["recommendation"]


def test_a_test_that_is_dealt_with_is_not_put_into_quarantine(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    issue = server.admin.create(
        "/known-issues", project_id=project, title="XK-77", classification="product_bug", pattern="cart is empty"
    )["id"]
    for number in range(20):
        shaky, cart = ("timeout" if number % 3 == 2 else "passed"), ("cart is empty" if number % 4 == 1 else "passed")
        given_results(server, job, shaky=shaky, cart=cart, other=shaky)
    entry = server.admin.create("/quarantine", job_id=job, node_id="t.shaky", reason="flaky")["id"]
    server.wait_until_projected()
    tests = {test["name"]: test for test in health_of(server, project)}
    decided = ("recommended_action", "is_flaky", "quarantined_in", "known_issue_id")
    assert [tests["t.other"][field] for field in decided] == ["quarantine", True, [], None]
    assert [tests["t.shaky"][field] for field in decided] == ["fix", True, [job], None]
    assert [tests["t.cart"][field] for field in decided] == ["fix", False, [], issue]
    shown = [server.admin.fetch(f"/ai/tests/{tests[name]['test_id']}/health") for name in ("t.shaky", "t.cart")]
    shaky, cart = (test["recommendation"] for test in shown)
    assert shaky.startswith("Fix the test: 6 of 20 runs in 30 days failed. It is in the quarantine of")
    assert f"delete entry {entry} once it is mended" in shaky
    assert cart.startswith("Mend the bug: 5 of 20 runs in 30 days failed.")
    assert f"known issue {issue}, “XK-77”" in cart

    async def audit() -> dict[str, Any]:
        async def ignore(kind: str, text: str) -> None: ...

        async with core(server.settings, pool_size=1) as parts:
            found = await ProjectAnalyst(parts.pool, utcnow).analyze("project_audit", project, ignore)
            return found.result | {"conclusion": found.answer.text}

    audited = asyncio.run(audit())
    quarantined = [action["body"]["node_ids"] for action in audited["actions"] if action["action"] == "quarantine"]
    assert quarantined == [["t.other"]]
    assert f"Known issue {issue}, “XK-77”, makes 1 test fail now and then: t.cart." in audited["conclusion"]


def test_a_test_that_never_failed_has_nothing_to_do(server: Server, history: dict[str, Any]) -> None:
    test_id = health_of(server, history["project"])[-1]["test_id"]
    found = server.admin.fetch(f"/ai/tests/{test_id}/health", days=2)
    assert (found["failure_patterns"], found["correlated_builds"], found["evidence"]) == ([], [], [])
    assert found["recommendation"] == "Nothing to do: all 12 runs in 2 days passed."
    assert found["risk"] == "low"


def test_unknown_tests(server: Server) -> None:
    assert server.admin.get(f"/api/v3/ai/tests/{10**9}/health").status_code == 404
    assert server.admin.get("/api/v3/ai/tests/1/health", params={"days": 0}).status_code == 422


def test_broken_builds_do_not_count(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    for number in range(6):
        result = "no space left" if number == 3 else "passed"
        given_results(server, job, **{f"test_{one}": result for one in range(6)})
    server.wait_until_projected()
    tests = health_of(server, project)
    assert {(test["failed_runs"], test["broken_builds"], test["runs"]) for test in tests} == {(1, 1, 6)}
    assert {test["risk"] for test in tests} == {"low"}
    assert server.admin.fetch("/ai/emerging/latest", project_id=project, window=3)["emerging"] == []
    found = server.admin.fetch(f"/ai/tests/{tests[0]['test_id']}/health")
    assert [run["broken_build"] for run in found["evidence"]] == [True]
    assert "1 of them does not count" in found["recommendation"]
    assert (found["runs"], found["assessed_runs"]) == (6, 5)


def test_a_branch_that_is_broken_says_nothing_about_a_test(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    broken: list[int] = []
    for number in range(12):
        branch, total = ("pr-7", "3 != 4") if number in (7, 9, 11) else ("main", "passed")
        build = given_results(server, job, branch, total=total, tax="passed")
        broken += [build] if branch == "pr-7" else []
    server.wait_until_projected()
    item = next(test for test in health_of(server, project) if test["failed_runs"])
    assert (item["failed_runs"], item["other_branches"], item["is_flaky"]) == (3, 3, False)
    assert item["recommended_action"] == "none"
    found = server.admin.fetch(f"/ai/tests/{item['test_id']}/health")
    assert [run["other_branch"] for run in found["evidence"]] == [True] * 3
    assert "3 of them do not count, being on other branches" in found["recommendation"]
    diagnosis = server.admin.when("POST", "/ai/diagnose", json={"build_id": broken[-1]}).then(200)
    assert diagnosis["classification"] == "product_bug"
    assert "quarantine" not in str(diagnosis["next_step"])
    (listed,) = server.admin.fetch("/test-cases", project_id=project, sort="failures", limit=1)["results"]
    assert (listed["failed_runs"], listed["other_branches"], listed["failing_streak"]) == (3, 3, 0)
    assert server.admin.fetch("/test-cases", project_id=project, only="failing")["results"] == []


def test_an_outage_says_nothing_about_a_test(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    builds: list[int] = []
    for number in range(16):
        save = "OSError: [Errno 28] No space left on device" if number == 4 else "passed"
        fetch = "ConnectionRefusedError: Connection refused" if number in (1, 14) else "passed"
        builds.append(given_results(server, job, save=save, fetch=fetch, sum="3 != 4" if number > 13 else "passed"))
    server.wait_until_projected()
    tests = {test["name"].rpartition(".")[2]: test for test in health_of(server, project)}
    for name, outages in (("save", 1), ("fetch", 2)):
        item = tests[name]
        assert (item["failed_runs"], item["outages"], item["assessed_runs"]) == (outages, outages, 16 - outages)
        assert (item["is_flaky"], item["recommended_action"]) == (False, "none")
    assert (tests["sum"]["recommended_action"], tests["sum"]["outages"]) == ("investigate", 0)
    found = server.admin.fetch(f"/ai/tests/{tests['fetch']['test_id']}/health")
    assert [(run["failed"], run["outage"]) for run in found["evidence"]] == [(True, True)] * 2
    assert "2 of them do not count, since the machine, the network or another system failed" in found["recommendation"]
    listed = {one["id"]: one for one in server.admin.fetch("/test-cases", project_id=project)["results"]}
    item = listed[tests["fetch"]["test_id"]]
    assert (item["failed_runs"], item["outages"], item["flips"], item["failing_streak"]) == (2, 2, 0, 0)
    failures = server.admin.fetch("/tests", build_id=builds[14], status="failed")["results"]
    assert len(failures) == 2, "the results stay failed"


def test_passes_of_other_branches_do_not_mend_the_default_branch(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    for number in range(12):
        given_results(server, job, "main" if number < 6 or number % 2 else "pr-7", total="passed", tax="passed")
    for number in range(6):
        branch, total = ("pr-7", "passed") if number % 2 else ("main", "3 != 4")
        given_results(server, job, branch, total=total, tax="passed")
    server.wait_until_projected()
    item = next(test for test in health_of(server, project) if test["failed_runs"])
    assert (item["recommended_action"], item["is_flaky"]) == ("investigate", False)
    (listed,) = server.admin.fetch("/test-cases", project_id=project, only="newly_failing")["results"]
    assert listed["failing_streak"] == 3


def test_statistics_survive_the_deletion_of_builds(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    builds = [given_results(server, job, shaky="timeout" if number in (2, 4) else "passed") for number in range(6)]
    server.wait_until_projected()
    (before,) = health_of(server, project)
    for build in builds[:5]:
        server.admin.when("DELETE", f"/builds/{build}").then(204)
    server.wait_until_projected()
    (after,) = health_of(server, project)
    assert after == before
    found = server.admin.fetch(f"/ai/tests/{after['test_id']}/health")
    assert (found["correlated_builds"], found["failure_patterns"]) == ([], []), "texts and builds are gone"
    assert [run["build_id"] for run in found["evidence"]] == [builds[2], builds[4]]


def test_tests_that_fail_more_often_lately(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    builds = []
    for number in range(20):
        late = "timeout" if number in (16, 18, 19) else "passed"
        early = "timeout" if number in (2, 3, 4) else "passed"
        builds.append(given_results(server, job, late=late, early=early))
    server.wait_until_projected()
    (found,) = server.admin.fetch("/ai/emerging/latest", project_id=project)["emerging"]
    assert names([found]) == ["late"]
    assert (found["baseline_rate"], found["recent_rate"], found["delta"]) == (0.0, 0.3, 0.3)
    assert (found["baseline_runs"], found["recent_runs"], found["recent_failing"]) == (10, 10, 3)
    assert found["first_seen_build"] == builds[16]
    assert (found["detected"], found["detected_at"]) == (False, None), "too few runs for a verdict"

    def of(**query: Any) -> list[tuple[str, float]]:
        tests = server.admin.fetch("/ai/emerging/latest", project_id=project, **query)["emerging"]
        return [(name, test["delta"]) for name, test in zip(names(tests), tests, strict=True)]

    assert of(threshold=0.3) == [("late", 0.3)]
    assert of(threshold=0.31) == []
    assert of(window=2) == [("late", round(1 - 1 / 18, 4))]
    assert of(window=18) == [("late", 0.1667), ("early", 0.1667)]
    assert of(window=20) == [], "there is nothing before to compare with"
    for query in ({"threshold": -0.1}, {"threshold": 1.5}, {"window": 0}, {"window": 201}, {"days": 3}):
        answer = server.admin.get("/api/v3/ai/emerging/latest", params={"project_id": project} | query)
        assert answer.status_code == 422, query


def test_the_history_of_rises(server: Server, history: dict[str, Any]) -> None:
    project, builds = history["project"], history["builds"]
    shaky, retried, _ = (test["test_id"] for test in health_of(server, project))
    counts: dict[str, Any] = {
        "runs": 12,
        "baseline_runs": 8,
        "baseline_failing": 2,
        "recent_runs": 4,
        "recent_failing": 2,
    }
    emerged = [
        FlakinessEmerged(
            test_case_id=case,
            project_id=project,
            job_id=history["job"],
            build_id=builds[11],
            first_build_id=builds[8],
            **counts,
        )
        for case in (shaky, retried)
    ]
    settled = FlakinessSettled(
        test_case_id=retried, project_id=project, job_id=history["job"], build_id=builds[11], runs=12
    )

    async def record() -> None:
        async with core(server.settings, pool_size=1) as parts:
            handler = Handler(parts.log, utcnow)
            for events in (emerged, [settled]):
                await handler.execute(RecordChangedFlakiness(tuple(events)), CommandContext("system:flakiness"))

    asyncio.run(record())
    server.wait_until_projected()

    def of(**query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.admin.fetch("/ai/emerging/history", project_id=project, **query)
        return found

    assert [(one["test_id"], one["resolved"]) for one in of()] == [(retried, True), (shaky, False)]
    assert (of()[1]["baseline_rate"], of()[1]["recent_rate"], of()[1]["delta"]) == (0.25, 0.5, 0.25)
    assert of()[1]["first_seen_build"] == builds[8]
    assert [one["test_id"] for one in of(test_id=shaky)] == [shaky]
    assert [one["test_id"] for one in of(limit=1)] == [retried]
    assert [one["test_id"] for one in of(before=of()[0]["id"])] == [shaky]
    assert len(of(days=2)) == 2
    for query, status in (({"days": 0}, 422), ({"test_id": 10**9}, 404), ({"page": 1, "before": 1}, 422)):
        answer = server.admin.get("/api/v3/ai/emerging/history", params={"project_id": project} | query)
        assert answer.status_code == status, query
    trail = server.admin.fetch("/audit/events", project_id=project, limit=3)
    assert "fails more often since build" in str(trail)


def test_a_rise_begins_where_the_evidence_for_it_does() -> None:
    failing = [NotableRun(number, 1_000 + number, 0, FAILED) for number in range(106, 121)]
    case = CaseHistory(7, 1, "t::late", "s", RunHistory(failing, 120))
    found = compare(case, 10, None)
    assert found is not None
    assert (found.first_seen_build, found.recent_failing) == (1_106, 10)
    recorded = EmergenceRow(1, 7, 1, 1_108, 1_104, utcnow(), 0, 90, 3, 8)
    known = compare(case, 10, recorded)
    assert known is not None
    assert (known.first_seen_build, known.detected_at) == (1_104, recorded.detected_at)


def test_a_rise_is_told_from_a_regression() -> None:
    def rise(case_id: int, *numbers: int) -> EmergingTest:
        failing = [NotableRun(number, number, 0, FAILED) for number in numbers]
        found = compare(CaseHistory(case_id, 1, "t::late", "s", RunHistory(failing, 120)), 10, None)
        assert found is not None
        return found

    broken, flaky = rise(7, *range(111, 121)), rise(8, 40, 112, 114, 117, 119)
    assert broken.broken_probability > 0.9 > 0.5 > flaky.broken_probability
    assert flaky.flaky_probability > 0.9
    assert sorted((broken, flaky), key=sort_key) == [flaky, broken], "a regression comes last, however large"


def test_patterns_keep_the_keys_of_tickets() -> None:
    assert mask_line("assert 3 == 4 (see XK-77 and PROJ-1204)") == "assert <n> == <n> (see XK-77 and PROJ-1204)"
    assert mask_line("gone: /tmp/AB-12/x at -12") == "gone: <path> at <n>"


def test_a_recommendation_names_a_failure_that_counts() -> None:
    notable = [NotableRun(number, number, 0, FAILED | BROKEN_BUILD) for number in (3, 4, 5)]
    history = RunHistory([*notable, NotableRun(9, 9, 0, FAILED)], 10)
    item = to_item(CaseHistory(1, 2, "test_a", "", history), history)
    patterns = [
        FailurePattern("no module app", "x", failures=3, builds=[5, 4, 3]),
        FailurePattern("expected 3 items", "y", failures=1, builds=[9]),
    ]
    assert recommend(item, patterns, find_counting(history), 30).endswith(" expected 3 items")
    assert "no module app" not in recommend(item, patterns[:1], find_counting(history), 30)
