"""What AI jobs find: scores and recommendations of audits, clusters of failures, regressions."""

from datetime import UTC, datetime, timedelta

import msgspec

from commands.reports.causes import EqualFailures
from commands.reports.failure_clusters import FailedBuild, find_clusters, summarize_clusters
from domain.assistant.job_states import JobState
from domain.assistant.project_audits import (
    ProjectAuditFacts,
    QuarantineEntryFacts,
    UnreadCluster,
    UnstableTest,
    audit,
    put_present_first,
    summarize_audit,
)
from domain.assistant.regression_scans import FailingTest, find_regressions, summarize_regressions
from domain.failures.first_failures import BuildOutcome, FirstFailure
from domain.health_advice import KnownCause

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
FLAKES = tuple(UnstableTest(100 + n, f"t.py::test_{n}", 5, 0.1 + n / 100) for n in range(8))
CLUSTER = UnreadCluster("ab" * 8, "Database connection timeout", 40, 12, 47821, "infra")


def test_a_project_without_failures_scores_100() -> None:
    found = audit(ProjectAuditFacts(12, 30, passed=100))
    assert (found.audit_score, found.recommendations) == (100, ())
    assert audit(ProjectAuditFacts(12, 30)).audit_score == 100


def test_each_measure_costs_points_up_to_its_limit() -> None:
    def lose(**facts: object) -> float:
        return sum(audit(ProjectAuditFacts(12, 30, **facts)).lost_points.values())  # type: ignore[arg-type]

    assert [lose(passed=3, failed=1), lose(passed=1, failed=1), lose(failed=9)] == [17.5, 35, 35]
    assert [lose(flaky_tests=FLAKES), lose(flaky_tests=FLAKES * 3)] == [8, 20]
    assert [lose(time_to_green_s=86_400.0), lose(time_to_green_s=1e9)] == [7.5, 15]
    assert [lose(failures=10, unread=2), lose(failures=10, unread=10)] == [3, 15]
    entries = (QuarantineEntryFacts(5, "a", 30, False), QuarantineEntryFacts(5, "b", 60, False))
    assert lose(quarantine=entries) == 7.5


def test_the_worst_project_scores_0() -> None:
    entries = (QuarantineEntryFacts(5, "a", 900, False),)
    facts = ProjectAuditFacts(12, 30, 0, 9, 1e9, FLAKES * 3, entries, 10, 10)
    assert audit(facts).audit_score == 0


def test_recommendations_are_requests_with_sources() -> None:
    entries = (QuarantineEntryFacts(6, "t.py::test_old", 90, True), QuarantineEntryFacts(6, "t.py::test_new", 1, False))
    known = UnstableTest(200, "t.py::test_known", 5, 0.5, is_quarantined=True)
    facts = ProjectAuditFacts(12, 30, 5, 5, None, (*FLAKES, known), entries, 40, 40, (CLUSTER,))
    add, remove, issue = audit(facts).recommendations
    assert add.step.text.startswith("Quarantine 8 flaky tests of job 5, which fail in 10% to 17% of their runs")
    assert add.step.text.endswith("t.py::test_0, t.py::test_1, t.py::test_2 and 5 more.")
    assert add.step.body["node_ids"] == [test.name for test in FLAKES]
    assert add.sources == tuple(f"test_case:{test.case_id}" for test in FLAKES)
    assert remove.step.body == {"job_id": 6, "action": "remove", "node_ids": ["t.py::test_old"]}
    assert (issue.step.path, issue.step.body["signature"]) == ("/known-issues", CLUSTER.signature)
    assert issue.sources == ("test:47821",)
    answer = summarize_audit(facts, audit(facts))
    assert answer.next_step == add.step
    assert all(claim.sources for claim in answer.claims)
    assert "8 tests are probably flaky." not in answer.text  # nine are, one of them in quarantine
    assert "9 tests are probably flaky." in answer.text
    assert "2 entries are in quarantine." in answer.text
    read = next(claim for claim in answer.claims if claim.text == "40 of 40 failures have no classification.")
    assert read.sources == (f"test:{CLUSTER.result_id}",)
    one = ProjectAuditFacts(12, 30, flaky_tests=FLAKES[:1], quarantine=entries[:1])
    assert "1 test is probably flaky." in summarize_audit(one, audit(one)).text
    assert "1 entry is in quarantine." in summarize_audit(one, audit(one)).text


