"""Attempts to sign in are counted before passwords are checked, for a while."""

import asyncio

from store.tables.login_attempts import ATTEMPT_WINDOW_S, KNOWN_ADDRESS_DAYS, LoginAttempts
from testhide.processes import Core


async def test_attempts_at_once_do_not_exceed_a_limit(parts: Core) -> None:
    attempts = LoginAttempts(parts.pool)
    waits = await asyncio.gather(*(attempts.reserve({"a": 10, "b": 100}) for _ in range(40)))
    assert waits.count(0) == 10
    assert all(0 < wait_s <= ATTEMPT_WINDOW_S for wait_s in waits if wait_s)
    # Those that were refused count for no subject.
    async with parts.pool.connection() as connection:
        counted = await (await connection.execute("SELECT subject, failures FROM login_failures ORDER BY 1")).fetchall()
    assert counted == [("a", 10), ("b", 10)]


async def test_a_success_is_taken_back_and_remembered(parts: Core) -> None:
    attempts = LoginAttempts(parts.pool)
    limits = {"pair": 2, "address": 2}
    assert not await attempts.is_known("pair")
    for _ in range(5):
        assert await attempts.reserve(limits) == 0
        await attempts.release(limits)
        await attempts.succeed("pair")
    assert await attempts.is_known("pair")
    async with parts.pool.connection() as connection:
        await connection.execute("UPDATE known_logins SET at = at - make_interval(days => %s)", (KNOWN_ADDRESS_DAYS,))
    assert not await attempts.is_known("pair")
    await attempts.succeed("other")
    async with parts.pool.connection() as connection:
        known = await (await connection.execute("SELECT subject FROM known_logins")).fetchall()
    assert known == [("other",)]


async def test_a_window_ends(parts: Core) -> None:
    attempts = LoginAttempts(parts.pool)
    for _ in range(2):
        await attempts.reserve({"a": 1, "old": 9})
    assert await attempts.reserve({"a": 1}) > 0
    async with parts.pool.connection() as connection:
        await connection.execute(
            "UPDATE login_failures SET since = since - make_interval(secs => %s)", (ATTEMPT_WINDOW_S + 1,)
        )
    assert await attempts.reserve({"a": 1}) == 0
    await attempts.release({"a": 1})
    async with parts.pool.connection() as connection:
        left = await (await connection.execute("SELECT subject, failures FROM login_failures")).fetchall()
    assert left == [("a", 0)]


async def test_failures_alone_do_not_let_the_table_grow(parts: Core) -> None:
    attempts = LoginAttempts(parts.pool)
    for number in range(12):
        await attempts.reserve({f"{kind} {number}": 9 for kind in ("pair", "address", "account")})
    async with parts.pool.connection() as connection:
        await connection.execute(
            "UPDATE login_failures SET since = since - make_interval(secs => %s)", (ATTEMPT_WINDOW_S + 1,)
        )
    for _ in range(4):
        assert await attempts.reserve({"a": 9}) == 0
    async with parts.pool.connection() as connection:
        left = await (await connection.execute("SELECT subject FROM login_failures")).fetchall()
    assert left == [("a",)]
