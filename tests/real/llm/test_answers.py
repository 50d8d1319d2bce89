"""A real model behind the OpenAI API: SmolLM2 with 135 million parameters, served by llama.cpp.

It is too small to explain failures. So these tests expect nothing of what it says, but that requests, schemas, counted
tokens and checks fit together.
"""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from commands.handler import Handler
from commands.token_quota import TokenMeter
from domain.assistant.lookups import offer_lookups
from domain.assistant.prompts import MAX_CITED, MAX_CLAIMS, MAX_TEXT, build_prompt
from domain.language_model import ModelPolicy
from integrations.llm.openai import OpenAiModel
from integrations.llm_ports import ModelRequest
from store.clock import utcnow
from testhide.processes import Core
from tests.commands.test_model_answers import FINDINGS
from tests.commands.test_prompts import make_evidence
from tests.support.injections import INJECTIONS
from tests.support.server import free_port
from workers.language_model import AnswerWriter

pytestmark = pytest.mark.real("xllamacpp")
TIMEOUT_S = 300.0
REFS = ["build:9812", "test:1001"]
SCHEMA = {
    "type": "object",
    "properties": {"ref": {"type": "string", "enum": REFS}},
    "required": ["ref"],
    "additionalProperties": False,
}
CONTROL_TOKENS = next(text for text in INJECTIONS if "<|im_start|>" in text)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = ["xllamacpp", str(Path(__file__).with_name("model_server.py")), str(free_port())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("http"):
            assert line, "the server has ended"
        yield line.strip()
        process.kill()


@pytest.fixture
async def model(url: str) -> AsyncIterator[OpenAiModel]:
    made = OpenAiModel(url, "", TIMEOUT_S)
    yield made
    await made.close()


@pytest.mark.parametrize("text", ["assert 9 == 10", CONTROL_TOKENS])
async def test_an_answer_has_the_form_of_the_schema(model: OpenAiModel, text: str) -> None:
    prompt = build_prompt(make_evidence(text, text, text), FINDINGS)
    reply = await model.complete(ModelRequest("smollm2", prompt.instructions, prompt.data, SCHEMA, 40))
    assert json.loads(reply.text)["ref"] in REFS
    assert reply.tokens is not None
    assert 0 < reply.tokens <= prompt.max_tokens, "no more than are reserved"


async def test_an_answer_keeps_the_bounds_of_its_schema(model: OpenAiModel) -> None:
    """A server that refuses bounds, or does not keep them, would let so small a model repeat itself."""
    prompt = build_prompt(make_evidence(), FINDINGS)
    request = ModelRequest("smollm2", prompt.instructions, prompt.data, prompt.schema, prompt.answer_tokens)
    answer = json.loads((await model.complete(request)).text)
    assert len(answer["claims"]) <= MAX_CLAIMS
    for claim in answer["claims"]:
        assert len(claim["sources"]) <= MAX_CITED
        assert set(claim["sources"]) <= set(range(1, len(prompt.sources) + 1))
    for text in (answer["root_cause"], answer["suggested_fix"], *(claim["text"] for claim in answer["claims"])):
        assert len(text) <= MAX_TEXT


async def test_a_question_is_answered_and_counted(parts: Core, model: OpenAiModel) -> None:
    meter = TokenMeter(parts.log, Handler(parts.log, utcnow), utcnow)
    writer = AnswerWriter(ModelPolicy("openai", "smollm2"), model, meter, utcnow, timedelta(seconds=TIMEOUT_S))
    written = await writer.answer(make_evidence(), FINDINGS, inquiry_id="i-1")
    used, _ = await meter.count()
    assert written.model == "smollm2"
    assert written.answer.claims
    assert (written.provider == "builtin") == (written.fell_back is not None)
    assert 0 < used == written.tokens


async def test_look_ups_are_chosen_among_those_that_are_offered(parts: Core, model: OpenAiModel) -> None:
    meter = TokenMeter(parts.log, Handler(parts.log, utcnow), utcnow)
    writer = AnswerWriter(ModelPolicy("openai", "smollm2"), model, meter, utcnow, timedelta(seconds=TIMEOUT_S))
    offered = offer_lookups(["test:1001", "build:9812", "commit:badc0de"])
    chosen = await writer.choose_lookups(make_evidence(CONTROL_TOKENS), FINDINGS, offered, inquiry_id="aijob-1")
    used, _ = await meter.count()
    assert set(chosen.lookups) <= set(offered)
    assert bool(chosen.lookups) or not chosen.fell_back, "rules choose some"
    assert 0 < used == chosen.tokens
