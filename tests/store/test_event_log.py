"""The event log on a real PostgreSQL: what is appended is what is read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import psycopg
import pytest

from domain.auth import ApiTokenCreated
from domain.builds import BUILD, Assigned, BuildAssigned, BuildQueued, Queued
from domain.claims import ClaimTaken
from domain.core.data_keys import build_key, job_key, lineage, project_key
from domain.core.errors import Erased
from domain.core.events import Category, Event, EventMetadata, Recorded
from domain.jobs import Configuration, JobCreated, JobDeleted
from domain.projects import ProjectDeleted
from domain.registry import EVENTS, UPCASTERS
from domain.users import UserRegistered
from store.log import event_log
from store.log.append import GroupCommit, VersionConflict
from store.log.codec import EventMapper
from store.log.event_log import EventLog, Write
from store.postgres.notifications import may_contain
from testhide.processes import Core

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
STAMP = EventMetadata(NOW, "user:7", "request-1")


def claim(name: str, owner: str = "user-1") -> ClaimTaken:
    return ClaimTaken(claim=name, owner=owner)


def queued(build_id: int) -> BuildQueued:
    return BuildQueued(
        build_id=build_id, job_id=5, project_id=1, configuration=Configuration(command="pytest"), branch="main"
    )


def blank(event: Event) -> Event:
    """The event as an erasure leaves it."""
    fields = {field.name: field for field in msgspec.structs.fields(event)}
    return msgspec.structs.replace(
        event,
        **{
            name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            for name, field in fields.items()
            if name in event.sealed
        },
    )


def assigned(build_id: int) -> BuildAssigned:
    return BuildAssigned(build_id=build_id, job_id=5, project_id=1, node_id=3, attempt=1)


def token(token_id: int) -> ApiTokenCreated:
    return ApiTokenCreated(token_id=token_id, user_id=7, label="ci", token_hash=b"hash")


@contextlib.asynccontextmanager
async def another_log(parts: Core) -> AsyncIterator[EventLog]:
    """On the same database, as another process has it."""
    commit = GroupCommit(parts.conninfo)
    yield EventLog(parts.pool, commit, EventMapper(EVENTS, UPCASTERS), parts.secrets)
    await commit.close()


async def test_what_is_appended_is_read(parts: Core) -> None:
    recorded = await parts.log.append([Write(1, queued(1)), Write(1, claim("a")), Write(2, assigned(1))], STAMP)
    assert recorded == [
        Recorded("build-1", 1, 1, STAMP.on(queued(1))),
        Recorded("claim-a", 1, 2, STAMP.on(claim("a"))),
        Recorded("build-1", 2, 3, STAMP.on(assigned(1))),
    ]
    assert await parts.log.read(0, 10) == recorded
    assert await parts.log.read(1, 1) == recorded[1:2]
    assert await parts.log.load(["build-1", "build-2"]) == {"build-1": [recorded[0], recorded[2]], "build-2": []}
    async with another_log(parts) as other:
        assert await other.read(0, 10) == recorded
    assert await parts.log.read_head() == 3


async def test_what_is_encoded_in_a_thread_is_read(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two appends at once: a large one, and one in the event loop."""
    monkeypatch.setattr(event_log, "MAX_ENCODING_S", -1.0)
    large = [Write(1, claim(f"large-{number}", "x" * 100_000)) for number in range(20)]
    in_thread = asyncio.create_task(parts.log.append(large, STAMP))
    await asyncio.sleep(0)
    monkeypatch.setattr(event_log, "MAX_ENCODING_S", 60.0)
    await asyncio.gather(*(parts.log.append([Write(1, claim(f"{n}", "y" * 10_000))], STAMP) for n in range(20)))
    await in_thread
    read = {recorded.stream: recorded.event for recorded in await parts.log.read(0, 100)}
    assert len(read) == 40
    assert all(read[write.event.stream] == STAMP.on(write.event) for write in large)


async def test_a_log_without_events(parts: Core) -> None:
    assert await parts.log.read_head() == 0
    assert await parts.log.read(0, 10) == []
    assert await parts.log.load_state(BUILD.at(1)) is None


async def test_a_state_is_what_its_stream_folds_to(parts: Core) -> None:
    await parts.log.append([Write(1, queued(1)), Write(1, queued(2))], STAMP)
    assert await parts.log.load_state(BUILD.at(2)) == Queued(STAMP.on(queued(2)))  # type: ignore[arg-type]
    counting = Category[int]("build", 0, lambda count, event: count + 1)
    await parts.log.append([Write(2, assigned(2))], STAMP)
    assert await parts.log.load_state(counting.at(2)) == 2


