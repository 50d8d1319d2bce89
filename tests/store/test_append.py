"""Group commit against a real PostgreSQL."""

import asyncio
import multiprocessing

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from store.log.append import AppendFailed, GroupCommit, Request, VersionConflict


def event(stream: str, version: int = 1, state: bytes = b"state") -> StoredEvent:
    return StoredEvent(stream, version, "thing.happened", state)


def rows(conninfo: str) -> list[tuple[int, str, int]]:
    with psycopg.connect(conninfo) as connection:
        query = "SELECT notification_id, originator_id, originator_version FROM stored_events ORDER BY 1"
        return connection.execute(query).fetchall()


async def test_positions_follow_the_order_of_the_request(database: str) -> None:
    commit = GroupCommit(database)
    assert await commit.append(Request([event("a"), event("b"), event("a", 2)])) == [1, 2, 3]
    await commit.close()
    assert rows(database) == [(1, "a", 1), (2, "b", 1), (3, "a", 2)]


async def test_a_taken_version_fails_only_its_own_caller(database: str) -> None:
    commit = GroupCommit(database)
    await commit.append(Request([event("a")]))
    answers = await asyncio.gather(
        commit.append(Request([event("b")])),
        commit.append(Request([event("c"), event("a")])),
        commit.append(Request([event("d")])),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [list, VersionConflict, list]
    await commit.close()
    assert [stream for _, stream, _ in rows(database)] == ["a", "b", "d"]


async def test_a_guarded_stream_must_not_have_moved(database: str) -> None:
    commit = GroupCommit(database)
    await commit.append(Request([event("job")]))
    await commit.append(Request([event("build")], guards=[("job", 1)]))
    with pytest.raises(VersionConflict):
        await commit.append(Request([event("late")], guards=[("job", 0)]))
    await commit.close()
    assert [stream for _, stream, _ in rows(database)] == ["job", "build"]


async def test_a_guard_sees_what_its_own_batch_wrote(database: str) -> None:
    commit = GroupCommit(database)
    answers = await asyncio.gather(
        commit.append(Request([event("job")])),
        commit.append(Request([event("build")], guards=[("job", 0)])),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [list, VersionConflict]
    await commit.close()


async def test_one_bad_request_does_not_take_the_batch_with_it(database: str) -> None:
    commit = GroupCommit(database)
    bad = Request([StoredEvent("bad", 1, "nul \x00 in the topic", b"")])
    answers = await asyncio.gather(
        commit.append(Request([event("a")])),
        commit.append(bad),
        commit.append(Request([event("b")])),
        return_exceptions=True,
    )
    assert isinstance(answers[1], psycopg.DataError)
    await commit.close()
    assert [stream for _, stream, _ in rows(database)] == ["a", "b"]


async def test_a_data_key_is_made_once(database: str) -> None:
    commit = GroupCommit(database)
    await commit.append(Request([event("a")], keys=[("build-1", b"wrapped")]))
    with pytest.raises(VersionConflict):
        await commit.append(Request([event("b")], keys=[("build-1", b"other")]))
    await commit.close()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT name, wrapped FROM stored_events_keys").fetchall() == [
            ("build-1", b"wrapped")
        ]


async def test_a_connection_lost_in_between_is_made_again(database: str) -> None:
    commit = GroupCommit(database)
    await commit.append(Request([event("a")]))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert await commit.append(Request([event("b")])) == [2]
    await commit.close()


async def test_what_was_written_before_the_connection_broke_is_found_again(database: str) -> None:
    """Nobody knows the outcome of a commit whose connection broke: the same request is answered, not refused."""
    first = GroupCommit(database)
    positions = await first.append(Request([event("a", state=b"mine"), event("b", state=b"mine too")]))
    await first.close()

    class BreaksAfterCommit(GroupCommit):
        broken = False

        async def _write_together(self, batch):  # type: ignore[no-untyped-def]
            if not self.broken:
                self.broken = True
                raise psycopg.OperationalError("the server closed the connection unexpectedly")
            await super()._write_together(batch)

    second = BreaksAfterCommit(database)
    assert await second.append(Request([event("a", state=b"mine"), event("b", state=b"mine too")])) == positions
    await second.close()


async def test_a_cancelled_close_fails_what_is_not_written(database: str) -> None:
    commit = GroupCommit(database)
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE stored_events")
        writing = asyncio.ensure_future(commit.append(Request([event("a")])))
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while other.execute(waiting).fetchone() is None:
            other.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0.01)  # between two looks
        queued = asyncio.ensure_future(commit.append(Request([event("b")])))
        closing = asyncio.ensure_future(commit.close())
        await asyncio.sleep(0)  # lets both begin
        closing.cancel()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(writing, queued, return_exceptions=True)
    assert [type(answer) for answer in answers] == [AppendFailed, AppendFailed]
    assert rows(database) == []


async def test_a_database_that_stays_away_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.log.append.RECONNECT_PAUSES_S", (0.01, 0.01))
    commit = GroupCommit("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(AppendFailed):
        await commit.append(Request([event("a")]))


WRITERS, EACH = 16, 250
PROCESSES = 4


def _write(conninfo: str, process: int) -> None:
    async def run() -> None:
        commit = GroupCommit(conninfo)

        async def writer(number: int) -> None:
            for count in range(EACH):
                await commit.append(Request([event(f"{process}-{number}-{count}")]))

        await asyncio.gather(*(writer(number) for number in range(WRITERS // PROCESSES)))
        await commit.close()

    asyncio.run(run())


async def test_a_tailing_reader_sees_every_event_exactly_once(database: str) -> None:
    """16 writers in 4 processes append 4,000 events while one reader follows by position."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(database, number)) for number in range(PROCESSES)]
    for writer in writers:
        writer.start()
    seen: list[str] = []
    position = 0
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        done = False
        while True:
            cursor = await connection.execute(
                "SELECT notification_id, originator_id FROM stored_events WHERE notification_id > %s ORDER BY 1",
                (position,),
            )
            found = await cursor.fetchall()
            if not found and done:
                break
            # Looked at before the next query: what was written until then is in it.
            done = all(not writer.is_alive() for writer in writers)
            if found:
                position = found[-1][0]
                seen.extend(stream for _, stream in found)
    assert [writer.exitcode for writer in writers] == [0] * PROCESSES
    assert len(seen) == len(set(seen)) == WRITERS * EACH
    assert position == WRITERS * EACH, "positions are contiguous"
