"""Deleting a build destroys its data key in the same commit: what it brought is unreadable from then on, everywhere."""

import asyncio
from collections.abc import Sequence

import pytest

from commands.build_actions import CommentOnBuild, DeleteBuild, PinBuild
from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import CreateJob
from commands.projects import CreateProject
from domain.builds import BUILD, AnyBuild, BuildCommented, BuildDeleted, BuildQueued, DeletedBuild
from domain.core.data_keys import build_key
from domain.core.errors import Conflict, Erased, NotFound
from domain.core.events import Event, Recorded
from store.clock import utcnow
from store.log.event_log import EventLog
from testhide.processes import Core
from tests.store.test_event_log import another_log

ANN = CommandContext("user:7")
BRANCH, TEXT = "private/branch", "a private remark"


@pytest.fixture
async def handler(parts: Core) -> Handler:
    handler = Handler(parts.log, utcnow)
    commands: Sequence[Command] = (
        CreateProject(1, "Web", 7, (("web", "slug-1"),), b""),
        CreateJob(5, 1, "Smoke"),
        *(StartBuild(number, 5, branch=BRANCH, external=True) for number in (1, 2)),
        CommentOnBuild(1, 88, TEXT, 7),
        FinishExternalBuild(1, "passed"),
    )
    for command in commands:
        await handler.execute(command, ANN)
    return handler


async def of_build(log: EventLog, build_id: int) -> list[Recorded]:
    stream = f"build-{build_id}"
    return (await log.load([stream]))[stream]


def texts(events: list[Recorded]) -> set[str]:
    """What the events say that a deletion has to take."""

    def texts_of(event: Event) -> list[str]:
        match event:
            case BuildQueued():
                return [event.branch, event.job_title]
            case BuildCommented():
                return [event.text]
            case _:
                return []

    return {text for recorded in events for text in texts_of(recorded.event)} - {""}


async def test_a_deleted_builds_texts_are_gone(parts: Core, handler: Handler) -> None:
    async with another_log(parts) as knows_the_key, another_log(parts) as follows:
        assert texts(await of_build(knows_the_key, 1)) >= {BRANCH, TEXT}
        before = await follows.read(0, 100)
        await handler.execute(DeleteBuild(1), ANN)
        async with parts.pool.connection() as connection:
            cursor = await connection.execute("SELECT name, wrapped IS NULL FROM stored_events_keys ORDER BY name")
            keys: dict[str, bool] = dict(await cursor.fetchall())
        assert (keys[build_key(1, 5, 1)], keys[build_key(1, 5, 2)]) == (True, False)
        async with another_log(parts) as new:
            for log in (parts.log, knows_the_key, follows, new):
                events = await of_build(log, 1)
                assert texts(events) == set()
                assert [type(item.event) for item in events][-1] is BuildDeleted
                assert texts(await of_build(log, 2)) == {BRANCH, "Smoke"}
                state: AnyBuild | None = await log.load_state(BUILD.at(1))
                assert isinstance(state, DeletedBuild)
            after = await new.read(0, 100)
        assert [(item.stream, item.version, item.event.at, item.event.actor) for item in after[: len(before)]] == [
            (item.stream, item.version, item.event.at, item.event.actor) for item in before
        ], "that it was there, when and by whom stays"


async def test_nothing_can_be_added_to_it(parts: Core, handler: Handler) -> None:
    async with another_log(parts) as knows_the_key:
        elsewhere = Handler(knows_the_key, utcnow)
        await elsewhere.execute(CommentOnBuild(1, 89, TEXT, 7), ANN)
        await handler.execute(DeleteBuild(1), ANN)
        for one in (handler, elsewhere):
            with pytest.raises(NotFound):
                await one.execute(CommentOnBuild(1, 90, TEXT, 7), ANN)


@pytest.mark.parametrize("run", range(5))
async def test_a_deletion_that_is_refused_erases_nothing(parts: Core, handler: Handler, run: int) -> None:
    """Pins, comments and the deletion race; whoever comes first wins, and the key goes with the deletion only."""
    async with another_log(parts) as other:
        rivals = [
            handler.execute(CommentOnBuild(1, 100 + run, TEXT, 7), ANN),
            handler.execute(DeleteBuild(1), ANN),
            Handler(other, utcnow).execute(PinBuild(1, True), ANN),
            Handler(other, utcnow).execute(CommentOnBuild(1, 200 + run, TEXT, 8), ANN),
        ]
        outcomes = await asyncio.gather(*rivals[run % 4 :], *rivals[: run % 4], return_exceptions=True)
        assert all(
            isinstance(item, Conflict | NotFound | Erased) for item in outcomes if isinstance(item, BaseException)
        ), outcomes
        async with another_log(parts) as new:
            events = await of_build(new, 1)
            deleted = isinstance(events[-1].event, BuildDeleted)
            assert texts(events) == (set() if deleted else texts(await of_build(other, 1)))
            assert (TEXT in texts(events)) != deleted


async def test_a_process_keeps_a_destroyed_key_for_a_minute_at_most(
    parts: Core, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = build_key(1, 5, 1)
    async with another_log(parts) as other:
        before = await other.data_keys.load([name])
        assert before[name] is not None
        await handler.execute(DeleteBuild(1), ANN)
        assert await other.data_keys.load([name]) == before
        monkeypatch.setattr("store.log.data_keys.KEY_CACHE_LIFETIME_S", 0)
        assert await other.data_keys.load([name]) == {name: None}
