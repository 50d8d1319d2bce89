"""The adapter for servers with the OpenAI API, against one of ours that fails in every way."""

import gzip
import subprocess
import sys
from collections.abc import AsyncIterator

import msgspec
import pytest

from integrations.llm.openai import OpenAiModel
from integrations.llm_ports import ModelReply, ModelRequest, ModelUnavailable
from tests.support.model_server import (
    Behaviour,
    ModelServer,
    answers,
    completes,
    cuts,
    hangs,
    never_ends,
    refuses,
    says,
    serving_model,
)
from tests.support.server import free_port

SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
REQUEST = ModelRequest("m-1", "Explain.", '{"sources": []}', SCHEMA, 50)
INVALID_SCHEMA = refuses(400, "Invalid schema for response_format 'answer': 'maxLength' is not permitted.")
CHOICE = {"message": {"content": "x"}}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with serving_model() as made:
        yield made


@pytest.fixture
async def model(server: ModelServer) -> AsyncIterator[OpenAiModel]:
    made = OpenAiModel(server.url, "hush", 30)
    yield made
    await made.close()


async def test_a_request_has_two_messages_and_a_schema(server: ModelServer, model: OpenAiModel) -> None:
    server.always = completes("the answer", 321)
    assert await model.complete(REQUEST) == ModelReply("the answer", 321)
    (sent,) = server.requests
    assert sent["messages"] == [
        {"role": "system", "content": "Explain."},
        {"role": "user", "content": '{"sources": []}'},
    ]
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("m-1", 50, 0)
    assert sent["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}
    assert not sent.keys() & {"tools", "functions", "stream"}
    assert server.keys == ["Bearer hush"]


async def test_servers_that_do_not_count_tokens(server: ModelServer, model: OpenAiModel) -> None:
    server.always = completes("x", None)
    assert await model.complete(REQUEST) == ModelReply("x", None)


async def test_parameters_that_a_server_refuses_are_left_out(server: ModelServer, model: OpenAiModel) -> None:
    server.next += (
        refuses(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refuses(400, "Unsupported value: 'temperature' does not support 0"),
        INVALID_SCHEMA,
        refuses(422, "response_format of type json_schema is not known"),
        completes("x"),
        completes("y"),
        refuses(400, "response_format"),
        completes("z"),
    )
    assert [(await model.complete(REQUEST)).text for _ in range(3)] == ["x", "y", "z"]
    last, before = server.requests[-1], server.requests[5]
    assert before["response_format"] == {"type": "json_object"}, "it remembers what the server takes"
    assert (before["max_completion_tokens"], "temperature" in before, "max_tokens" in before) == (50, False, False)
    assert "response_format" not in last
    server.always = refuses(400, "no")
    with pytest.raises(ModelUnavailable, match=r"refused the request \(status 400\)"):
        await model.complete(REQUEST)
    assert len(server.requests) == 9


async def test_a_server_that_takes_no_bounds_in_schemas(server: ModelServer, model: OpenAiModel) -> None:
    """The strict mode of Azure takes neither bound, that of OpenAI has long taken only the first."""
    text = {"type": "string", "enum": ["x"]}
    bounded = SCHEMA | {"properties": {"texts": {"type": "array", "maxItems": 4, "items": text | {"maxLength": 300}}}}
    server.next += (INVALID_SCHEMA, completes("x"), completes("y"))
    request = msgspec.structs.replace(REQUEST, schema=bounded)
    assert [(await model.complete(request)).text for _ in range(2)] == ["x", "y"]
    sent = [one["response_format"]["json_schema"] for one in server.requests]
    free = SCHEMA | {"properties": {"texts": {"type": "array", "items": text}}}
    assert [one["schema"] for one in sent] == [bounded, free, free], "it remembers what the server takes"
    assert all(one["strict"] for one in sent)


async def test_a_server_that_takes_no_parameter(server: ModelServer, model: OpenAiModel) -> None:
    server.next += (
        refuses(400, "use max_completion_tokens"),
        refuses(400, "temperature"),
        INVALID_SCHEMA,
        refuses(400, "json_schema"),
        refuses(400, "json_object"),
        completes("x"),
    )
    assert (await model.complete(REQUEST)).text == "x"


async def test_a_refusal_for_another_reason_changes_no_later_request(server: ModelServer, model: OpenAiModel) -> None:
    server.next += [refuses(400, "the prompt has 9,000 tokens, and the model takes 8,192")] * 4
    with pytest.raises(ModelUnavailable, match=r"refused the request \(status 400\)"):
        await model.complete(REQUEST)
    server.always = completes("x")
    await model.complete(REQUEST)
    assert server.requests[-1]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("behaviour", "reason", "has_used_tokens"),
    [
        (refuses(401, "key hush is wrong"), r"refused the API key \(status 401\)", False),
        (refuses(403), r"does not allow the call", False),
        (refuses(404), r"does not know the model m-1, or has another URL", False),
        (refuses(413), r"found the prompt too long", False),
        (refuses(429), r"has too many requests, or no credit left \(status 429\)", False),
        (refuses(500), r"failed \(status 500\)", False),
        (refuses(503), r"failed \(status 503\)", False),
        (refuses(302), r"refused the request \(status 302\)", False),
        (cuts(500), "cut its response off", True),
        (cuts(), "cut its response off", True),
        (never_ends(b" " * 65_536), "longer than 256 KiB", True),
        (never_ends(b"x" * 65_536, 500), "longer than 256 KiB", True),
        (says(b'{"choices": ['), "something else than a completion", True),
        (says(b"<html>", "text/html"), "something else than a completion", True),
        (says(b"\xff\xfe"), "something else than a completion", True),
        (says(gzip.compress(b" " * 1_000_000), **{"Content-Encoding": "gzip"}), "compressed", True),
        (answers(200, {"choices": []}), "something else than a completion", True),
        (answers(200, {"choices": [{"message": {"content": 7}}]}), "something else than a completion", True),
        (answers(200, {"choices": [CHOICE], "usage": {"prompt_tokens": -5}}), "something else than a", True),
        (answers(200, {"choices": [CHOICE], "usage": {"prompt_tokens": 10**12}}), "something else than a", True),
        (answers(200, {"choices": [{"message": {"refusal": "no"}}]}), "refused to answer", True),
        (completes("{", finish_reason="length"), "cut off at its largest length", True),
    ],
)
async def test_failures_have_reasons(
    server: ModelServer, model: OpenAiModel, behaviour: Behaviour, reason: str, has_used_tokens: bool
) -> None:
    server.always = behaviour
    with pytest.raises(ModelUnavailable, match=reason) as failed:
        await model.complete(REQUEST)
    assert failed.value.has_used_tokens is has_used_tokens
    assert "hush" not in str(failed.value)
    assert len(server.requests) == 1, "a repetition could use tokens again"


async def test_a_server_that_never_answers(server: ModelServer) -> None:
    server.always = hangs
    model = OpenAiModel(server.url, "hush", 0.3)
    await model._open()  # whose first call takes longer
    with pytest.raises(ModelUnavailable, match=r"did not answer within 0\.3 s") as failed:
        await model.complete(REQUEST)
    assert failed.value.has_used_tokens
    await model.close()


async def test_a_server_that_is_not_there() -> None:
    model = OpenAiModel(f"http://127.0.0.1:{free_port()}/v1", "", 30)
    with pytest.raises(ModelUnavailable, match="cannot be reached") as failed:
        await model.complete(REQUEST)
    assert not failed.value.has_used_tokens
    await model.close()


def test_the_library_is_loaded_with_the_first_call() -> None:
    program = (
        "import sys, testhide.processes, api.app, workers.language_model, integrations.llm.openai as llm;"
        "llm.OpenAiModel('http://127.0.0.1:1/v1', '', 1); assert not {'openai', 'httpx2'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