def test_failures_of_red_jobs_are_recommended_first() -> None:
    often = msgspec.structs.replace(CLUSTER, signature="cd" * 8, failures=99, last_build=74)
    now = msgspec.structs.replace(CLUSTER, last_build=123)
    assert put_present_first([often, now], [123, 161]) == [now, often]
    found = audit(ProjectAuditFacts(12, 30, 5, 5, failures=4, unread=4, unread_clusters=(often,)))
    text = "which has 99 failures in 12 builds that nobody has classified, at last in build 74."
    assert found.recommendations[0].step.text.endswith(text)


def test_an_unstable_network_makes_no_test_flaky() -> None:
    gateway = UnstableTest(300, "t.py::test_gateway", 5, 0.5, is_infrastructure=True)
    facts = ProjectAuditFacts(12, 30, 5, 5, flaky_tests=(gateway,), unread_clusters=(CLUSTER,), failures=4, unread=4)
    found = audit(facts)
    assert [one.step.action for one in found.recommendations] == ["known_issue"]
    assert found.lost_points["flaky_tests"] == 0
    text = summarize_audit(facts, found).text
    assert "1 test failed now and then by the machine, the network or another system only: t.py::test_gateway." in text
    assert "flaky" not in text


def test_a_known_bug_makes_no_test_flaky() -> None:
    cart = UnstableTest(300, "t.py::test_cart", 5, 0.5, known=KnownCause(7, "XK-77"))
    facts = ProjectAuditFacts(12, 30, 5, 5, flaky_tests=(cart,))
    found = audit(facts)
    assert (found.recommendations, found.lost_points["flaky_tests"]) == ((), 0)
    text = "Known issue 7, “XK-77”, makes 1 test fail now and then: t.py::test_cart. Mend it"
    assert text in summarize_audit(facts, found).text


def test_a_failure_of_flaky_tests_becomes_no_known_issue() -> None:
    race = UnreadCluster("cd" * 8, "worker 2 finished first", 3, 3, 47, "product_bug", (FLAKES[0].name,))
    shared = UnreadCluster("ef" * 8, "assert 1 == 2", 3, 3, 48, "product_bug", (FLAKES[0].name, "t.py::test_other"))
    facts = ProjectAuditFacts(12, 30, 5, 5, flaky_tests=FLAKES, unread_clusters=(race, shared), failures=6, unread=6)
    steps = [one.step for one in audit(facts).recommendations]
    assert [step.body.get("signature") for step in steps] == [None, shared.signature]


def test_failures_of_many_builds_with_one_cause_are_one_cluster() -> None:
    def failed(signature: str, message: str, first: int, results: int = 1) -> EqualFailures:
        return EqualFailures(signature, results, list(range(first, first + results)), message, "")

    builds = [
        FailedBuild(9, NOW, (failed("a", "connection refused by db 1", 90, 2), failed("b", "assert 1 == 2", 95))),
        FailedBuild(7, NOW - timedelta(days=2), (failed("a", "connection refused by db 1", 70),)),
    ]
    database, assertion = find_clusters(builds)
    assert (database.kind, database.failures, database.builds) == ("infrastructure", 3, 2)
    assert (database.first_seen, database.first_build, database.last_build) == (NOW - timedelta(days=2), 7, 9)
    assert (assertion.kind, assertion.failures, assertion.result_ids) == ("test", 1, (95,))
    answer = summarize_clusters(12, [database, assertion], 2)
    assert answer.claims[0].text == (
        "3 failures in 2 of the newest 2 failed builds, the first of them build 7: connection refused by db 1."
    )
    assert answer.claims[0].sources[0] == "build:7"
    assert summarize_clusters(12, [], 0).sources == ["project:12"]


