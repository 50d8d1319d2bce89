"""Questions to the assistant that wait for a worker: what becomes of them if their caller loses access, and how many
one caller may have.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import islice

import pytest
import requests

from api import diagnoses
from api.http import repeated_checks
from commands.handler import Command, CommandContext
from commands.inquiries import AnswerInquiry, AskInquiry
from domain.assistant.answers import Answer, AnswerClaim
from tests.support.builders import finish, given_build, given_job, given_project
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import Server

TIMEOUT_S = 15.0
MODEL: dict[str, str] = {"ai_provider": "openai", "ai_url": "http://127.0.0.1:9/v1", "ai_model": "m", "ai_key": "k"}
SECRET = "what only members may read"


@pytest.fixture(scope="module")
def inside(server: Server) -> Iterator[InProcessServer]:
    """A server with a model. No worker asks it, so that tests answer in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated_checks, "RECHECK_AFTER_S", 0.0)
        with serve_in_process(server, **MODEL) as began:
            yield began


def execute(inside: InProcessServer, command: Command) -> None:
    handled = inside.services.handler.execute(command, CommandContext("system:tests"))
    asyncio.run_coroutine_threadsafe(handled, inside.loop).result(TIMEOUT_S)


def given_failed_build(server: Server) -> tuple[int, int, int]:
    project = given_project(server)
    job = given_job(server, project)
    build = given_build(server, job)
    finish(server, build, "failed")
    server.wait_until_projected()
    return project, job, build


