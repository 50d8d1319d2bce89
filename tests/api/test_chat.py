"""Conversations with the assistant over HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.server import Server

AT = "/api/v3/ai/chat"
SECRET = "planted-in-the-other-project"


@dataclass
class Project:
    id: int
    job: int
    job_name: str
    build: int
    result: int


def given_failed_build(server: Server, name: str, message: str) -> Project:
    project = given_project(server)
    job = given_job(server, project, name=name)
    build = given_build(server, job, branch="main", commit_sha="c1" * 20)
    report = f'<testsuite name="s"><testcase classname="t" name="pay"><failure message="{message}"/></testcase>'
    report += '<testcase classname="t" name="cart"/></testsuite>'
    upload(server.admin, build, report.encode()).then(201)
    finish(server, build, "failed")
    server.wait_until_projected()
    results = server.admin.fetch("/tests", build_id=build)["results"]
    failed = next(result["id"] for result in results if result["status"] == "failed")
    return Project(project, job, name, build, failed)


@pytest.fixture(name="web", scope="module")
def _web(opened: Server) -> Project:
    return given_failed_build(opened, "Nightly of the web shop", "AssertionError: expected 3 but was 4")


@pytest.fixture(name="other", scope="module")
def _other(opened: Server) -> Project:
    return given_failed_build(opened, "Nightly of the web backend", SECRET)


@pytest.fixture(name="member", scope="module")
def _member(opened: Server, web: Project) -> Client:
    """A viewer who can read one project only."""
    return opened.make_user("viewer", {web.id: "read"})


def ask(client: Client, message: str, **more: Any) -> dict[str, Any]:
    reply: dict[str, Any] = client.post(AT, json={"message": message, **more}).then(200)
    return reply


def follow(client: Client, message: str, **more: Any) -> list[str]:
    answer = client.post(f"{AT}/stream", json={"message": message, **more}, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    lines = [line for line in answer.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def test_a_question_about_a_build(member: Client, web: Project) -> None:
    reply = ask(member, "Why did this build fail?", build_id=web.build)
    assert reply["session_id"].startswith("sess-")
    assert f"build:{web.build}" in reply["sources"]
    assert "expected 3 but was 4" in reply["reply"]
    assert reply["reply"] == " ".join(claim["text"] for claim in reply["claims"])
    assert (reply["provider"], reply["fell_back"]) == ("builtin", "")


def test_a_question_about_a_test(member: Client, web: Project) -> None:
    reply = ask(member, "Why did it fail?", test_id=web.result)
    assert f"test:{web.result}" in reply["sources"]


def test_every_failed_test_that_a_message_names_is_looked_at(opened: Server) -> None:
    project = given_project(opened)
    job = given_job(opened, project)
    messages = {"first": "assert 1 == 2", "second": "assert 3 == 4", "alpha": "alpha", "beta": "beta", "gamma": "gamma"}
    quarantine = {"job_id": job, "action": "add", "node_ids": ["t.test_gamma"], "reason": "flaky"}
    builds = []
    for commit, has_failed in (("a1" * 20, False), ("b2" * 20, True)):
        build = given_build(opened, job, branch="main", commit_sha=commit)
        cases = [
            f'<testcase classname="t" name="test_{name}"><failure message="{message}"/></testcase>'
            if has_failed
            else f'<testcase classname="t" name="test_{name}"/>'
            for name, message in messages.items()
        ]
        upload(opened.admin, build, f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()).then(201)
        finish(opened, build, "failed" if has_failed else "passed")
        opened.wait_until_projected()
        builds.append(build)
        opened.admin.post("/api/v3/quarantine/bulk", json=quarantine).then(200)
    good, bad = builds
    for name in messages:
        reply = ask(opened.admin, f"Since when does test_{name} fail?", build_id=bad)
        assert f"test_{name} last passed in build {good} and first failed in build {bad}" in reply["reply"]
    listed = ask(opened.admin, "Which tests failed?", build_id=bad)["reply"]
    assert "test_gamma" not in listed
    assert "1 quarantined did not count. 1 failure of the build is not listed here." in listed


def test_a_message_may_name_what_it_is_about(opened: Server, web: Project, other: Project) -> None:
    by_number = ask(opened.admin, f"why is build {web.build} red?")
    by_job = ask(opened.admin, f"Why is the {web.job_name.lower()} red?")
    assert f"build:{web.build}" in by_number["sources"]
    assert f"build:{web.build}" in by_job["sources"]
    part_of_a_word = ask(opened.admin, f"Why is the {web.job_name.lower()}per red?")
    assert part_of_a_word["sources"] == []
    unclear = ask(opened.admin, "why?")
    assert (unclear["sources"], "build_id" in unclear["reply"]) == ([], True)


def test_the_numbers_of_builds_in_a_message(opened: Server, web: Project, other: Project) -> None:
    """The first number of a build that exists counts, if it is among the first fifty."""
    unknown = " ".join(f"#{2**40 + number}" for number in range(49))
    for message, build in (
        (f"Why did build\n   {other.build} fail, and build {web.build}?", other.build),
        (f"{unknown} #{web.build}?", web.build),
        (f"#{2**40} {unknown} #{web.build}?", web.build),
    ):
        assert f"build:{build}" in ask(opened.admin, message)["sources"], message
    assert ask(opened.admin, f"{unknown} #{2**41} #{web.build}?")["sources"] == []


def test_nobody_has_named_a_build(opened: Server) -> None:
    red = given_failed_build(opened, "Weekly", "expected 5 but was 6")
    member = opened.make_user("viewer", {red.id: "read"})
    reply = ask(member, "Why is it red?")
    about = f"This is about build {red.build} of job Weekly on branch main"
    assert reply["reply"].startswith(f"{about}, the newest build that has ended.")
    assert "expected 5 but was 6" in reply["reply"]
    green = given_build(opened, given_job(opened, red.id, name="Lint"))
    finish(opened, green)
    opened.wait_until_projected()
    newest = ask(member, "Why is it red?")
    assert newest["reply"].startswith(
        f"1 of 2 jobs is red by the newest build of each: job {red.job} (build {red.build},"
    )
    assert f"{about}, the newest one of a red job." in newest["reply"]
    again = ask(member, "And why is the lint red?", session_id=newest["session_id"])
    assert again["reply"].startswith(f"This is about build {green} of job Lint")
    assert f"project:{red.id}" in ask(member, "Which tests are flaky?")["sources"]


def test_a_named_test_is_looked_up_where_it_failed_last(opened: Server) -> None:
    project = given_project(opened)
    job = given_job(opened, project, name="Hourly")
    builds: list[int] = []
    member = opened.make_user("viewer", {project: "read"})
    for message in ("worker 2 finished first", ""):
        build = given_build(opened, job, branch="main", commit_sha=f"{len(builds) + 1}a" * 20)
        failure = f'<failure message="{message}"/>' if message else ""
        report = f'<testsuite name="s"><testcase classname="t" name="test_race">{failure}</testcase>'
        report += '<testcase classname="t" name="test_race_of_two"><failure message="other"/></testcase></testsuite>'
        upload(opened.admin, build, report.encode()).then(201)
        finish(opened, build, "failed")
        opened.wait_until_projected()
        builds.append(build)
    reply = ask(member, "Is test_race flaky?")
    state = f"t.test_race passes now. It failed last in build {builds[0]}. 1 run since then passed."
    about = f"This is about build {builds[0]} of job Hourly on branch main, the newest in which this test failed."
    assert f"{state} {about}" in reply["reply"]
    assert "test_race_of_two" not in reply["reply"]
    assert "test_race failed in 1 of its 2 runs" in reply["reply"]
    other = ask(member, "Why does test_race_of_two fail in the hourly?")
    assert f"build:{builds[1]}" in other["sources"]
    unknown = ask(member, "Is test_unknown flaky?")
    assert "Nothing is known here about test_unknown" in unknown["reply"]


def test_an_answer_is_about_what_was_asked(opened: Server, web: Project, other: Project) -> None:
    project = given_project(opened)
    member = opened.make_user("viewer", {project: "read"})
    builds = []
    for job, test in (("Tests", "test_only_here"), ("Vault", "test_of_both")):
        build = given_build(opened, given_job(opened, project, name=job), branch="main", commit_sha="d4" * 20)
        report = f'<testsuite name="s"><testcase classname="t" name="{test}"><failure message="no"/></testcase>'
        upload(opened.admin, build, f"{report}</testsuite>".encode()).then(201)
        finish(opened, build, "failed")
        opened.wait_until_projected()
        builds.append(build)
    tests, vault = builds
    by_test = ask(opened.admin, "Why did test_only_here fail?")
    assert f"build:{tests}" in by_test["sources"]
    again = ask(member, "Which tests failed?", session_id=ask(member, "Why?", build_id=vault)["session_id"])
    assert "test_of_both" in again["reply"]
    for message, missing in (
        (f"Why did build {2**40} fail in job Tests?", f"No build {2**40} was found that you can read."),
        (f"Why did build {other.build} fail?", f"No build {other.build} was found that you can read."),
        (f"Why did job {other.job_name.split()[0]} fail?", "No job Nightly was found that you can read."),
        ("Why is Vualt red?", "No job Vualt was found that you can read; there is a job Vault."),
        ("Why is the feature branch of the Tests job red?", "No branch feature of job Tests was found"),
    ):
        reply = ask(member, message)
        newest = tests if "Tests" in message else vault
        assert reply["reply"].startswith(missing), message
        assert (reply["sources"], reply["next_step"]) == ([f"build:{newest}"], None)
    misspelt = ask(opened.admin, "Why is Vualt red?", session_id=by_test["session_id"])
    assert misspelt["reply"].startswith("No job Vualt was found")
    assert ask(opened.admin, f"Why did build {2**40} fail?")["reply"].startswith(f"No build {2**40} was found")


def test_a_conversation_goes_on(member: Client, web: Project) -> None:
    first = ask(member, "Why did this build fail?", build_id=web.build)
    second = ask(member, "Which tests failed?", session_id=first["session_id"])
    assert second["session_id"] == first["session_id"]
    assert f"build:{web.build}" in second["sources"]


def test_nobody_reads_of_other_projects(member: Client, opened: Server, web: Project, other: Project) -> None:
    assert SECRET in ask(opened.admin, "Why?", build_id=other.build)["reply"]
    for message in (f"Why did build {other.build} fail?", f"What is wrong with {other.job_name}?", SECRET):
        reply = ask(member, message)
        assert SECRET not in reply["reply"]
        assert f"build:{other.build}" not in reply["sources"]


def test_what_the_caller_cannot_see_is_refused(member: Client, opened: Server, web: Project, other: Project) -> None:
    session = ask(opened.admin, "Why?", build_id=web.build)["session_id"]
    for more in (
        {"build_id": other.build},
        {"build_id": 2**50},
        {"test_id": other.result},
        {"test_id": web.result, "build_id": other.build},
        {"session_id": session},
        {"session_id": "sess-0"},
    ):
        for path in (AT, f"{AT}/stream"):
            assert member.post(path, json={"message": "Why?", **more}).status_code == 404, more
    for message in ("", "   ", "x" * 4_001):
        assert member.post(AT, json={"message": message}).status_code == 422


def test_the_stream_has_the_words_of_the_reply(member: Client, web: Project) -> None:
    *messages, done = follow(member, "Summarize this build", build_id=web.build)
    assert done == "[DONE]"
    *tokens, last = map(json.loads, messages)
    assert all(list(token) == ["token"] for token in tokens)
    assert (last["token"], f"build:{web.build}" in last["sources"]) == ("", True)
    again = ask(member, "Summarize this build", session_id=last["session_id"])
    assert "".join(token["token"] for token in tokens) == again["reply"]


def test_a_deleted_build_takes_its_questions_with_it(opened: Server) -> None:
    project = given_failed_build(opened, "Short-lived", "gone soon")
    session = ask(opened.admin, "Why?", build_id=project.build)["session_id"]
    opened.admin.delete(f"/api/v3/builds/{project.build}").then(204)
    assert opened.admin.post(AT, json={"message": "And now?", "session_id": session}).status_code == 404


def test_a_lost_membership_ends_the_conversation_about_the_project(opened: Server, web: Project) -> None:
    asker = opened.make_user("developer", {web.id: "write"})
    user_id = asker.get("/api/v3/me").then(200)["id"]
    session = ask(asker, "Why?", build_id=web.build)["session_id"]
    opened.admin.delete(f"/api/v3/projects/{web.id}/members/{user_id}")
    opened.wait_until_projected()
    reply = ask(asker, "Which tests failed?", session_id=session)
    assert (reply["sources"], "expected 3" in reply["reply"]) == ([], False)


@pytest.mark.parametrize("path", [AT, f"{AT}/stream"])
def test_a_stored_answer_is_not_sent_again_to_who_has_lost_access(opened: Server, web: Project, path: str) -> None:
    """The message names the project, so the question itself needs no access."""
    asker = opened.make_user("developer", {web.id: "write"})
    user_id = asker.get("/api/v3/me").then(200)["id"]
    body = {"message": f"Why did build {web.build} fail?"}
    headers = {"Idempotency-Key": f"why-{path}"}
    answers = [asker.post(path, json=body, headers=headers) for _ in range(2)]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]
    assert answers[0].text == answers[1].text
    opened.admin.delete(f"/api/v3/projects/{web.id}/members/{user_id}")
    opened.wait_until_projected()
    answer = asker.post(path, json=body, headers=headers)
    assert (answer.status_code, "expected 3" in answer.text) == (404, False)


def test_the_audit_trail_has_the_question_and_the_answer(opened: Server, web: Project, member: Client) -> None:
    ask(member, "Who broke the payment?", build_id=web.build)
    events = opened.admin.get("/api/v3/audit/events", params={"project_id": web.id, "limit": 20}).then(200)
    text = json.dumps(events, ensure_ascii=False)
    assert f"asked the assistant about build {web.build}: “Who broke the payment?”" in text
    assert "answered inquiry chat-" in text


def test_many_questions_at_once(opened: Server, member: Client, web: Project) -> None:
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda _: ask(member, "Why?", build_id=web.build), range(40)))
    assert len({reply["session_id"] for reply in replies}) == 40
    assert len({reply["reply"] for reply in replies}) == 1


def test_questions_are_answered_after_redis_has_lost_its_data(opened: Server, member: Client, web: Project) -> None:
    with redis.Redis.from_url(opened.settings.redis_url) as connection:
        connection.flushall()
    assert f"build:{web.build}" in ask(member, "Why?", build_id=web.build)["sources"]


def test_an_answer_that_takes_long_is_read_later(server: Server) -> None:
    """Without a worker, nobody answers: the question is shown as queued, to its owner only."""
    project = given_failed_build(server, "Unanswered", "why")
    member = server.make_user("developer", {project.id: "write"})
    body = {"message": "Why?", "build_id": project.build}
    with pytest.raises(Exception, match="timed out"):
        server.admin.post(AT, json=body, timeout=2)
    server.wait_until_projected()
    events = server.admin.get("/api/v3/audit/events", params={"project_id": project.id, "limit": 20}).then(200)
    stream = next(event["stream"] for event in events if event["type"] == "inquiry.asked")
    path = f"{AT}/{stream.removeprefix('inquiry-')}"
    assert server.admin.get(path).then(200).items() >= {"status": "queued", "reply": "", "error": ""}.items()
    assert member.get(path).status_code == 404
