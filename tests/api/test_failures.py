"""Failures over HTTP: excerpts of the log that explain a build, the causes in its report, and the first bad build."""

from typing import Any

from tests.api.test_build_deletion import wait
from tests.support.builders import Shop, finish, given_build, given_job, given_project, upload
from tests.support.server import Server

PASSES = b'<testsuite name="s"><testcase classname="t.test_x" name="test_a"/></testsuite>'
FAILS = PASSES.replace(b"/></", b"><failure message='boom'/></testcase></")
SKIPS = PASSES.replace(b"/></", b"><skipped/></testcase></")


def run(server: Server, job: int, commit: str, report: bytes, **fields: Any) -> int:
    build = given_build(server, job, commit_sha=commit, **fields)
    assert upload(server.admin, build, report).ok
    finish(server, build)
    return build


def first_bad(server: Server, build: int) -> dict[str, Any] | None:
    (result,) = server.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"]
    found: dict[str, Any] | None = server.admin.get(f"/api/v3/tests/{result['id']}").json()["first_bad"]
    return found


def test_the_first_bad_build_of_a_branch(server: Server, job: int) -> None:
    run(server, job, "aaaa1111", FAILS)
    good = run(server, job, "bbbb1111", PASSES)
    run(server, job, "cccc1111", FAILS, branch="other")
    run(server, job, "dddd1111", SKIPS)
    bad = run(server, job, "eeee1111", FAILS)
    last = run(server, job, "ffff1111", FAILS)
    run(server, job, "ffff2222", PASSES, branch="other")

    assert first_bad(server, last) == {
        "build_id": bad,
        "commit_sha": "eeee1111",
        "last_good_build_id": good,
        "last_good_commit": "bbbb1111",
        "failed_builds": 2,
        "cause": "commit",
        "passed_in_build_id": None,
    }
    assert first_bad(server, good) is None
    again = run(server, job, "ffff3333", PASSES)
    flaky = run(server, job, "ffff3333", FAILS)
    found = first_bad(server, flaky)
    assert found is not None
    assert (found["build_id"], found["last_good_build_id"], found["cause"]) == (flaky, again, "same_commit")
    run(server, job, "aaaa4444", PASSES)
    outage = run(server, job, "aaaa5555", FAILS.replace(b"boom", b"Connection refused"))
    found = first_bad(server, outage)
    assert found is not None
    assert (found["build_id"], found["cause"]) == (outage, "unknown"), "no commit is to blame"


def test_a_commit_with_which_the_test_passed_elsewhere_is_not_blamed(server: Server, job: int) -> None:
    run(server, job, "aaaa6666", PASSES)
    elsewhere = run(server, job, "bbbb6666", PASSES, branch="other")
    bad = run(server, job, "bbbb6666", FAILS)
    found = first_bad(server, bad)
    assert found is not None
    assert (found["build_id"], found["cause"], found["passed_in_build_id"]) == (bad, "same_commit", elsewhere)
    answer = server.admin.when("POST", "/ai/diagnose", json={"build_id": bad}).then(200)
    assert answer["classification"] == "flaky"
    assert f"passed and failed on the same commit in build {elsewhere}, so the commit did not break it" in str(answer)


def test_a_broken_build_is_no_first_bad_build(server: Server, job: int) -> None:
    def report(*failing: str) -> bytes:
        names = ("test_a", *(f"test_{number}" for number in range(5)))
        cases = [
            f'<testcase classname="t" name="{name}">{"<failure/>" * (name in failing)}</testcase>' for name in names
        ]
        return f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()

    def first_bad_of_test_a(build: int) -> dict[str, Any]:
        query = {"build_id": build, "search": "test_a"}
        (result,) = server.admin.get("/api/v3/tests", params=query).json()["results"]
        found: dict[str, Any] = server.admin.get(f"/api/v3/tests/{result['id']}").json()["first_bad"]
        return found

    good = run(server, job, "abba1111", report())
    outage = run(server, job, "abba1111", report("test_a", *(f"test_{number}" for number in range(5))))
    bad = run(server, job, "abba2222", report("test_a"))
    last = run(server, job, "abba3333", report("test_a"))

    assert first_bad_of_test_a(last) == {
        "build_id": bad,
        "commit_sha": "abba2222",
        "last_good_build_id": good,
        "last_good_commit": "abba1111",
        "failed_builds": 2,
        "cause": "commit",
        "passed_in_build_id": None,
    }
    assert first_bad_of_test_a(outage)["build_id"] == outage