def test_a_cluster_shows_its_newest_failures() -> None:
    frames = "".join(f'  File "/src/{name}.py", line 3, in {name}\n    x\n' for name in ("test_b", "load", "connect"))
    trace = f"Traceback (most recent call last):\n{frames}OSError: gone"

    def failed(signature: str, first: int) -> EqualFailures:
        return EqualFailures(signature, 3, [first, first + 1, first + 2], f"OSError: gone {signature}", trace)

    builds = [
        FailedBuild(number, NOW, tuple(failed(signature, number * 100 + 10 * at) for at, signature in enumerate("abc")))
        for number in range(1, 9)
    ]
    (cluster,) = find_clusters([*builds, FailedBuild(9, NOW, (failed("b", 900),))])
    assert cluster.signatures == ("b", "c", "a")
    assert (len(cluster.result_ids), cluster.result_ids[-1]) == (20, 902)


def test_a_scan_without_regressions_names_red_jobs() -> None:
    red, green = JobState(3, 8, "failed", failed=7), JobState(4, 9, "passed")
    none = "No test fails now by its newest run that counts on a default branch."
    assert summarize_regressions(12, [], 0, [green]).text == none
    jobs = "1 of 2 jobs is red by the newest build of each: job 3 (build 8, 7 failed tests)."
    assert summarize_regressions(12, [], 0, [red, green]).text == f"{none} {jobs}"


def failing(case_id: int, good: BuildOutcome | None, bad: BuildOutcome, builds: int, flaky: float = 0.0) -> FailingTest:
    first = FirstFailure(bad, good, builds)
    return FailingTest(case_id, f"t_{case_id}", case_id * 10, "assert", flaky, first, failing_runs=12)


def test_only_tests_that_fail_for_good_since_a_commit_are_regressions() -> None:
    good, bad = BuildOutcome(4, "c4", False), BuildOutcome(5, "c5", True)
    tests = [
        failing(1, good, bad, 2),
        failing(2, good, bad, 1),
        failing(3, None, bad, 9),
        failing(4, BuildOutcome(4, "c5", False), bad, 9),
        failing(5, good, bad, 9, flaky=0.9),
        failing(6, BuildOutcome(6, "c6", False), BuildOutcome(7, "c7", True), 12, flaky=0.81),
        FailingTest(7, "t_7", 70, "assert", 0.0, None),
        failing(8, None, BuildOutcome(3, None, True), 1),
    ]
    found = find_regressions(tests)
    assert [(one.test_case_id, one.commit) for one in found] == [(6, "c7"), (1, "c5"), (3, "c5")]
    answer = summarize_regressions(12, found, len(tests))
    assert answer.claims[1].text == "t_1 fails since build 5, which ran on commit c5. Build 4 was the last good one."
    assert answer.claims[1].sources == ("build:5", "build:4", "test:10", "commit:c5")
    first = (
        "t_3 fails since the first run on its branch and combination of the matrix, in build 5, which ran on commit c5."
    )
    assert (answer.claims[2].text, answer.claims[2].sources) == (first, ("build:5", "test:30", "commit:c5"))
    new = find_regressions([msgspec.structs.replace(tests[2], has_passed=False)])
    assert (
        summarize_regressions(12, new, 1).text == "t_3 fails since the first run, in build 5, which ran on commit c5."
    )
    assert (
        answer.claims[3].text
        == "5 other failing tests are no regressions: they are probably flaky, or failed in one build only."
    )
    assert summarize_regressions(12, [], 3).sources == ["project:12"]
    for number, named in ((3, "t_1, t_2, t_3 fail since"), (4, "t_1, t_2, t_3 and 1 more test fail since")):
        same = find_regressions(failing(case_id, good, bad, 2) for case_id in range(1, number + 1))
        assert summarize_regressions(12, same, number).text.startswith(named)


def test_a_regression_that_does_not_run_any_more_is_of_the_past() -> None:
    good, bad = BuildOutcome(4, "c4", False), BuildOutcome(9, "c9", True)
    gone = msgspec.structs.replace(failing(1, good, bad, 2), last_build=10, missed_builds=6)
    found = find_regressions([gone, failing(2, BuildOutcome(2, "c2", False), BuildOutcome(3, "c3", True), 2)])
    assert [one.test_case_id for one in found] == [2, 1]
    claim = summarize_regressions(12, found[1:], 1).claims[0]
    assert claim.text == (
        "t_1 failed since build 9, which ran on commit c9. Build 4 was the last good one. The last run was in build 10:"
        " 6 newer builds of the job did not run it: it may have been removed, or is skipped."
    )
    assert claim.sources[-1] == "build:10"
