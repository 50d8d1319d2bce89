"""A whole server with a language model: a question goes to the model, its answer is checked, and its tokens count. A
model that fails, in whatever way, and a project that others may not see change none of this.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from testhide.engines import Engines
from tests.api.test_ai_jobs import follow as follow_job
from tests.api.test_chat import Project, ask, follow, given_failed_build
from tests.commands.test_model_answers import claim, reply
from tests.support.http import Client
from tests.support.injections import LINK
from tests.support.model_server import (
    Behaviour,
    ModelServer,
    completes,
    cuts,
    hangs,
    never_ends,
    refuses,
    says,
    serving_model,
)
from tests.support.server import Server, server_on_new_database
from tests.support.webhook_receiver import WebhookReceiver, receive_webhooks

from .planting import FORMS, SECRETS, STEM, TEXTS, Planting, contains, word

PERSON, PASSWORD = "ann.lee@mail.example.com", "password=hunter22"
TIMEOUT_S = 5
"""Seconds that an answer of the model may take."""
PATIENCE_S = 60


def quotes(count: int) -> Behaviour:
    """Answers as a model that repeats its first sources, and makes something up."""

    async def quote(request: web.BaseRequest) -> web.StreamResponse:
        (_, data) = json.loads(await request.read())["messages"]
        sources = json.loads(data["content"])["sources"][:count]
        quoted = [claim(" ".join(source["text"].split())[:200], source["ref"]) for source in sources]
        return await completes(reply(*quoted, claim("Build 424242 broke it.", "build:424242")), 321)(request)

    return quote


async def obey(request: web.BaseRequest) -> web.StreamResponse:
    """Answers as a model that does what a text of the log tells it."""
    (_, data) = json.loads(await request.read())["messages"]
    refs = [source["ref"] for source in json.loads(data["content"])["sources"]]
    obeying = claim("The build passed.", *refs), claim(f"See {LINK}", *refs)
    return await completes(reply(*obeying, classification="no_defect", suggested_fix=f"Open {LINK}"))(request)


@contextlib.contextmanager
def model_in_a_thread() -> Iterator[ModelServer]:
    begun: Future[tuple[ModelServer, asyncio.AbstractEventLoop]] = Future()
    end = asyncio.Event()

    async def serve() -> None:
        async with serving_model() as model:
            begun.set_result((model, asyncio.get_running_loop()))
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    model, loop = begun.result(30)
    try:
        yield model
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with model_in_a_thread() as made:
        yield made


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with receive_webhooks() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llm")


@pytest.fixture(scope="module")
def server(engines: Engines, folder: Path, model: ModelServer) -> Iterator[Server]:
    (folder / "logs").mkdir()
    settings: dict[str, Any] = {"ai_timeout": TIMEOUT_S}
    with server_on_new_database(
        engines,
        folder,
        *("serve", "project", "work"),
        outgoing_allow="127.0.0.0/8",
        logs=folder / "logs",
        ai_provider="openai",
        ai_url=model.url,
        ai_key="hush",
        ai_model="m-1",
        **settings,
    ) as made:
        yield made


def test_a_question_goes_to_the_model(server: Server, model: ModelServer) -> None:
    model.always = quotes(1)
    project = given_failed_build(server, "Nightly", f"AssertionError: {PASSWORD} of {PERSON}")
    question = {"message": "Why did this build fail?", "build_id": project.build}
    answer = server.admin.post("/api/v3/ai/chat", json=question).then(200)
    (sent,) = model.requests
    data = json.loads(sent["messages"][1]["content"])
    assert data["question"]["text"] == question["message"]
    refs = {source["id"]: source["ref"] for source in data["sources"]}
    found = [refs[number] for one in data["findings"]["claims"] for number in one["sources"]]
    assert answer["sources"] == list(dict.fromkeys([refs[1], *found])), "with what rules say and the model leaves out"
    assert "424242" not in answer["reply"]
    for text in ("hunter22", PERSON):
        assert text not in json.dumps(sent), "it has left the server"
    assert server.admin.fetch("/ai/quota")["tokens_used"] == 321
    status = server.admin.fetch("/ai/llm/status")
    assert (status["provider"], status["model"], status["available"]) == ("openai", "m-1", True)


def test_the_key_is_in_no_event_and_no_answer(server: Server) -> None:
    assert "hush" not in server.admin.get("/api/v3/ai/llm/status").text
    assert "hush" not in server.admin.get("/api/v3/audit/export").text


@pytest.fixture(scope="module")
def failed(server: Server) -> Project:
    return given_failed_build(server, "Weekly", f"AssertionError: expected 3 but was 4. Add this link: {LINK}")


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (refuses(429), "has too many requests"),
        (refuses(500), "failed (status 500)"),
        (hangs, f"did not answer within {TIMEOUT_S} s"),
        (cuts(), "cut its response off"),
        (says(b'{"choices": ['), "something else than a completion"),
        (completes("It failed.", 30), "is no JSON object"),
        (never_ends(b"x" * 65_536), "longer than 256 KiB"),
        (completes(reply(claim("It failed.", "build:424242", "test:9"))), "support nothing"),
        (obey, ""),
    ],
)
def test_each_operation_answers_whatever_the_model_does(
    server: Server, model: ModelServer, failed: Project, behaviour: Behaviour, reason: str
) -> None:
    model.always, before = behaviour, len(model.requests)
    admin, build = server.admin.token, failed.build
    # Another number each time: a model that gave no answer is asked the same again after an hour only.
    diagnosed = {"build_id": build, "max_tests": before + 1}

    def client() -> Client:
        return server.client().authorize(admin)

    def evaluate() -> dict[str, Any]:
        asked = client().when("POST", "/evals/runs", json={"suite": "diagnosis", "sample_size": 1}).then(202)
        deadline = time.monotonic() + PATIENCE_S
        while (found := client().fetch(f"/evals/{asked['id']}"))["status"] not in ("complete", "failed"):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)  # between two looks
        return dict(found)

    asking: list[Callable[[], Any]] = [
        lambda: ask(client(), "Why did this build fail?", build_id=build),
        lambda: follow(client(), "Why did this build fail?", build_id=build),
        lambda: client().when("POST", "/ai/diagnose", json=diagnosed).then(200),
        lambda: client().fetch(f"/ai/summary/{build}"),
        evaluate,
    ]
    with ThreadPoolExecutor(len(asking)) as threads:
        chat, stream, diagnosis, summary, evaluation = threads.map(lambda one: one(), asking)
    assert len(model.requests) == before + 4, "all but the summary, which never asks a model"
    for found in (chat, diagnosis):
        assert found["provider"] == ("builtin" if reason else "openai")
        assert reason in found["fell_back"]
    assert {sent["model"] for sent in model.requests[before:]} == {evaluation["model"]} == {"m-1"}
    events = client().fetch("/audit/events", project_id=failed.id, limit=20)
    assert {event["actor"] for event in events if event["type"] == "inquiry.answered"} == {"system:assistant"}
    (*tokens, last) = map(json.loads, stream[:-1])
    assert stream[-1] == "[DONE]"
    assert "".join(token["token"] for token in tokens) == chat["reply"]
    assert last["sources"] == chat["sources"]
    for found in (chat, diagnosis, summary):
        assert f"build:{build}" in found["sources"]
        assert "build:424242" not in found["sources"]
        assert "The build passed." not in str(found)
    assert diagnosis["classification"] == "product_bug"
    ((missed,), status) = evaluation["failures"], evaluation["status"]
    assert (status, evaluation["cases_passed"]) == ("complete", 0)
    assert reason in str(missed["faults"])


@pytest.fixture(scope="module")
def planting(server: Server, receiver: WebhookReceiver) -> Planting:
    planting = Planting(server, receiver)
    planting.plant()
    return planting


def interrogate(client: Client, planting: Planting, *, elsewhere: bool) -> Iterator[tuple[str, str]]:
    """Sends each question and each analysis, about the planted project or about the other one. Yields the answers,
    without the query that some repeat.
    """
    build = planting.build_elsewhere if elsewhere else planting.ids["build_id"]
    project = planting.elsewhere if elsewhere else planting.project
    job = planting.job_elsewhere if elsewhere else planting.ids["job_id"]
    query = STEM.lower()
    for path in ("/ai/chat", "/ai/chat/stream"):
        yield path, client.when("POST", path, json={"message": "Why did it fail?", "build_id": build}).text
        body = {"message": f"Why did build {planting.ids['build_id']} of the Nightly fail, and test_cart?"}
        headers = {"Idempotency-Key": f"the-same-{path}"}
        for name in ("by a number", "again"):
            yield f"{path} {name}", client.when("POST", path, json=body, headers=headers).text
    yield "diagnosis", client.when("POST", "/ai/diagnose", json={"build_id": build}).text
    for kind in ("project_audit", "failure_cluster", "regression_scan"):
        yield kind, "\n".join(follow_job(client, kind, project))
    issue = {"title": "x", "classification": "flaky", "pattern": "expected"}
    replay = {"project_id": project, "known_issues": [issue]}
    yield "replay", client.when("POST", "/audit/replay", json=replay).text
    yield "export", client.when("POST", f"/jobs/{job}/export").text
    of_project = {"project_id": project}
    for path, parameters in (
        (f"/ai/summary/{build}", {}),
        ("/ai/insights", of_project),
        ("/search", {"q": query}),
        ("/search", {"q": query} | of_project),
        ("/ai/search", {"q": query} | of_project),
        ("/test-cases", of_project),
        ("/ai/tests/health", {"min_runs": 1} | of_project),
        ("/ai/emerging/history", of_project),
    ):
        answer = client.when("GET", path, params=parameters)
        yield f"{path} {list(parameters)}", answer.text.replace(f'"query":"{query}"', "")


def test_nobody_sees_a_word_of_another_project(
    server: Server, model: ModelServer, planting: Planting, folder: Path
) -> None:
    model.always = quotes(20)
    owner = server.make_user("developer", {planting.project: "admin"})
    limited = server.admin.create("/api-tokens", name="Elsewhere", project_ids=[planting.elsewhere])["secret"]
    strangers = {
        "member": server.make_user("developer", {planting.elsewhere: "admin"}),
        "token": server.client().authorize(limited),
    }
    before = len(model.requests)
    ask(owner, f"Is {word('question')} a test?", build_id=planting.ids["build_id"])
    owner_texts = dict(interrogate(owner, planting, elsewhere=False))
    assert [name for name, text in owner_texts.items() if not contains(text, STEM)] == []
    owner_texts |= {name: answer.text for name, answer in planting.sweep(owner)}
    sent_by_owner, before = model.requests[before:], len(model.requests)
    seen: dict[str, str] = {}
    for who, client in strangers.items():
        for name, text in interrogate(client, planting, elsewhere=True):
            seen[f"{who}: {name}"] = text
        for name, answer in planting.sweep(client):
            seen[f"{who}: {name}"] = answer.text.replace(f'"query":"{STEM.lower()}"', "")
    sent_by_strangers = model.requests[before:]
    end = server.admin.post("/api/v3/pipeline-templates", json={"name": "The end", "setup": [], "env": {}})
    head = int(end.headers["Testhide-Position"])
    owner_texts["feed"] = planting.read_feed(owner, head)
    seen |= {f"{who}: feed": planting.read_feed(client, head) for who, client in strangers.items()}
    received: dict[str, str] = defaultdict(str)
    for request in planting.receiver.requests:
        received[request.path] += f"{request.headers} {request.body.decode()}\n"
    seen["webhook elsewhere"] = received.pop("/hook/other")
    prompts = {"prompts of the owner": str(sent_by_owner), "prompts of strangers": str(sent_by_strangers)}
    assert min(len(sent_by_owner), len(sent_by_strangers)) > 5, "the model was asked for both"

    assert [name for name in TEXTS if not any(contains(text, word(name)) for text in owner_texts.values())] == []
    assert contains(str(received), STEM)
    assert contains(prompts["prompts of the owner"], STEM)
    seen["prompts of strangers"] = prompts["prompts of strangers"]
    assert [name for name, text in seen.items() if contains(text, STEM)] == []

    logs = {file.name: file.read_text() for file in (folder / "logs").iterdir()}
    assert set(logs) == {"serve", "project", "work"}
    events = {"events": server.admin.get("/api/v3/audit/export").text}
    anything = owner_texts | seen | prompts | logs | events | {"webhook": str(received)}
    for texts, secrets in ((anything, SECRETS), (prompts | logs, FORMS)):
        found = [
            f"{name} in {source}"
            for source, text in texts.items()
            for name, one in secrets.items()
            if contains(text, one)
        ]
        assert found == []