async def test_only_events_of_some_names(parts: Core) -> None:
    job = JobCreated(job_id=5, project_id=1, title="Smoke")
    await parts.log.append([Write(1, job), Write(1, queued(1)), Write(1, claim("a")), Write(2, assigned(1))], STAMP)
    names = [recorded.event.name for recorded in await parts.log.read(0, 10, ["build.queued", "job.created"])]
    assert names == ["job.created", "build.queued"]
    assert [recorded.position for recorded in await parts.log.read(1, 1, ["build.assigned"])] == [4]
    assert await parts.log.read(0, 10, []) == []


async def test_all_or_nothing(parts: Core) -> None:
    await parts.log.append([Write(1, claim("a"))], STAMP)
    with pytest.raises(VersionConflict):
        await parts.log.append([Write(1, claim("b")), Write(1, claim("a"))], STAMP)
    with pytest.raises(VersionConflict):
        await parts.log.append([Write(1, claim("c"))], STAMP, guards=[("claim-a", 0)])
    assert await parts.log.read_head() == 1
    await parts.log.append([Write(1, claim("c"))], STAMP, guards=[("claim-a", 1), ("claim-b", 0)])
    assert await parts.log.read_head() == 2


async def test_notifications_are_sent_with_the_commit(parts: Core) -> None:
    async with await psycopg.AsyncConnection.connect(parts.conninfo, autocommit=True) as listening:
        await listening.execute("LISTEN stored_events_wakes")
        await listening.execute("LISTEN stored_events")
        await parts.log.append([Write(1, assigned(1))], STAMP)
        heard = [(note.channel, note.payload) async for note in listening.notifies(timeout=5, stop_after=2)]
    assert heard == [("stored_events", f"1 {BuildAssigned.name}"), ("stored_events_wakes", assigned(1).notifies)]


async def test_news_say_what_was_appended(parts: Core) -> None:
    async with await psycopg.AsyncConnection.connect(parts.conninfo, autocommit=True) as listening:
        await listening.execute("LISTEN stored_events")
        await parts.log.append([Write(1, claim("a")), Write(1, claim("b")), Write(1, token(1))], STAMP)
        (payload,) = [note.payload async for note in listening.notifies(timeout=5, stop_after=1)]
    assert may_contain(payload, ["other", ClaimTaken.name])
    assert may_contain(payload, [ApiTokenCreated.name])
    assert not may_contain(payload, ["other", "3"])


async def test_a_data_key_is_made_once_whoever_is_first(parts: Core) -> None:
    """Several processes write the first sealed event of an owner at once: one key wins, and all of it can be read."""

    async def write(number: int) -> None:
        async with another_log(parts) as log:
            while True:
                try:
                    await log.append([Write(1, token(number))], STAMP)
                except VersionConflict:
                    continue
                return

    await asyncio.gather(*(write(number) for number in range(4)))
    with psycopg.connect(parts.conninfo) as connection:
        assert connection.execute("SELECT name FROM stored_events_keys").fetchall() == [("user-7",)]
    read = await parts.log.read(0, 10)
    assert sorted(recorded.stream for recorded in read) == [f"api-token-{number}" for number in range(4)]
    assert {type(recorded.event) for recorded in read} == {ApiTokenCreated}


async def test_a_destroyed_key_takes_the_sealed_fields_and_leaves_the_rest(parts: Core) -> None:
    await parts.log.append([Write(1, queued(1)), Write(1, queued(2)), Write(2, assigned(1))], STAMP)
    with psycopg.connect(parts.conninfo, autocommit=True) as connection:
        connection.execute(
            "UPDATE stored_events_keys SET wrapped = NULL, destroyed_at = now() WHERE name = %s", (build_key(1, 5, 1),)
        )
    async with another_log(parts) as log:
        read = await log.read(0, 10)
        assert [(recorded.event, recorded.erased) for recorded in read] == [
            (STAMP.on(blank(queued(1))), True),
            (STAMP.on(queued(2)), False),
            (STAMP.on(assigned(1)), False),
        ]
        state = await log.load_state(BUILD.at(1))
        assert isinstance(state, Assigned)
        assert state.queued.branch == ""