def test_a_report_names_each_cause_once(server: Server) -> None:
    job = given_job(server, given_project(server))

    def failing(name: str, message: str) -> str:
        functions = (name, "load_cart", "query", "connect")
        calls = "".join(f'  File "/src/{function}.py", line 3, in {function}\n    x()\n' for function in functions)
        return (
            f'<testcase classname="t" name="{name}"><failure message="{message}">{calls}{message}</failure></testcase>'
        )

    refused = failing("test_a", "ConnectionError: connection refused (db 1)")
    again = failing("test_b", "ConnectionError: connection refused (db two)")
    other = (
        '<testcase classname="t" name="test_c"><failure message="AssertionError: 3 != 4">in test_c</failure></testcase>'
    )
    build = run(server, job, "abcd1234", f'<testsuite name="s">{refused}{again}{other}</testsuite>'.encode())

    causes = server.admin.get(f"/api/v3/report/{build}").json()["causes"]
    assert [(cause["kind"], cause["tests"], cause["message"]) for cause in causes] == [
        ("infrastructure", 2, "ConnectionError: connection refused (db 1)"),
        ("test", 1, "AssertionError: 3 != 4"),
    ]
    assert len(causes[0]["result_ids"]) == len(causes[0]["signatures"]) == 2


def test_tests_that_failed_together_before_have_one_cause(server: Server) -> None:
    job = given_job(server, given_project(server))

    def report(*failing: str) -> bytes:
        cases = "".join(
            f'<testcase classname="t" name="{name}">'
            + (f'<failure message="{name} is wrong"/>' if name in failing else "")
            + "</testcase>"
            for name in ("total", "page", "login", "cart", "search")
        )
        return f'<testsuite name="s">{cases}</testsuite>'.encode()

    outcomes = [(), ("total", "page"), (), (), ("login",), ("total", "page"), *[()] * 5, ("total", "page", "login")]
    builds = [run(server, job, f"{number:08x}", report(*failing)) for number, failing in enumerate(outcomes)]
    server.wait_until_projected()

    causes = server.admin.get(f"/api/v3/report/{builds[-1]}").json()["causes"]
    assert [(cause["tests"], cause["failed_together"]) for cause in causes] == [
        (2, [builds[-1], builds[5], builds[1]]),
        (1, []),
    ]


def test_a_failed_build_shows_what_its_log_says(opened: Server) -> None:
    shop = Shop(opened)
    job = shop.new_job()
    shop.admin.put(
        f"/api/v3/jobs/{job}/configuration",
        json={"command": "x", "setup": [], "env": {}, "artifacts": [], "secrets": {"TOKEN": "hunter2-secret"}},
    ).raise_for_status()
    build = shop.start(job, external=True)
    cause = "main.c:5:5: error: 'hunter2-secret' undeclared"
    text = "\n".join(["starting", *["..."] * 50, cause, *["..."] * 50, "make: *** [main.o] Error 1", ""])
    shop.admin.post(f"/api/v3/builds/{build}/log", json={"offset": 0, "text": text}).raise_for_status()
    assert shop.build(build)["failure_excerpts"] == []
    finish(opened, build, "failed")

    wait(lambda: shop.build(build)["failure_excerpts"] != [])
    best = shop.build(build)["failure_excerpts"][0]
    assert best["lines"][-1] == "main.c:5:5: error: '***' undeclared"
    assert (best["attempt"], best["first_line"], best["last_line"]) == (1, 50, 52)
    assert best["reasons"] == ["source_error"]
    assert 0 < best["score"] <= 1
