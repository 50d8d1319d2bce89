"""Events that cannot be read do not stop the workers: each says what it could not do, and does it once it can."""

from collections import Counter

import pytest

from domain.builds import BUILD
from domain.core.errors import StreamDamaged
from store.tables import reactions
from store.tables.reactions import ReactionStatus
from testhide.processes import Core
from tests.integrations.receiving import messages, receiving
from tests.support.damage import damaged
from tests.workers.hooks import Hooks
from tests.workers.test_dispatcher import Yard, is_assigned
from workers.deliveries.planner import NAME


async def status(parts: Core) -> ReactionStatus:
    async with parts.pool.connection() as connection:
        assert await reactions.has_parked(connection), "readyz says degraded"
        (found,) = [one for one in await reactions.fetch_statuses(connection) if one.name == NAME]
    return found


async def retry(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        assert await reactions.retry_parked(connection, None) == 1


async def test_who_is_told_of_it_is_told_when_it_is_mended(hooks: Hooks) -> None:
    parts = hooks.parts
    async with receiving() as receiver:
        await hooks.register(receiver.url, ("build.finished",))
        for build_id in (1, 2):
            await hooks.build(build_id, "passed")
        first = (await parts.log.read(0, 100, ["build.finished"]))[0].position
        with damaged(parts.conninfo, first):
            await hooks.deliver()
            assert messages(receiver) == [("build.finished", 2)]
            shown = await status(parts)
            assert (shown.due, shown.parked) == (0, 1)
            assert shown.errors[0].startswith(f"position {first}: build-1 cannot be used")
            await retry(parts)
            await hooks.deliver()
            assert (await status(parts)).parked == 1, "it still cannot be read"
        await retry(parts)
        await hooks.deliver()
        assert messages(receiver) == [("build.finished", 2), ("build.finished", 1)]
        async with parts.pool.connection() as connection:
            assert not await reactions.has_parked(connection)


async def test_a_replay_leaves_it_out(hooks: Hooks) -> None:
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ("build.finished",))
        for build_id in (1, 2):
            await hooks.build(build_id, "passed")
        await hooks.deliver()
        first = (await hooks.parts.log.read(0, 100, ["build.finished"]))[0].position
        with damaged(hooks.parts.conninfo, first):
            await hooks.replay(webhook)
            await hooks.deliver()
        assert Counter(messages(receiver)) == {("build.finished", 1): 1, ("build.finished", 2): 2}


async def test_the_rest_is_dispatched_and_what_was_damaged_once_it_is_mended(parts: Core) -> None:
    yard = Yard(parts)
    await yard.set_up()
    for build_id in (1, 2):
        await yard.start(build_id)
    (queued,) = (await parts.log.load(["build-1"]))["build-1"]
    async with yard.dispatching():
        with damaged(parts.conninfo, queued.position):
            await yard.gauges.record_poll(3, "first", 1)
            await yard.until(2, is_assigned)
            with pytest.raises(StreamDamaged):
                await parts.log.load_state(BUILD.at(1))
        await yard.gauges.record_poll(3, "first", 1)
        await yard.until(1, is_assigned)