def find_question(server: Server, project: int) -> str:
    """Waits until the trail shows a question about the project, and returns its id."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for event in server.admin.fetch("/audit/events", project_id=project, limit=10):
            if event["type"] == "inquiry.asked":
                return str(event["stream"]).removeprefix("inquiry-")
        time.sleep(0.05)  # between two looks
    raise AssertionError("nothing was asked")


@pytest.mark.parametrize(
    ("path", "fields"), [("/ai/chat", {"message": "Why?"}), ("/ai/diagnose", {})], ids=["chat", "diagnosis"]
)
@pytest.mark.parametrize("loss", ["membership", "user"])
def test_who_loses_access_while_waiting_gets_no_answer(
    server: Server, inside: InProcessServer, path: str, fields: dict[str, str], loss: str
) -> None:
    project, _, build = given_failed_build(server)
    user = server.make_user("viewer", {project: "read"})
    number = user.fetch("/me")["id"]
    with ThreadPoolExecutor() as threads:
        url, body = f"{inside.url}/api/v3{path}", {"build_id": build, **fields}
        request = threads.submit(requests.post, url, headers=dict(user.headers), json=body, timeout=TIMEOUT_S)
        question = find_question(server, project)
        lost = f"/projects/{project}/members/{number}" if loss == "membership" else f"/users/{number}"
        server.admin.when("DELETE", lost).then(204)
        server.wait_until_projected()
        execute(inside, AnswerInquiry(question, Answer((AnswerClaim(SECRET),)), provider="openai", model="m"))
        answer = request.result()
    assert (answer.status_code, SECRET in answer.text) == (404 if loss == "membership" else 401, False)


@pytest.mark.parametrize("path", ["/ai/chat", "/ai/chat/stream", "/ai/diagnose"])
def test_a_question_ends_when_its_build_is_deleted(server: Server, inside: InProcessServer, path: str) -> None:
    project, _, build = given_failed_build(server)
    url, body = f"{inside.url}/api/v3{path}", {"build_id": build} | ({} if "diag" in path else {"message": "Why?"})
    with ThreadPoolExecutor() as threads:
        request = threads.submit(requests.post, url, headers=dict(server.admin.headers), json=body, timeout=TIMEOUT_S)
        find_question(server, project)
        server.admin.when("DELETE", f"/builds/{build}").then(204)
        answer = request.result()
    assert answer.status_code == (200 if "stream" in path else 404)
    assert "What the question was about has been deleted." in answer.text


@pytest.mark.parametrize("path", ["/ai/summary/{build}", "/ai/insights?project_id={project}"])
def test_who_loses_access_while_waiting_for_a_turn_reads_nothing(
    server: Server, inside: InProcessServer, path: str
) -> None:
    project, _, build = given_failed_build(server)
    user = server.make_user("viewer", {project: "read"})
    number, turns = user.fetch("/me")["id"], inside.services.analysis_turns
    held: Future[asyncio.Event] = Future()

    async def hold() -> None:
        async with turns.take(f"user:{number}"):
            held.set_result(asyncio.Event())
            await held.result().wait()

    with ThreadPoolExecutor() as threads:
        holding = asyncio.run_coroutine_threadsafe(hold(), inside.loop)
        release = held.result(TIMEOUT_S)
        url = f"{inside.url}/api/v3{path.format(build=build, project=project)}"
        request = threads.submit(requests.get, url, headers=dict(user.headers), timeout=TIMEOUT_S)
        deadline = time.monotonic() + TIMEOUT_S
        while inside.call(lambda: len(turns)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # between two looks
        server.admin.when("DELETE", f"/projects/{project}/members/{number}").then(204)
        server.wait_until_projected()
        inside.call(release.set)
        holding.result(TIMEOUT_S)
        assert request.result().status_code == 404


def test_a_user_has_a_limit_of_unanswered_questions(server: Server, inside: InProcessServer) -> None:
    """With a model, it is low enough that nobody takes most of the slots of a worker."""
    project, job, build = given_failed_build(server)
    user = server.make_user("viewer", {project: "read"})
    number = user.fetch("/me")["id"]
    for open_question in range(5):
        execute(inside, AskInquiry(f"diag-{open_question}", "diagnosis", number, project, job, build))
    server.wait_until_projected()
    for path, body in (
        ("/ai/diagnose", {"build_id": build}),
        ("/ai/chat", {"message": "Why?", "build_id": build}),
        ("/ai/chat/stream", {"message": "Why?", "build_id": build}),
    ):
        url = f"{inside.url}/api/v3{path}"
        answer = requests.post(url, headers=dict(user.headers), json=body, timeout=TIMEOUT_S)
        assert (answer.status_code, "Retry-After" in answer.headers) == (429, True), path


def test_all_users_together_have_a_limit_of_unanswered_questions(
    server: Server, inside: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, job, build = given_failed_build(server)
    asking, waiting = (server.make_user("viewer", {project: "read"}) for _ in range(2))
    for number in range(2):
        execute(inside, AskInquiry(f"chat-{number}", "chat", asking.fetch("/me")["id"], project, job, build))
    server.wait_until_projected()
    monkeypatch.setattr(diagnoses, "MAX_OPEN_IN_ALL", 2)
    url, body = f"{inside.url}/api/v3/ai/chat", {"message": "Why?", "build_id": build}
    answer = requests.post(url, headers=dict(waiting.headers), json=body, timeout=TIMEOUT_S)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert "2 questions wait for an answer" in answer.json()["detail"]


def test_the_limit_holds_for_questions_at_the_same_moment(server: Server, inside: InProcessServer) -> None:
    project, _, build = given_failed_build(server)
    user = server.make_user("viewer", {project: "read"})
    url, body = f"{inside.url}/api/v3/ai/diagnose", {"build_id": build}

    def ask(number: int) -> int:
        different = body | {"max_tests": number + 1}
        return requests.post(url, headers=dict(user.headers), json=different, timeout=TIMEOUT_S).status_code

    with ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(ask, number) for number in range(20)]
        find_question(server, project)
        for request in islice(as_completed(asked, TIMEOUT_S), 15):
            assert request.result() == 429
        events = server.admin.fetch("/audit/events", project_id=project, type="inquiry.asked")
        assert len(events) == 5
        for event in events:
            execute(inside, AnswerInquiry(str(event["stream"]).removeprefix("inquiry-"), Answer()))
        assert sorted(request.result() for request in asked) == [200] * 5 + [429] * 15
