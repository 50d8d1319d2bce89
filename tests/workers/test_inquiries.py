"""Inquiries are answered once, also by several workers, and end when they are cancelled or cannot be answered."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import psycopg
import pytest
from aiohttp import web

from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import Handler
from commands.inquiries import AskInquiry, CancelInquiry, TakeInquiryStep
from commands.token_quota import TokenMeter
from domain.assistant.lookups import Lookup
from domain.core.errors import Unavailable
from domain.inquiries import (
    INQUIRY,
    Inquiry,
    InquiryAnswered,
    InquiryAsked,
    InquiryCancelled,
    InquiryEvent,
    InquiryFailed,
)
from domain.language_model import ModelPolicy
from domain.triggers import BuildTrigger
from integrations.llm.openai import OpenAiModel
from projections.builds import BuildRow
from projections.chat_subjects import ChatSubject, choose_build
from projections.lookups import look_up
from store.clock import utcnow
from store.postgres.queries import execute
from store.tables.build_logs import BuildLogs, Line
from tests.commands.test_results import FAILURE
from tests.support.model_server import Behaviour, ModelServer, completes, hangs, refuses, serving_model
from tests.workers.test_known_issues import House, house  # noqa: F401
from workers.inquiries import FAILURE as SORRY
from workers.inquiries import GIVE_UP_AFTER, OVERDUE, OVERDUE_AFTER, InquiryAnswerer
from workers.language_model import AnswerWriter

QUESTION = AskInquiry("chat-1", "chat", 1, 1, 1, 1, session_id="sess-1", message="Why did this build fail?")
AUDIT = AskInquiry("aijob-1", "project_audit", 1, 1)


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[ModelServer]:
    async with serving_model() as made:
        yield made


@pytest.fixture(name="model")
async def _model(server: ModelServer) -> AsyncIterator[OpenAiModel]:
    made = OpenAiModel(server.url, "hush", 60)
    yield made
    await made.close()


class Assistant:
    """A worker that answers inquiries about a failed build."""

    def __init__(self, house: House, model: OpenAiModel | None = None) -> None:  # noqa: F811
        self.house = house
        self.late = timedelta(0)
        self.showing = asyncio.Lock()
        handler = Handler(house.parts.log, utcnow)
        policy = ModelPolicy("openai", "m-1", (), 1_000_000)
        writer = AnswerWriter(
            policy, model, TokenMeter(house.parts.log, handler, utcnow), utcnow, timedelta(seconds=60)
        )
        self.answerer = InquiryAnswerer(
            house.parts.pool, house.parts.log, handler, self.wait_reached, self.clock, writer
        )

    def clock(self) -> datetime:
        return utcnow() + self.late

    async def wait_reached(self, position: int) -> bool:
        async with self.showing:
            await self.house.shown()
        return True

    async def ask(self, command: AskInquiry) -> InquiryAsked:
        await self.house.ran(FAILURE)
        await self.house.does(FinishExternalBuild(1, "failed"), command)
        (event,) = await self.events(InquiryAsked)
        assert isinstance(event, InquiryAsked)
        return event

    async def events(self, kind: type[InquiryEvent]) -> list[InquiryEvent]:
        found = await self.house.parts.log.read(0, 1_000)
        return [one.event for one in found if isinstance(one.event, kind)]

    async def find(self, inquiry_id: str) -> Inquiry:
        state = await self.house.parts.log.load_state(INQUIRY.at(inquiry_id))
        assert state is not None
        return state


async def test_a_question_is_answered_once(house: House) -> None:  # noqa: F811
    they = Assistant(house)
    asked = await they.ask(QUESTION)
    await asyncio.gather(they.answerer.answer(asked), they.answerer.answer(asked))
    await they.answerer.answer(asked)
    (answered,) = await they.events(InquiryAnswered)
    assert isinstance(answered, InquiryAnswered)
    assert (answered.provider, answered.model, answered.fell_back) == ("builtin", "", "")
    assert "build:1" in answered.answer.sources
    assert answered.evidence["question"]["project_id"] == 1


async def test_a_job_whose_worker_died_goes_on_where_it_was(house: House) -> None:  # noqa: F811
    they = Assistant(house)
    asked = await they.ask(AUDIT)
    await house.does(TakeInquiryStep("aijob-1", 1, "builds", "The dead worker counted builds."))
    await they.answerer.answer(asked)
    inquiry = await they.find("aijob-1")
    assert [step.number for step in inquiry.steps] == [*range(1, len(inquiry.steps) + 1)]
    assert inquiry.steps[0].text == "The dead worker counted builds."
    assert isinstance(inquiry.end, InquiryAnswered)
    await they.answerer.answer(asked)
    assert len(await they.events(InquiryAnswered)) == 1


async def test_a_cancelled_question_ends_at_once(
    house: House,  # noqa: F811
    server: ModelServer,
    model: OpenAiModel,
) -> None:
    is_asked = asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        is_asked.set()
        return await hangs(request)

    server.always = hang
    they = Assistant(house, model)
    asked = await they.ask(QUESTION)
    working = asyncio.create_task(they.answerer.answer(asked))
    await is_asked.wait()
    await house.does(CancelInquiry("chat-1"))
    async with asyncio.timeout(10):
        await working
    assert isinstance((await they.find("chat-1")).end, InquiryCancelled)
    assert await they.events(InquiryAnswered) == []


async def test_rules_answer_if_the_model_fails(house: House, server: ModelServer, model: OpenAiModel) -> None:  # noqa: F811
    server.always = refuses(400)
    they = Assistant(house, model)
    await they.answerer.answer(await they.ask(QUESTION))
    end = (await they.find("chat-1")).end
    assert isinstance(end, InquiryAnswered)
    assert (end.provider, end.model) == ("builtin", "m-1")
    assert end.fell_back
    assert "build:1" in end.answer.sources


async def choose_the_history(request: web.BaseRequest) -> web.StreamResponse:
    """Chooses a history among the look-ups, and then repeats what was found there."""
    data = json.loads(json.loads(await request.read())["messages"][1]["content"])
    if "lookups" in data:
        chosen = [name for name in data["lookups"] if name.startswith("test_history")][:1]
        return await completes(json.dumps({"lookups": [*chosen, "test_history test:777"]}), 100)(request)
    history = next(source for source in data["sources"] if source["ref"].startswith("test_case:"))
    reply = {"claims": [{"text": history["text"], "sources": [history["ref"]]}], "classification": "flaky"}
    return await completes(json.dumps(reply), 200)(request)


async def test_a_model_chooses_what_a_job_looks_up(
    house: House,  # noqa: F811
    server: ModelServer,
    model: OpenAiModel,
) -> None:
    server.always = choose_the_history
    they = Assistant(house, model)
    asked = await they.ask(AUDIT)
    await they.answerer.answer(asked)
    inquiry = await they.find("aijob-1")
    end = inquiry.end
    assert isinstance(end, InquiryAnswered)
    assert (end.provider, end.tokens, end.fell_back) == ("openai", 300, "")
    assert [one["kind"] for one in end.result["lookups"]] == ["test_history"]
    assert end.result["conclusion"] == end.answer.text
    texts = [claim.text for claim in end.answer.claims]
    assert texts.count(end.result["lookups"][0]["text"]) == 1
    assert any("was looked at, as it failed" in text for text in texts), "what rules say stays"
    assert end.result["verdict"] == end.answer.classification == "product_bug", "the verdict is that of the rules"
    assert end.result["next_step"]["action"] == "known_issue"


@pytest.mark.parametrize("behaviour", [refuses(500), completes("no JSON"), completes('{"lookups": ["all"]}')])
async def test_rules_conclude_a_job_if_the_model_fails(
    house: House,  # noqa: F811
    server: ModelServer,
    model: OpenAiModel,
    behaviour: Behaviour,
) -> None:
    server.always = behaviour
    they = Assistant(house, model)
    await they.answerer.answer(await they.ask(AUDIT))
    end = (await they.find("aijob-1")).end
    assert isinstance(end, InquiryAnswered)
    assert end.provider == end.result["provider"] == "builtin"
    assert end.fell_back
    assert {one["kind"] for one in end.result["lookups"]} >= {"test_history", "similar_failures"}
    assert end.result["verdict"] == "product_bug"
    assert len(server.requests) == 2


async def test_what_cannot_be_answered_fails_with_a_sentence(house: House) -> None:  # noqa: F811
    they = Assistant(house)
    asked = await they.ask(QUESTION)
    await house.shown()
    async with broken_read_model(house):
        with pytest.raises(psycopg.Error):
            await they.answerer.answer(asked)
        assert (await they.find("chat-1")).end is None
        they.late = GIVE_UP_AFTER
        await they.answerer.answer(asked)
    end = (await they.find("chat-1")).end
    assert isinstance(end, InquiryFailed)
    assert end.error == SORRY


@contextlib.asynccontextmanager
async def broken_read_model(house: House) -> AsyncIterator[None]:  # noqa: F811
    """Renames a column of the builds until the block ends, so that no evidence can be gathered."""

    async def rename(old: str, new: str) -> None:
        await execute(house.parts.pool, f"ALTER TABLE {BuildRow.table} RENAME COLUMN {old} TO {new}")

    await rename("branch", "lost")
    try:
        yield
    finally:
        await rename("lost", "branch")


async def test_what_nobody_answers_fails_after_an_hour(house: House) -> None:  # noqa: F811
    they = Assistant(house)
    await they.ask(QUESTION)
    await house.shown()
    await they.answerer.fail_overdue()
    assert (await they.find("chat-1")).end is None
    they.late = OVERDUE_AFTER
    await they.answerer.fail_overdue()
    end = (await they.find("chat-1")).end
    assert isinstance(end, InquiryFailed)
    assert end.error == OVERDUE


async def test_read_models_that_are_behind_are_waited_for(house: House) -> None:  # noqa: F811
    they = Assistant(house)
    asked = await they.ask(QUESTION)

    async def is_behind(position: int) -> bool:
        return False

    late = InquiryAnswerer(house.parts.pool, house.parts.log, house.handler, is_behind, utcnow, they.answerer.writer)
    with pytest.raises(Unavailable):
        await late.answer(asked)
    assert await they.events(InquiryAnswered) == []


async def test_a_question_does_not_wait_for_what_is_written_after_it(house: House) -> None:  # noqa: F811
    they = Assistant(house)
    asked = await they.ask(QUESTION)
    await house.shown()
    shown = await house.parts.log.read_head()

    async def has_reached(position: int) -> bool:
        return position <= shown

    busy = InquiryAnswerer(house.parts.pool, house.parts.log, house.handler, has_reached, utcnow, they.answerer.writer)
    await house.does(StartBuild(2, 1, external=True))
    await busy.answer(asked)
    assert len(await they.events(InquiryAnswered)) == 1


async def test_a_chat_about_a_job_or_project_is_about_no_build_of_a_fork(house: House) -> None:  # noqa: F811
    repository = "https://github.com/acme/shop.git"
    fork = BuildTrigger("pull_request", 3, 7, fork=True)
    await house.does(StartBuild(1, 1, external=True), FinishExternalBuild(1, "failed"))
    await house.does(StartBuild(2, 1, external=True, trigger=fork, project_repository=repository))
    await house.does(FinishExternalBuild(2, "passed"))
    await house.shown()
    async with house.parts.pool.connection() as connection:
        for subject in (ChatSubject(1, 1), ChatSubject(1)):
            assert (await choose_build(connection, subject, "Why is it red?")).build_id == 1


async def test_a_look_up_quotes_the_line_that_it_names(house: House) -> None:  # noqa: F811
    await house.does(StartBuild(1, 1, external=True))
    lines = [Line(0, text) for text in ("working", "", "boom", "end")]
    await BuildLogs(house.parts.pool).append(1, 1, 1, 0, lines)
    await house.shown()
    found = await look_up(house.parts.pool, 1, Lookup("log_lines", "log:1:2-3"))
    assert found is not None
    assert found.text == "Line 3 of the log of build 1 says: “boom”."
    found = await look_up(house.parts.pool, 1, Lookup("log_lines", "build:1"))
    assert found is not None
    assert found.text == "No line of the log of build 1 is known to explain it. The last line says: “end”."