async def test_keys_are_made_with_all_above_them(parts: Core) -> None:
    """Once each, however many writers need the same ones at the same time; and another process opens them."""
    names = [build_key(1, 5, number) for number in range(1, 5)]

    async def write(build_id: int) -> None:
        async with another_log(parts) as log:
            while True:
                with contextlib.suppress(VersionConflict):
                    await log.append([Write(1, queued(build_id))], STAMP)
                    return

    await asyncio.gather(*(write(number) for number in range(1, 5)))
    with psycopg.connect(parts.conninfo) as connection:
        made = [name for (name,) in connection.execute("SELECT name FROM stored_events_keys").fetchall()]
    assert sorted(made) == sorted({above for name in names for above in lineage(name)})
    async with another_log(parts) as log:
        read = {recorded.stream: recorded.event for recorded in await log.read(0, 9)}
    assert read == {f"build-{number}": STAMP.on(queued(number)) for number in range(1, 5)}


@pytest.mark.parametrize(
    "deleted", [JobDeleted(job_id=5, project_id=1), ProjectDeleted(project_id=1)], ids=["job", "project"]
)
async def test_a_destroyed_key_takes_all_below_it(parts: Core, deleted: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, also for a process that has the keys below in memory and is not told; and nothing new comes below it."""
    elsewhere = BuildQueued(build_id=9, job_id=7, project_id=2, branch="main")
    await parts.log.append([Write(1, queued(1)), Write(1, queued(2)), Write(1, elsewhere)], STAMP)
    async with another_log(parts) as follows, another_log(parts) as knows_the_keys, another_log(parts) as new:
        for log in (follows, knows_the_keys):
            assert not any(recorded.erased for recorded in await log.read(0, 10))
        await parts.log.append([Write(1, deleted)], STAMP)
        for log in (parts.log, follows, new):
            read = await log.read(0, 10)
            assert [recorded.erased for recorded in read] == [True, True, False, False]
            assert [recorded.event for recorded in read[:3]] == [
                STAMP.on(blank(queued(1))),
                STAMP.on(blank(queued(2))),
                STAMP.on(elsewhere),
            ]
            assert (await log.data_keys.load([build_key(1, 5, 1)]))[build_key(1, 5, 1)] is None
            with pytest.raises(Erased, match="was erased"):
                await log.append([Write(1, queued(3))], STAMP)
        monkeypatch.setattr("store.log.data_keys.KEY_CACHE_LIFETIME_S", 0)
        assert [item.erased for item in (await knows_the_keys.load(["build-1"]))["build-1"]] == [True]


async def test_what_was_erased_before_it_said_anything_stays_so(parts: Core) -> None:
    await parts.log.append([Write(1, JobDeleted(job_id=5, project_id=1))], STAMP)
    async with another_log(parts) as other:
        for log in (parts.log, other):
            with pytest.raises(Erased, match="job-5 was erased"):
                await log.append([Write(1, queued(1))], STAMP)
    await parts.log.append([Write(2, assigned(1))], STAMP)
    assert (await parts.log.data_keys.load([job_key(1, 5), project_key(1)])) == {job_key(1, 5): None}


async def test_a_full_cache_of_keys_erases_nothing(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are read in bulk: those that were known already may not make room for the others before they were used."""
    monkeypatch.setattr("store.log.data_keys.MAX_CACHED_KEYS", 3)
    await parts.log.append([Write(1, queued(number)) for number in range(1, 9)], STAMP)
    await parts.log.append([Write(2, assigned(number)) for number in range(1, 9)], STAMP)
    async with another_log(parts) as log:
        await log.read(0, 1)
        assert [type(recorded.event) for recorded in await log.read(0, 8)] == [BuildQueued] * 8
        await log.load(["build-1"])
        await log.append([Write(3, assigned(number)) for number in (1, 5, 6, 7, 8)], STAMP)
    assert [type(recorded.event) for recorded in await parts.log.read(16, 9)] == [BuildAssigned] * 5


async def test_users_are_not_stored_in_clear(parts: Core) -> None:
    user = UserRegistered(user_id=7, email="ann@example.com", role="admin", password_hash="$argon2id$")
    await parts.log.append([Write(1, user)], EventMetadata(NOW, "system"))
    with psycopg.connect(parts.conninfo) as connection:
        ((state,),) = connection.execute("SELECT state FROM stored_events").fetchall()
    assert b"ann@example.com" not in state


async def test_a_reader_on_a_connection_takes_no_other(parts: Core) -> None:
    await parts.log.append([Write(1, queued(7))], STAMP)
    async with parts.pool.connection() as connection:
        reader, taken = parts.log.on(connection), parts.pool.get_stats()["requests_num"]
        (recorded,) = (await reader.load(["build-7"]))["build-7"]
        assert await reader.read(0, 10) == await reader.read_at([1]) == [recorded]
        assert parts.pool.get_stats()["requests_num"] == taken
    assert (await parts.log.load(["build-7"]))["build-7"] == [recorded]
