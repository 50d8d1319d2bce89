"""Build logs: acknowledged only as far as they are stored without a gap."""

import asyncio
import itertools

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.core.errors import TooLarge
from store.tables.build_logs import BuildLogs, Line
from testhide.processes import Core

JOB, BUILD = 5, 2**31 + 7
"""Its id does not fit 32 bits: ids grow."""


@pytest.fixture
def logs(parts: Core) -> BuildLogs:
    return BuildLogs(parts.pool)


def lines(first: int, count: int) -> list[Line]:
    return [Line(1_000 + number, f"line {number}") for number in range(first, first + count)]


async def test_lines_are_acknowledged_as_they_follow_on(logs: BuildLogs) -> None:
    assert await logs.append(JOB, BUILD, 1, 0, lines(0, 3)) == 3
    assert await logs.append(JOB, BUILD, 1, 3, lines(3, 2)) == 5
    assert await logs.append(JOB, BUILD, 1, 5, []) == 5
    assert await logs.count_lines(BUILD, 1) == 5
    assert await logs.read(BUILD, 1, 0, 100) == lines(0, 5)


async def test_a_gap_is_refused(logs: BuildLogs) -> None:
    assert await logs.append(JOB, BUILD, 1, 1, lines(1, 3)) == 0
    await logs.append(JOB, BUILD, 1, 0, lines(0, 2))
    assert await logs.append(JOB, BUILD, 1, 3, lines(3, 3)) == 2
    assert await logs.read(BUILD, 1, 0, 100) == lines(0, 2)


async def test_what_is_sent_again_is_stored_once(logs: BuildLogs) -> None:
    await logs.append(JOB, BUILD, 1, 0, lines(0, 3))
    assert await logs.append(JOB, BUILD, 1, 0, lines(0, 3)) == 3
    assert await logs.append(JOB, BUILD, 1, 1, lines(1, 4)) == 5
    assert await logs.read(BUILD, 1, 0, 100) == lines(0, 5)


async def test_the_first_line_stays_when_another_is_sent_in_its_place(logs: BuildLogs) -> None:
    await logs.append(JOB, BUILD, 1, 0, [Line(1, "first")])
    assert await logs.append(JOB, BUILD, 1, 0, [Line(2, "second"), Line(3, "new")]) == 2
    assert await logs.read(BUILD, 1, 0, 100) == [Line(1, "first"), Line(3, "new")]


async def test_several_senders_at_once(logs: BuildLogs) -> None:
    """An agent that gave up waiting sends again while its first request is still on its way."""
    answers = await asyncio.gather(*(logs.append(JOB, BUILD, 1, 0, lines(0, 1 + number)) for number in range(8)))
    assert max(answers) == await logs.count_lines(BUILD, 1) == 8
    assert await logs.read(BUILD, 1, 0, 100) == lines(0, 8)


async def test_each_attempt_and_each_build_has_a_log_of_its_own(logs: BuildLogs) -> None:
    await logs.append(JOB, BUILD, 1, 0, lines(0, 3))
    assert await logs.count_lines(BUILD, 2) == 0
    assert await logs.append(JOB, BUILD, 2, 0, [Line(1, "again")]) == 1
    assert await logs.append(JOB, BUILD + 2**31, 1, 0, [Line(1, "other")]) == 1
    assert await logs.read(BUILD, 2, 0, 10) == [Line(1, "again")]
    assert await logs.read(BUILD, 1, 0, 10) == lines(0, 3)


async def test_a_page_begins_and_ends_anywhere(logs: BuildLogs) -> None:
    for first in range(0, 20, 4):
        await logs.append(JOB, BUILD, 1, first, lines(first, 4))
    whole = lines(0, 20)
    for offset in range(22):
        for limit in (1, 3, 4, 9, 30):
            assert await logs.read(BUILD, 1, offset, limit) == whole[offset : offset + limit]


