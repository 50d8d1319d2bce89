"""Failed logins are counted for a while."""

from store.tables.login_failures import MAX_FAILURES, WINDOW_S, LoginFailures
from testhide.processes import Core


async def test_counting_by_subject(parts: Core) -> None:
    failures = LoginFailures(parts.pool)
    for _ in range(MAX_FAILURES):
        assert await failures.fetch_wait_s(["a", "b"]) == 0
        await failures.record(["a", "b"])
    assert 0 < await failures.fetch_wait_s(["a", "c"]) <= WINDOW_S
    await failures.clear("a")
    assert await failures.fetch_wait_s(["a", "c"]) == 0
    assert await failures.fetch_wait_s(["b"]) > 0


async def test_a_window_ends(parts: Core) -> None:
    failures = LoginFailures(parts.pool)
    for _ in range(MAX_FAILURES):
        await failures.record(["a", "old"])
    async with parts.pool.connection() as connection:
        await connection.execute("UPDATE login_failures SET since = since - make_interval(secs => %s)", (WINDOW_S + 1,))
    assert await failures.fetch_wait_s(["a"]) == 0
    await failures.record(["a"])
    assert await failures.fetch_wait_s(["a"]) == 0
    async with parts.pool.connection() as connection:
        left = await (await connection.execute("SELECT subject, failures FROM login_failures")).fetchall()
    assert left == [("a", 1)]
