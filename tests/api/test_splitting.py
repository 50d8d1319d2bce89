"""Division of tests into shards over HTTP, by the durations in reports."""

from typing import Any

from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.server import Server


def report(durations: dict[str, float | None]) -> bytes:
    """Returns a report of tests by their node ids, with durations in seconds; None for a skipped test."""
    cases: list[str] = []
    for node_id, duration in durations.items():
        file, _, name = node_id.partition("::")
        inner = "<skipped/>" if duration is None else ""
        cases.append(f'<testcase file="{file}" name="{name}" time="{duration or 0}">{inner}</testcase>')
    return f'<testsuite name="pytest">{"".join(cases)}</testsuite>'.encode()


def given_run(server: Server, job: int, durations: dict[str, float | None], branch: str = "main") -> None:
    build = given_build(server, job, branch=branch)
    upload(server.admin, build, report(durations)).then(201)
    finish(server, build)


def split(server: Server, job: int, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = server.admin.when("POST", f"/jobs/{job}/split", json=body).then(200)
    return found


def refused(server: Server, job: int, **body: Any) -> str:
    return str(server.admin.when("POST", f"/jobs/{job}/split", json=body).then(422)["detail"])


def shard_of(answer: dict[str, Any], name: str) -> int:
    (found,) = [number for number, shard in enumerate(answer["shards"]) if name in shard["names"]]
    return found


def test_without_durations_the_numbers_are_equal(server: Server, job: int) -> None:
    tests = [f"tests/test_a.py::test_{number}" for number in range(40)]
    answer = split(server, job, tests=tests, shards=4)
    assert sorted(len(shard["names"]) for shard in answer["shards"]) == [10, 10, 10, 10]
    assert [shard["expected_s"] for shard in answer["shards"]] == [None] * 4
    assert answer["unknown"] == tests


def test_durations_are_medians_of_the_default_branch(server: Server) -> None:
    job = given_job(server, given_project(server))
    slow, quick, skipped = "tests/test_a.py::test_slow", "tests/test_a.py::test_quick", "tests/test_b.py::test_skipped"
    for duration in (7.0, 30.0, 8.0):
        given_run(server, job, {slow: duration, quick: 2.0, skipped: None})
    server.wait_until_projected()
    answer = split(server, job, tests=[slow, quick, skipped, "new", quick], shards=2)
    assert answer["unknown"] == [skipped, "new"]
    assert sum(shard["expected_s"] for shard in answer["shards"]) == 8 + 2 + 5 + 5
    assert sorted(name for shard in answer["shards"] for name in shard["names"]) == sorted(
        [slow, quick, skipped, "new"]
    )


def test_builds_of_other_branches_count_only_while_there_are_few(server: Server) -> None:
    job = given_job(server, given_project(server))
    test = "tests/test_a.py::test_a"
    given_run(server, job, {test: 60.0}, branch="feature")
    server.wait_until_projected()
    assert split(server, job, tests=[test], shards=1)["shards"][0]["expected_s"] == 60.0
    for _ in range(2):
        given_run(server, job, {test: 2.0})
    server.wait_until_projected()
    assert split(server, job, tests=[test], shards=1)["shards"][0]["expected_s"] == 2.0


def test_a_file_takes_as_long_as_its_tests(server: Server) -> None:
    job = given_job(server, given_project(server))
    given_run(server, job, {"tests/test_a.py::test_1": 1.0, "tests/test_a.py::test_2": 2.0, "tests/test_b.py::b": 3.5})
    server.wait_until_projected()
    files = ["tests/test_a.py", "tests/test_b.py", "tests/test_c.py"]
    answer = split(server, job, files=files, shards=2)
    assert answer["unknown"] == ["tests/test_c.py"]
    assert shard_of(answer, "tests/test_a.py") != shard_of(answer, "tests/test_b.py")
    assert sum(shard["expected_s"] for shard in answer["shards"]) == 3 + 3.5 + 3.25


def test_two_runs_make_even_shards(server: Server) -> None:
    job = given_job(server, given_project(server))
    suite: dict[str, float | None] = {
        f"tests/test_{n // 10}.py::test_{n}": 0.1 + 0.01 * (n * n % 97) for n in range(200)
    }
    for factor in (0.95, 1.05):
        given_run(server, job, {name: (duration or 0) * factor for name, duration in suite.items()})
    server.wait_until_projected()
    answer = split(server, job, tests=list(suite), shards=4)
    took = [sum(suite[name] or 0 for name in shard["names"]) for shard in answer["shards"]]
    assert max(took) < 1.1 * sum(took) / 4
    assert answer == split(server, job, tests=list(suite), shards=4)


def test_requests_are_checked(server: Server, job: int) -> None:
    assert "tests" in refused(server, job, shards=2)
    assert "files" in refused(server, job, shards=2, tests=["a"], files=["b"])
    for body in ({"shards": 0, "tests": ["a"]}, {"shards": 1_001, "tests": ["a"]}, {"shards": 2, "tests": []}):
        refused(server, job, **body)
    assert "tests" in refused(server, job, shards=2, tests=["a"] * 100_001)
    server.admin.when("POST", f"/jobs/{10**9}/split", json={"shards": 2, "tests": ["a"]}).then(404)
