"""Questions are answered by a model within its quota, and by rules where it fails."""

import asyncio
import json
import multiprocessing
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from commands.handler import Handler
from commands.token_quota import TokenMeter
from domain.assistant.answers import Answer
from domain.assistant.prompts import build_prompt
from domain.language_model import ModelPolicy
from domain.token_quota import TokensReserved, TokensSettled
from integrations.llm.openai import OpenAiModel
from testhide.processes import Core, core
from testhide.settings import Settings
from tests.commands.test_model_answers import FINDINGS, SUPPORTED, claim, reply
from tests.commands.test_prompts import make_evidence
from tests.support.injections import INJECTIONS
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
from workers.language_model import AnswerWriter, Authored

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
ESTIMATE = build_prompt(make_evidence(), FINDINGS).max_tokens


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with serving_model() as made:
        yield made


@pytest.fixture
async def model(server: ModelServer) -> AsyncIterator[OpenAiModel]:
    made = OpenAiModel(server.url, "hush", 30)
    yield made
    await made.close()


def writer(
    parts: Core, model: OpenAiModel | None, monthly_tokens: int = 1_000_000, others: Sequence[str] = ()
) -> AnswerWriter:
    meter = TokenMeter(parts.log, Handler(parts.log, lambda: NOW), lambda: NOW)
    policy = ModelPolicy("openai", "m-1", others, monthly_tokens)
    return AnswerWriter(policy, model, meter, lambda: NOW, timedelta(seconds=2))


async def ask(writer: AnswerWriter, **more: Any) -> Authored:
    return await writer.answer(make_evidence(), FINDINGS, inquiry_id="i-1", **more)


async def test_an_answer_of_the_model(parts: Core, server: ModelServer, model: OpenAiModel) -> None:
    server.always = completes(reply(SUPPORTED), 321)
    written = writer(parts, model)
    answer = await ask(written)
    assert answer.answer.sources == ["test:1001", "build:9812"]
    assert (answer.provider, answer.model, answer.tokens, answer.fell_back) == ("openai", "m-1", 321, None)
    (sent,) = server.requests
    assert answer.prompt == "\n\n".join(message["content"] for message in sent["messages"])
    reserved, settled = [one.event for one in await parts.log.read_stream("tokens-2026-05", 0, 10)]
    assert isinstance(reserved, TokensReserved)
    assert (reserved.tokens, reserved.model, reserved.expires_at) == (ESTIMATE, "m-1", NOW + timedelta(seconds=62))
    assert isinstance(settled, TokensSettled)
    assert (settled.tokens, settled.is_estimate) == (321, False)


async def test_without_a_model(parts: Core) -> None:
    assert await ask(writer(parts, None)) == Authored(FINDINGS)
    assert not await parts.log.read_stream("tokens-2026-05", 0, 10)


@pytest.mark.parametrize(
    ("behaviour", "reason", "tokens"),
    [
        (refuses(401), "refused the API key", 0),
        (refuses(429), "has too many requests", 0),
        (refuses(500), "failed", 0),
        (cuts(), "cut its response off", ESTIMATE),
        (never_ends(b"x" * 65_536), "longer than", ESTIMATE),
        (says(b"{"), "something else", ESTIMATE),
        (completes("It failed.", 30), "is no JSON object", 30),
        (completes(reply(claim("All is well.", "test:5")), None), "support nothing", ESTIMATE),
        (completes(reply(claim("The assertion failed.", "build:1", "test:2")), 40), "support nothing", 40),
    ],
)
async def test_rules_answer_where_the_model_fails(
    parts: Core, server: ModelServer, model: OpenAiModel, behaviour: Behaviour, reason: str, tokens: int
) -> None:
    server.always = behaviour
    await assert_that_rules_answer(writer(parts, model), reason, tokens)
    assert len(server.requests) == 1


async def test_rules_answer_where_the_model_is_silent(parts: Core, server: ModelServer) -> None:
    server.always, model = hangs, OpenAiModel(server.url, "hush", 0.3)
    try:
        await assert_that_rules_answer(writer(parts, model), "did not answer within 0.3 s", ESTIMATE)
    finally:
        await model.close()


async def assert_that_rules_answer(written: AnswerWriter, reason: str, tokens: int) -> None:
    answer = await ask(written)
    assert answer.answer == FINDINGS
    assert (answer.provider, answer.model, answer.tokens) == ("builtin", "m-1", tokens)
    assert answer.fell_back is not None
    assert reason in answer.fell_back
    assert (await written.meter.count())[0] == tokens


