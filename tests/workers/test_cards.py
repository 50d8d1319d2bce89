"""Channels of Teams over real HTTP: the same deliveries as those of webhooks, shown as cards."""

from datetime import timedelta
from typing import Any

import pytest

from commands.builds import FinishExternalBuild
from commands.quarantine import AddToQuarantine
from domain.adaptive_cards import MAX_LINES
from domain.teams import CardType
from tests.commands.test_results import FAILURE
from tests.integrations.receiving import Received, receiving
from tests.support.read_models import begin_read_models
from tests.workers.hooks import Hooks
from tests.workers.test_known_issues import House
from tests.workers.test_messages import everything_happens
from workers.deliveries.sender import RETRY_DELAYS_S

EVERYTHING: tuple[CardType, ...] = ("build.finished", "build.failed", "test.flaky", "test.quarantined", "node.offline")


def card(request: Received) -> dict[str, Any]:
    assert request.json["type"] == "message"
    (attachment,) = request.json["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    content: dict[str, Any] = attachment["content"]
    return content


def title(request: Received) -> str:
    return str(card(request)["body"][0]["items"][0]["text"])


def facts(request: Received) -> dict[str, str]:
    (found,) = [element["facts"] for element in card(request)["body"] if element["type"] == "FactSet"]
    return {fact["title"]: fact["value"] for fact in found}


def lines(request: Received) -> list[str]:
    return [part["inlines"][0]["text"] for part in card(request)["body"] if part["type"] == "RichTextBlock"]


async def test_a_failed_build_is_shown_with_whom_it_concerns(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register_channel(f"{receiver.url}?sig=KEY", ("build.failed",), mention="ann@example.com")
        await hooks.build(7, "passed")
        await hooks.build(8, "failed")
        await hooks.deliver()
        (request,) = receiver.requests
        assert request.path == "/hook?sig=KEY"
        assert request.headers["Content-Type"].startswith("application/json")
        assert title(request) == "Build 8 failed"
        assert facts(request).items() >= {"Project": "P1", "Job": "Smoke", "Branch": "main", "Duration": "0 s"}.items()
        assert card(request)["actions"][0]["url"] == "https://ci.example.com/api/v3/builds/8"
        (mention,) = card(request)["msteams"]["entities"]
        assert mention["mentioned"]["id"] == "ann@example.com"
        assert mention["text"] in [element.get("text") for element in card(request)["body"]]


async def test_only_who_failed_is_mentioned(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register_channel(receiver.url, ("build.finished",), mention="ann@example.com")
        for build, status in ((1, "passed"), (2, "aborted"), (3, "failed")):
            await hooks.build(build, status)
        await hooks.deliver()
        mentions = {title(request): "entities" in card(request)["msteams"] for request in receiver.requests}
        assert mentions == {"Build 1 passed": False, "Build 2 was aborted": False, "Build 3 failed": True}


async def test_each_thing_is_told_once(hooks: Hooks) -> None:
    """A failed build is one card, and so are tests that were quarantined together."""
    async with receiving() as receiver:
        await hooks.register_channel(receiver.url, EVERYTHING)
        await everything_happens(hooks)
        await hooks.deliver()
        assert sorted(map(title, receiver.requests)) == [
            "2 tests were quarantined",
            "A node went offline",
            "A test turned flaky",
            "Build 1 passed",
            "Build 2 failed",
            "Build 3 was aborted",
        ]
        (quarantined,) = [request for request in receiver.requests if "quarantined" in title(request)]
        assert "tests/a.py::test_y" in quarantined.body.decode()


async def test_of_many_tests_the_first_are_shown(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register_channel(receiver.url, ("test.quarantined",))
        names = tuple(f"t.py::test_{number}" for number in range(MAX_LINES + 30))
        await hooks.do(AddToQuarantine(1, 1, names, hooks.now, expires_at=hooks.now + timedelta(days=1)))
        await hooks.deliver()
        (request,) = receiver.requests
        body = card(request)["body"]
        assert (lines(request), body[-1]["text"]) == (list(names[:MAX_LINES]), "and 30 more")
        assert facts(request)["Until"] == "2026-05-21 10:00 UTC"


async def test_failures_that_count_come_first(hooks: Hooks) -> None:
    async with hooks.parts.pool.connection() as connection:
        await begin_read_models(connection)
    hooks.has_read_models = True
    house = House(hooks.parts)
    async with receiving() as receiver:
        await hooks.register_channel(receiver.url, ("build.failed",))
        await hooks.do(AddToQuarantine(1, 1, tuple(f"c.n{number}" for number in range(10)), hooks.now))
        await house.ran(*[FAILURE] * 10, "", FAILURE)
        await hooks.do(FinishExternalBuild(house.builds, "failed"))
        await hooks.deliver()
        (request,) = receiver.requests
        ignored = [f"in quarantine: c.n{number}" for number in range(MAX_LINES - 1)]
        assert lines(request) == ["c.n11", *ignored]
        assert card(request)["body"][-1]["text"] == "and 3 more"


async def test_a_channel_of_another_project_is_told_nothing(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register_channel(receiver.url, EVERYTHING, project_id=2)
        await everything_happens(hooks)
        assert await hooks.deliver() == 0


async def test_what_does_not_arrive_is_tried_again_and_given_up(hooks: Hooks) -> None:
    async with receiving() as receiver:
        receiver.status = 429
        channel = await hooks.register_channel(f"{receiver.url}?sig=KEY", ("build.failed",))
        await hooks.build(1, "failed")
        await hooks.deliver()
        for number, pause in enumerate(RETRY_DELAYS_S, 1):
            assert len(receiver.requests) == number
            hooks.later(pause - 1)
            assert await hooks.deliver() == 0, "not before its pause is over"
            hooks.later(1 + pause * 0.1)
            assert await hooks.deliver() == 1
        hooks.later(10 * 86_400)
        assert await hooks.deliver() == 0
        (given_up,) = await hooks.events("teams_channel.card_given_up")
        assert (given_up.channel_id, given_up.attempts, given_up.error) == (channel, 8, "answered 429")


async def test_a_channel_that_keeps_failing_is_left_alone_and_loses_nothing(hooks: Hooks) -> None:
    async with receiving() as receiver:
        receiver.status = 503
        await hooks.register_channel(receiver.url, ("build.finished",))
        for build in range(1, 21):
            await hooks.build(build, "passed")
        await hooks.deliver()
        hooks.later(59)
        tried = len(receiver.requests)
        assert (await hooks.deliver(), len(receiver.requests)) == (0, tried)
        receiver.status = 200
        hooks.later(2)
        receiver.requests.clear()
        await hooks.deliver()
        assert sorted(map(title, receiver.requests)) == sorted(f"Build {build} passed" for build in range(1, 21))
        reported = await hooks.events("teams_channel.failing", "teams_channel.recovered")
        assert [event.name for event in reported] == ["teams_channel.failing", "teams_channel.recovered"]
        assert (reported[0].error, reported[0].actor) == ("answered 503", "system:deliveries")


async def test_an_answer_of_200_may_be_a_failure(hooks: Hooks) -> None:
    async with receiving() as receiver:
        receiver.answers.append((200, {}, b"Webhook message delivery failed with error: HTTP error 429"))
        await hooks.register_channel(receiver.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.deliver()
        hooks.later(6)
        assert await hooks.deliver() == 1
        assert receiver.requests[0].body == receiver.requests[1].body


async def test_another_address_is_tried_at_once(hooks: Hooks) -> None:
    async with receiving() as wrong, receiving() as right:
        wrong.status = 404
        channel = await hooks.register_channel(wrong.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.deliver()
        await hooks.update_channel(channel, right.url)
        await hooks.deliver()
        assert [title(request) for request in right.requests] == ["Build 1 passed"]


async def test_what_is_wanted_changes(hooks: Hooks) -> None:
    async with receiving() as receiver:
        channel = await hooks.register_channel(receiver.url, ("test.flaky",))
        await hooks.build(1, "passed")
        await hooks.update_channel(channel, events=("build.finished",))
        await hooks.build(2, "passed")
        await hooks.update_channel(channel, active=False)
        await hooks.build(3, "passed")
        await hooks.update_channel(channel, active=True)
        await hooks.deliver()
        assert [title(request) for request in receiver.requests] == ["Build 2 passed"]


@pytest.mark.parametrize("with_project", [False, True])
async def test_what_is_deleted_is_told_nothing_more(hooks: Hooks, with_project: bool) -> None:
    async with receiving() as receiver:
        receiver.status = 500
        channel = await hooks.register_channel(receiver.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.deliver()
        await (hooks.delete_project(1) if with_project else hooks.delete_channel(channel))
        await hooks.follow()
        hooks.later(86_400)
        assert await hooks.deliver() == 0
        for table in ("webhook_endpoints", "webhook_deliveries", "webhook_attempts"):
            assert await hooks.rows(f"SELECT FROM {table}") == []


async def test_the_address_is_in_no_table_of_the_workers(hooks: Hooks) -> None:
    await hooks.register_channel("http://127.0.0.1:1/hook?sig=KEY", ("build.finished",))
    await hooks.build(1, "passed")
    await hooks.deliver()
    for table in ("webhook_endpoints", "webhook_deliveries", "webhook_attempts"):
        (row,) = await hooks.rows(f"SELECT * FROM {table}")
        assert "KEY" not in str(row)
