"""Tries of reactions: leases, pauses and parking, progress, cancellation, and systems that ask to be called later."""

import asyncio

import hypothesis
from hypothesis import strategies as st

from commands.handler import CommandContext
from commands.reactions import CancelReaction
from domain.core.events import Event
from domain.jobs import JobDeleted
from store.tables import reactions as due_reactions
from store.tables.reactions import DEFAULT_RETRIES, MIN_LEASE_S, Due, ReactionStatus, RetryPolicy
from tests.workers.yard import Yard, reaction, reads, run_due
from workers.reactions.reaction import RetryLater, Tools
from workers.reactions.registry import MAIL_RETRIES
from workers.reactions.tries import MAX_WAITING_S

HOUR_S = 3_600


@hypothesis.given(
    st.builds(RetryPolicy, st.integers(1, 200), st.floats(0.1, 60), st.floats(60, 10_000)), st.integers(1, 10_000)
)
def test_pauses_grow_up_to_their_limit(retries: RetryPolicy, failed: int) -> None:
    pause, next_pause = retries.pause_after(failed), retries.pause_after(failed + 1)
    assert retries.first_pause_s <= pause <= next_pause <= min(2 * pause, retries.max_pause_s)


def test_tries_go_on_for_more_than_half_a_day() -> None:
    for retries in (DEFAULT_RETRIES, MAIL_RETRIES):
        assert 14 <= sum(map(retries.pause_after, range(1, retries.tries))) / HOUR_S < 15


async def test_each_reaction_has_its_tries_and_pauses(yard: Yard) -> None:
    async def fails(event: Event, tools: Tools) -> None:
        raise OSError

    relay = yard.relay(reactions=(reaction("tested", fails, retries=RetryPolicy(2, 1_000, 1_000)),))
    await yard.note(relay, 5)
    assert await run_due(relay) == 1
    async with yard.parts.pool.connection() as connection:
        assert not await due_reactions.has_parked(connection)
        left = "SELECT extract(epoch FROM due_at - now())::float8 FROM due_reactions"
        row = await (await connection.execute(left)).fetchone()
        assert row is not None
        assert 900 < row[0] <= 1_000
        await yard.make_due()
        assert await run_due(relay) == 1
        assert await due_reactions.has_parked(connection)


async def test_what_ends_its_worker_in_each_try_is_parked(yard: Yard) -> None:
    async def dies(event: Event, tools: Tools) -> None:
        raise asyncio.CancelledError

    relay = yard.relay(reactions=(reaction("tested", dies, retries=RetryPolicy(2)),))
    await yard.note(relay, 5)
    for _ in range(3):
        await yard.make_due()
        await run_due(relay)
    (status,) = await due_reactions.fetch_statuses(yard.parts.pool)
    (position,) = await yard.deletions()
    assert (status.due, status.parked, status.errors) == (0, 1, [f"position {position}: its worker died each time"])


async def test_a_try_that_ends_its_worker_after_many_waits_is_repeated_soon(yard: Yard) -> None:
    is_dying = False

    async def waits(event: Event, tools: Tools) -> None:
        if is_dying:
            raise asyncio.CancelledError
        raise RetryLater(1, "another worker does it")

    relay = yard.relay(reactions=(reaction("tested", waits),))
    await yard.note(relay, 5)
    for _ in range(9):
        assert await run_due(relay) == 1
        await yard.make_due()
    is_dying = True
    await run_due(relay)
    left = "SELECT tries, due_at <= now() + make_interval(secs => %s) FROM due_reactions"
    async with yard.parts.pool.connection() as connection:
        assert await (await connection.execute(left, (MIN_LEASE_S,))).fetchone() == (10, True)


async def test_a_system_that_asks_to_be_called_later_costs_no_try_for_a_day(yard: Yard) -> None:
    async def waits(event: Event, tools: Tools) -> None:
        raise RetryLater(7 * HOUR_S, "mail.example.com answered 429")

    relay = yard.relay(reactions=(reaction("tested", waits, retries=RetryPolicy(2)),))
    await yard.note(relay, 5)
    for _ in range(4):
        await yard.make_due()
        assert await run_due(relay) == 1
    assert await yard.due() == [("tested", 4, "mail.example.com answered 429")]
    async with yard.parts.pool.connection() as connection:
        cursor = await connection.execute("SELECT due_at <= now() + interval '1 h' FROM due_reactions")
        assert await cursor.fetchall() == [(True,)], "a system does not decide over more than an hour"
        age = "UPDATE due_reactions SET noted_at = now() - make_interval(secs => %s)"
        await connection.execute(age, (MAX_WAITING_S + 1,))
        for parked in (False, True):
            await yard.make_due()
            assert await run_due(relay) == 1
            assert await due_reactions.has_parked(connection) is parked