async def test_the_quota_holds_before_the_call(parts: Core, server: ModelServer, model: OpenAiModel) -> None:
    server.always = completes(reply(SUPPORTED), ESTIMATE)
    written = writer(parts, model, monthly_tokens=10 * ESTIMATE + 1)
    answers = await asyncio.gather(*(ask(written) for _ in range(25)))
    assert Counter(answer.provider for answer in answers) == {"openai": 10, "builtin": 15}
    refused = next(answer for answer in answers if answer.provider == "builtin")
    assert refused.fell_back is not None
    assert refused.fell_back.startswith("The quota of the month has 1 of")
    assert (refused.answer, refused.model, refused.prompt, refused.tokens) == (FINDINGS, "", None, 0)
    assert len(server.requests) == 10


async def test_the_quota_holds_for_100_calls_of_two_processes(parts: Core, database: str, server: ModelServer) -> None:
    """Two operating system processes, as two of `testhide work`, ask at the same time."""
    server.always = completes(reply(SUPPORTED), None)
    limit, loop = 33 * ESTIMATE + 1, asyncio.get_running_loop()
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawning, wait_together_by, (spawning.Barrier(2),)) as processes:
        asked = [loop.run_in_executor(processes, ask_50_times, database, server.url, limit) for _ in range(2)]
        first, second = await asyncio.gather(*asked)
    assert first.total() == second.total() == 50
    assert first + second == {"openai": 33, "builtin": 67}
    assert len(server.requests) == 33
    assert (await writer(parts, None).meter.count())[0] == 33 * ESTIMATE


_barrier: Barrier


def wait_together_by(barrier: Barrier) -> None:
    """Prepares a process whose calls begin when those of the other process do."""
    global _barrier
    _barrier = barrier


def ask_50_times(database: str, url: str, limit: int) -> Counter[str]:
    """Asks 50 questions at once, and returns what answered them."""

    async def ask_all() -> Counter[str]:
        model = OpenAiModel(url, "hush", 60)
        async with core(Settings(database_url=database, secret_key=b"s" * 32, data_dir="", unsafe=True)) as parts:
            asking = writer(parts, model, limit)
            await asyncio.to_thread(_barrier.wait, 60)
            answers = await asyncio.gather(*(ask(asking) for _ in range(50)))
        await model.close()
        return Counter(answer.provider for answer in answers)

    return asyncio.run(ask_all())


async def test_only_models_that_are_allowed(parts: Core, server: ModelServer, model: OpenAiModel) -> None:
    server.always = completes(reply(SUPPORTED))
    written = writer(parts, model, others=["m-2"])
    assert (await ask(written, model="m-2")).model == "m-2"
    refused = await ask(written, model="m-3")
    assert refused.provider == "builtin"
    assert "is not one of the models that the operator allows" in (refused.fell_back or "")
    assert [sent["model"] for sent in server.requests] == ["m-2"]


async def test_a_cancelled_call_counts(parts: Core, server: ModelServer, model: OpenAiModel) -> None:
    called = asyncio.Event()

    async def hang(request: Any) -> Any:
        called.set()
        return await hangs(request)

    server.always = hang
    written = writer(parts, model)
    asking = asyncio.create_task(ask(written))
    await called.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await written.meter.count())[0] == ESTIMATE
    events = [one.event for one in await parts.log.read_stream("tokens-2026-05", 0, 10)]
    assert [type(event) for event in events] == [TokensReserved, TokensSettled]


async def test_a_model_that_obeys_injections(parts: Core, server: ModelServer, model: OpenAiModel) -> None:
    """A model that does all that texts tell it changes neither sources nor next steps, and starts nothing."""
    written = writer(parts, model)
    for text in INJECTIONS:
        evidence = make_evidence(text, text, text)
        obeying = claim(text, "log:9812:10-12", "build:1")
        server.next.append(completes(reply(obeying, SUPPORTED, suggested_fix=text, classification="no_defect")))
        answer: Answer = (await written.answer(evidence, FINDINGS, inquiry_id="i-1")).answer
        assert set(answer.sources) <= {source.ref for source in evidence.sources}
        assert (answer.next_step, answer.classification) == (FINDINGS.next_step, "product_bug")
    assert len(server.requests) == len(INJECTIONS) == 60
    for sent in server.requests:
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]
        assert set(json.loads(sent["messages"][1]["content"])) == {"question", "sources", "findings"}
        assert "tools" not in sent
