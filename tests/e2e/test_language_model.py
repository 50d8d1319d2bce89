"""A whole server with a language model: a question goes to the model, its answer is checked, and its tokens count."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from aiohttp import web

from testhide.engines import Engines
from tests.api.test_chat import given_failed_build
from tests.support.model_server import ModelServer, completes, serving_model
from tests.support.server import Server, server_on_new_database

PERSON, PASSWORD = "ann.lee@mail.example.com", "password=hunter22"


async def quote_a_source(request: web.BaseRequest) -> web.StreamResponse:
    """Answers as a model that repeats its first source, and makes something up."""
    (_, data) = json.loads(await request.read())["messages"]
    source = json.loads(data["content"])["sources"][0]
    claims = [
        {"text": " ".join(source["text"].split())[:100], "sources": [source["ref"]], "is_guess": False},
        {"text": "Build 424242 broke it.", "sources": ["build:424242"], "is_guess": False},
    ]
    answer = {"claims": claims, "classification": None, "root_cause": "", "suggested_fix": ""}
    return await completes(json.dumps(answer), 321)(request)


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
        made.always = quote_a_source
        yield made


@pytest.fixture(scope="module")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> Iterator[Server]:
    with server_on_new_database(
        engines,
        tmp_path_factory.mktemp("llm"),
        "serve",
        "project",
        "work",
        ai_provider="openai",
        ai_url=model.url,
        ai_key="hush",
        ai_model="m-1",
    ) as made:
        yield made


def test_a_question_goes_to_the_model(server: Server, model: ModelServer) -> None:
    project = given_failed_build(server, "Nightly", f"AssertionError: {PASSWORD} of {PERSON}")
    question = {"message": "Why did this build fail?", "build_id": project.build}
    reply = server.admin.post("/api/v3/ai/chat", json=question).then(200)
    (sent,) = model.requests
    data = json.loads(sent["messages"][1]["content"])
    assert data["question"]["text"] == question["message"]
    assert reply["sources"] == [data["sources"][0]["ref"]]
    assert "424242" not in reply["reply"]
    for text in ("hunter22", PERSON):
        assert text not in json.dumps(sent), "it has left the server"
    assert server.admin.fetch("/ai/quota")["tokens_used"] == 321
    status = server.admin.fetch("/ai/llm/status")
    assert (status["provider"], status["model"], status["available"]) == ("openai", "m-1", True)


def test_the_key_is_in_no_event_and_no_answer(server: Server) -> None:
    assert "hush" not in server.admin.get("/api/v3/ai/llm/status").text
    assert "hush" not in server.admin.get("/api/v3/audit/export").text