async def test_a_deleted_job_leaves_no_lines(logs: BuildLogs) -> None:
    await logs.append(JOB, BUILD, 1, 0, lines(0, 3))
    await logs.append(JOB + 1, BUILD + 1, 1, 0, lines(0, 3))
    await logs.delete_job(JOB)
    assert await logs.count_lines(BUILD, 1) == 0
    assert await logs.count_lines(BUILD + 1, 1) == 3


async def test_readers_are_told(parts: Core, logs: BuildLogs) -> None:
    async with await psycopg.AsyncConnection.connect(parts.conninfo, autocommit=True) as listening:
        await listening.execute("LISTEN build_logs")
        await logs.append(JOB, BUILD, 1, 0, lines(0, 1))
        assert [note.payload async for note in listening.notifies(timeout=5, stop_after=1)] == [str(BUILD)]


FRESH = itertools.count(1_000)
"""Ids of builds that no example has used."""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sends=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=12))
async def test_whatever_is_sent_the_log_has_no_gap_and_no_double(logs: BuildLogs, sends: list[tuple[int, int]]) -> None:
    number = next(FRESH)
    expected = 0
    for first, count in sends:
        if first <= expected:
            expected = max(expected, first + count)
        assert await logs.append(JOB, number, 1, first, lines(first, count)) == expected
    assert await logs.read(number, 1, 0, 100) == lines(0, expected)


CHUNK = "UPDATE build_log_chunks SET {} WHERE first_line = 3"


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        (
            CHUNK.format("lines = (SELECT lines FROM build_log_chunks WHERE first_line = 5)"),
            "lines 4 to 5 were changed",
        ),
        (CHUNK.format("lines = '\\x00'"), "lines 4 to 5 were changed"),
        (CHUNK.format("digest = '\\x00'"), "lines 4 to 5 were changed"),
        (CHUNK.format("line_count = 1"), "lines 4 to 4 were changed"),
        (CHUNK.format("first_line = 4"), "lines 4 to 4 are missing"),
        (CHUNK.format("attempt = 2"), "lines 4 to 5 are missing"),
        ("DELETE FROM build_log_chunks WHERE first_line = 0", "lines 1 to 3 are missing"),
        ("DELETE FROM build_log_chunks", "lines 1 to 5 are missing"),
    ],
)
async def test_a_log_that_was_changed(logs: BuildLogs, parts: Core, change: str, damage: str) -> None:
    await logs.append(JOB, BUILD, 1, 0, lines(0, 3))
    await logs.append(JOB, BUILD, 1, 3, lines(3, 2))
    end = await logs.fetch_end(BUILD, 1)
    assert end.lines == 5
    assert await logs.find_damage(BUILD, 1, end.lines, end.digest) is None
    await logs.append(JOB, BUILD, 1, 5, lines(5, 1))
    assert await logs.find_damage(BUILD, 1, end.lines, end.digest) is None, "what came later changes nothing before it"
    async with parts.pool.connection() as connection:
        await connection.execute(change.encode())
    assert await logs.find_damage(BUILD, 1, end.lines, end.digest) == damage


async def test_a_log_that_was_changed_with_its_digests(logs: BuildLogs, parts: Core) -> None:
    await logs.append(JOB, BUILD, 1, 0, lines(0, 3))
    end = await logs.fetch_end(BUILD, 1)
    await logs.delete_build(BUILD)
    await logs.append(JOB, BUILD, 1, 0, lines(7, 3))
    damage = await logs.find_damage(BUILD, 1, end.lines, end.digest)
    assert damage == "lines 1 to 3 were changed together with their digests"


async def test_an_empty_log_is_intact(logs: BuildLogs) -> None:
    end = await logs.fetch_end(BUILD, 1)
    assert (end.lines, end.digest) == (0, b"")
    assert await logs.find_damage(BUILD, 1, end.lines, end.digest) is None


async def test_a_log_has_an_end(logs: BuildLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.tables.build_logs.MAX_SIZE", 200)
    with pytest.raises(TooLarge):
        await logs.append(JOB, BUILD, 1, 0, lines(0, 50))
    assert await logs.count_lines(BUILD, 1) == 0
