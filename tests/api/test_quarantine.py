"""Quarantine over HTTP, and what it means for builds."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.builders import Shop, given_build, upload
from tests.support.server import Server

A, B, C = (f"t/test_x.py::test_{name}" for name in "abc")
REPORT = b"""<testsuite name="s">
<testcase classname="t.test_x" name="test_a"><failure message="boom">trace</failure></testcase>
<testcase classname="t.test_x" name="test_b"/>
</testsuite>"""


def add(client: Any, job: int, node_id: str = A, **more: Any) -> Any:
    return client.post("/api/v3/quarantine", json={"job_id": job, "node_id": node_id, "reason": "flaky", **more})


def bulk(client: Any, job: int, action: str, *node_ids: str, **more: Any) -> Any:
    body = {"job_id": job, "action": action, "node_ids": node_ids, **more}
    return client.post("/api/v3/quarantine/bulk", json=body)


def asked(server: Server, job: int, what: str = "", **more: Any) -> Any:
    answer = server.admin.get(f"/api/v3/quarantine{what}", params={"job_id": job, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_add_and_list(server: Server, job: int) -> None:
    answer = add(server.admin, job, owner="ann")
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made.items() >= {"node_id": A, "reason": "flaky", "owner": "ann", "expires_at": None}.items()
    (listed,) = asked(server, job)
    assert made.pop("is_unknown") is False
    assert listed.items() >= made.items()
    assert add(server.admin, job).status_code == 409
    second = add(server.admin, job, B, reason="wip").json()["id"]
    assert [item["id"] for item in asked(server, job, after=made["id"])] == [second]
    assert asked(server, job, "/nodeids") == {"node_ids": [A, B]}


def test_bulk(server: Server, job: int) -> None:
    add(server.admin, job)
    assert bulk(server.admin, job, "add", A, B, C, B).json() == {"added": 2, "skipped": 2, "unknown": []}
    assert bulk(server.admin, job, "add", C, "d", reason="infra").json() == {"added": 1, "skipped": 1, "unknown": []}
    assert [(item["node_id"], item["reason"]) for item in asked(server, job)] == [
        (A, "flaky"),
        (B, "flaky"),
        (C, "flaky"),
        ("d", "infra"),
    ]
    answer = bulk(server.admin, job, "remove", A, "x", A)
    assert (answer.status_code, answer.json()) == (200, {"removed": 1, "skipped": 2})
    refused = bulk(server.admin, job, "remove", B, owner="ada")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "owner")
    assert bulk(server.admin, job, "remove").json() == {"removed": 0, "skipped": 0}
    assert bulk(server.admin, job, "add").json() == {"added": 0, "skipped": 0, "unknown": []}
    assert asked(server, job, "/nodeids") == {"node_ids": [B, C, "d"]}


def test_many_at_once(server: Server, job: int) -> None:
    many = [f"t/test_many.py::test_{number}" for number in range(10_000)]
    assert bulk(server.admin, job, "add", *many).json() == {"added": 10_000, "skipped": 0, "unknown": []}
    assert asked(server, job, "/nodeids")["node_ids"] == many
    assert len(asked(server, job)) == 10_000
    assert bulk(server.admin, job, "add", *many, "one more").status_code == 422
    assert bulk(server.admin, job, "remove", *many).json() == {"removed": 10_000, "skipped": 0}


def test_tests_that_the_project_never_had_are_named(server: Server, job: int) -> None:
    assert not add(server.admin, job, "t/test_x.py::test_typo").json()["is_unknown"], "there is nothing to compare with"
    upload(server.admin, given_build(server, job), REPORT.replace(b"test_b", b"test_b[1::[2]")).then(201)
    assert add(server.admin, job, "t/test_x.py::test_tyop").json()["is_unknown"]
    assert not add(server.admin, job, A).json()["is_unknown"]
    known, wrong = ["t/test_x.py", B, f"{B}[1", f"{B}[1::[2]"], ["t/test_x", "t/test_x.py::test_", f"{B}[1:", C]
    assert bulk(server.admin, job, "add", A, *known, *wrong).json() == {"added": 8, "skipped": 1, "unknown": wrong}


def test_stats(server: Server, job: int) -> None:
    nothing = {"total": 0, "by_reason": {"flaky": 0, "infra": 0, "wip": 0}, "oldest_days": 0}
    assert asked(server, job, "/stats").items() >= nothing.items()
    bulk(server.admin, job, "add", A, B)
    add(server.admin, job, C, reason="wip")
    found = asked(server, job, "/stats")
    assert (found["total"], found["by_reason"]) == (3, {"flaky": 2, "infra": 0, "wip": 1})
    assert (found["oldest_days"], found["age_days"]) == (0, {"0-6": 3, "7-29": 0, "30-89": 0, "90+": 0})


def test_delete(server: Server, job: int) -> None:
    entry = add(server.admin, job).json()["id"]
    assert server.admin.delete(f"/api/v3/quarantine/{entry}").status_code == 204
    assert server.admin.delete(f"/api/v3/quarantine/{entry}").status_code == 404
    assert asked(server, job) == []
    assert add(server.admin, job).status_code == 201


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "other"},
        {"reason": None},
        {"node_id": ""},
        {"node_id": " "},
        {"node_id": "a\nb"},
        {"node_id": "x" * 4_097},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2099-01-01T00:00:00"},
        {"owner": ""},
    ],
)
def test_fields_are_checked(server: Server, job: int, changes: dict[str, Any]) -> None:
    answer = server.admin.post("/api/v3/quarantine", json={"job_id": job, "node_id": A, "reason": "flaky", **changes})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == next(iter(changes))


@pytest.mark.parametrize("what", ["", "/stats", "/nodeids"])
def test_jobs_that_are_not_there(server: Server, job: int, what: str) -> None:
    stranger = server.make_user("developer", {})
    for client, wanted in ((server.admin, 2**52), (stranger, job)):
        assert client.get(f"/api/v3/quarantine{what}", params={"job_id": wanted}).status_code == 404
    assert server.admin.get(f"/api/v3/quarantine{what}").status_code == 422


def test_readers_change_nothing(server: Server, project: int, job: int) -> None:
    reader, entry = server.make_user("developer", {project: "read"}), add(server.admin, job).json()["id"]
    assert add(reader, job, B).status_code == 403
    assert bulk(reader, job, "remove", A).status_code == 403
    assert reader.delete(f"/api/v3/quarantine/{entry}").status_code == 403
    assert server.make_user("developer", {}).delete(f"/api/v3/quarantine/{entry}").status_code == 404


def finished(server: Server, build: int, status: str = "passed") -> dict[str, Any]:
    answer = server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": status})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = server.admin.get(f"/api/v3/builds/{build}").json()
    return found


def test_quarantined_failures_do_not_fail_a_build(server: Server, job: int) -> None:
    add(server.admin, job, "t/test_x.py")
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    done = finished(server, build)
    assert (done["status"], done["reason"], done["detail"]) == ("passed", None, "1 quarantined failure was ignored.")
    assert (done["failed"], done["quarantined"], done["known_issues"]) == (1, 1, 0)
    report = server.admin.get(f"/api/v3/report/{build}").json()
    assert (report["failed"], report["quarantined"], report["known_issues"]) == (1, 1, 0)
    (listed,) = server.admin.get("/api/v3/builds", params={"job_id": job}).json()["results"]
    assert (listed["status"], listed["failed_tests"]) == ("passed", 1)
    bulk(server.admin, job, "remove", "t/test_x.py")
    assert rows(server, build) == [(True, False), (False, False)]


def test_a_later_quarantine_changes_no_verdict(server: Server, job: int) -> None:
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    add(server.admin, job)
    assert (finished(server, build)["status"], rows(server, build)) == ("failed", [(False, True), (False, False)])
    assert server.admin.get(f"/api/v3/report/{build}").json()["quarantined"] == 0


def test_an_expired_entry_does_not_count(server: Server, job: int) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    add(server.admin, job, expires_at=soon.isoformat())
    while datetime.now(UTC) < soon:
        server.admin.get("/api/v3/me")
    (listed,) = asked(server, job)
    assert (listed["status"], datetime.fromisoformat(listed["status_since"])) == ("expired", soon)
    assert asked(server, job, "/nodeids") == {"node_ids": []}
    stats = asked(server, job, "/stats")
    assert (stats["total"], stats["by_status"]) == (0, {"active": 0, "healthy": 0, "expired": 1})
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    assert finished(server, build)["status"] == "failed"
    assert add(server.admin, job).status_code == 201
    assert len(asked(server, job)) == 1


def rows(server: Server, build: int) -> list[tuple[bool, bool]]:
    found = server.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"]
    return [(row["quarantined"], row["quarantined_now"]) for row in found]


@pytest.mark.parametrize("mode", ["run", "skip"])
def test_agents_learn_which_tests_to_skip_or_whose_failures_to_ignore(server: Server, mode: str) -> None:
    shop = Shop(server)
    job = shop.new_job(quarantine_mode=mode)
    agent = shop.new_agent()
    build_id = shop.start(job)
    bulk(server.admin, job, "add", A, B)
    build = agent.run()
    lists = ([A, B], None) if mode == "skip" else (None, [A, B])
    assert (build["id"], build["quarantine"], build["ignore_failures_of"]) == (build_id, *lists)
    agent.started(build).raise_for_status()
    agent.report(build, REPORT).raise_for_status()
    agent.finished(build, exit_code=1).raise_for_status()
    done = shop.build(build_id)
    assert (done["status"], done["detail"]) == ("passed", "1 quarantined failure was ignored.")


@pytest.mark.parametrize("field", ["env", "secrets"])
def test_a_job_cannot_replace_what_the_agent_says_about_its_tests(server: Server, job: int, field: str) -> None:
    variables = {"TESTHIDE_TEST_IDS_FILE": "/dev/null"}
    configuration = {"command": "make test", "setup": [], "artifacts": [], "env": {}} | {field: variables}
    refused = server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == f"{field}.TESTHIDE_TEST_IDS_FILE"


@pytest.mark.parametrize(("codes", "status"), [("0,any", 422), ("1,256", 422), ("1, 255", 200), ("", 200)])
def test_a_list_of_exit_codes_is_checked_wherever_it_is_given(
    server: Server, job: int, codes: str, status: int
) -> None:
    env = {"TESTHIDE_TEST_FAILURE_EXIT_CODES": codes}
    configuration = {"command": "make test", "setup": [], "artifacts": [], "env": env}
    configured = server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration)
    started = server.admin.post("/api/v3/builds/start", json={"job_id": job, "env": env})
    assert (configured.status_code, started.status_code) == (status, 201 if status == 200 else status)
    for refused in [answer for answer in (configured, started) if answer.status_code == 422]:
        (error,) = refused.json()["errors"]
        assert error["field"] == "env.TESTHIDE_TEST_FAILURE_EXIT_CODES"
        assert "such as 1,2" in error["message"]