async def test_progress_is_shown_while_it_works_and_after_a_try_that_failed(yard: Yard) -> None:
    go_on = asyncio.Event()

    async def works(event: Event, tools: Tools) -> None:
        tools.count_deleted(3_000, 8_000)
        await go_on.wait()
        raise OSError

    async def progress() -> list[str]:
        (status,) = await due_reactions.fetch_statuses(yard.parts.pool)
        async with yard.parts.pool.connection() as connection:
            return status.progress + await due_reactions.fetch_progress(connection)

    relay = yard.relay(reactions=(reaction("tested", works),), renewal_interval_s=0.01)
    await yard.note(relay, 5)
    (trying,) = await relay.sweep()
    words = f"position {(await yard.deletions())[0]}: 3,000 of 8,000 artifacts deleted"
    await yard.until(lambda: reads(progress, [words, f"tested at {words}"]))
    go_on.set()
    await trying
    assert (await progress())[0] == words


async def test_a_cancelled_one_ends_and_never_runs_again(yard: Yard) -> None:
    ended = asyncio.Event()

    async def works(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    relay = yard.relay(reactions=(reaction("tested", works),), renewal_interval_s=0.01)
    await yard.note(relay, 5)
    (position,) = await yard.deletions()
    (trying,) = await relay.sweep()
    async with yard.parts.pool.connection() as connection:

        async def is_leased() -> bool:
            return [tries for _, tries, _ in await yard.due()] == [1]

        await yard.until(is_leased)
        assert not await due_reactions.halt(connection, "tested", position + 1, "a mistake")
        assert await due_reactions.halt(connection, "tested", position, "a mistake")
        await trying
        assert ended.is_set()
        assert (await yard.due()) == [("tested", 1, "a mistake")], "it stays until its cancellation is in the log"
        await due_reactions.mark_done(connection, Due("tested", position, 1))
        await yard.handler.execute(
            CancelReaction("tested", position, "a mistake", "ann"), CommandContext("system:operator")
        )
        await due_reactions.remove_parked(connection, "tested", position)
        assert await yard.due() == []
        await connection.execute("UPDATE reaction_positions SET position = 0")  # as `testhide repair` does
    await relay.note_next(relay._reactions["tested"])
    assert await yard.due() == []


async def test_a_lease_lasts_as_long_as_it_is_renewed(yard: Yard) -> None:
    async def runs(event: Event, tools: Tools) -> None: ...

    await yard.note(yard.relay(reactions=(reaction("tested", runs),)), 5)
    (due,) = await due_reactions.fetch_due(yard.parts.pool, ["tested"], 10)
    assert await due_reactions.lease(yard.parts.pool, due, DEFAULT_RETRIES)
    assert not await due_reactions.lease(yard.parts.pool, due, DEFAULT_RETRIES), "somebody has it"
    await yard.make_due()  # its lease has ended
    assert await due_reactions.renew(yard.parts.pool, due, None)
    assert await due_reactions.fetch_due(yard.parts.pool, ["tested"], 10) == []
    await yard.make_due()
    (second,) = await due_reactions.fetch_due(yard.parts.pool, ["tested"], 10)
    assert await due_reactions.lease(yard.parts.pool, second, DEFAULT_RETRIES)
    await yard.make_due()
    assert not await due_reactions.renew(yard.parts.pool, due, None), "another worker has it"
    await due_reactions.mark_failed(yard.parts.pool, due, "too late", 60)
    assert await due_reactions.fetch_due(yard.parts.pool, ["tested"], 10) == [due._replace(tries=3)]


async def test_it_is_parked_after_many_tries(yard: Yard) -> None:
    async def fails(event: Event, tools: Tools) -> None:
        raise ValueError

    relay = yard.relay(reactions=(reaction("tested", fails),))
    await yard.note(relay, 5)
    for _ in range(DEFAULT_RETRIES.tries + 3):
        await yard.make_due()
        await run_due(relay)
    assert await yard.due() == [("tested", DEFAULT_RETRIES.tries, "ValueError()")]


async def test_what_is_parked_is_shown_and_tried_again(yard: Yard) -> None:
    working = False

    async def fails(event: Event, tools: Tools) -> None:
        if not working:
            raise OSError("no route to the blobs")

    relay = yard.relay(reactions=(reaction("tested", fails),))
    await yard.note(relay, 5, 6)
    async with yard.parts.pool.connection() as connection:
        assert not await due_reactions.has_parked(connection)
        for _ in range(DEFAULT_RETRIES.tries):
            await yard.make_due()
            await run_due(relay)
        assert await due_reactions.has_parked(connection)
        errors = [f"position {position}: OSError('no route to the blobs')" for position in await yard.deletions()]
        status = ReactionStatus("tested", await yard.parts.log.read_head(), 0, 2, [], errors)
        assert await due_reactions.fetch_statuses(connection) == [status]
        working = True
        assert await due_reactions.retry_parked(connection, "other") == 0
        assert await due_reactions.retry_parked(connection, "tested") == 2
        assert await run_due(relay) == 2
        assert not await due_reactions.has_parked(connection)


async def test_what_takes_too_long_is_cancelled_and_counts_as_failed(yard: Yard) -> None:
    async def hangs(event: Event, tools: Tools) -> None:
        await asyncio.Event().wait()

    relay = yard.relay(reactions=(reaction("tested", hangs, time_limit_s=0.1),))
    await yard.note(relay, 5)
    assert await run_due(relay) == 1
    assert await yard.due() == [("tested", 1, "takes more than 0.1 s")]
