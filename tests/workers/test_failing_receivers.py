"""Receivers that fail: the schedule, the breaker, and what was given up."""

import asyncio

from domain.delivery_outcomes import MAX_RETRY_AFTER_S
from store.tables.deliveries import PAUSES
from tests.integrations.receiving import messages, receiving
from tests.workers.hooks import Hooks
from workers.deliveries.sender import MAX_AGE, MAX_PER_ENDPOINT, RETRY_DELAYS_S, RETRY_JITTER, UPKEEP_INTERVAL_S

ALL = ("build.started", "build.finished", "build.failed", "build.cancelled")


async def test_the_schedule(hooks: Hooks) -> None:
    async with receiving() as receiver:
        receiver.status = 503
        webhook = await hooks.register(receiver.url, ("build.failed",))
        await hooks.build(1, "failed")
        await hooks.deliver()
        for number, pause in enumerate(RETRY_DELAYS_S, 1):
            assert len(receiver.requests) == number
            hooks.later(pause - 1)
            assert await hooks.deliver() == 0, "not before its pause is over"
            hooks.later(1 + pause * 0.1)
            assert await hooks.deliver() == 1
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
        assert len({request.body for request in receiver.requests}) == 1
        hooks.later(10 * 86_400)
        assert await hooks.deliver() == 0
        history = await hooks.history(webhook)
        assert [(one.number, one.status_code, one.error) for one in history] == [
            (number, 503, "answered 503") for number in range(8, 0, -1)
        ]
        (given_up,) = await hooks.events("webhook.delivery_given_up")
        assert (given_up.attempts, given_up.type, given_up.error) == (8, "build.failed", "answered 503")


def test_no_delivery_is_too_old_before_its_last_attempt() -> None:
    longest_s = sum(max(delay_s, MAX_RETRY_AFTER_S) for delay_s in RETRY_DELAYS_S) * (1 + RETRY_JITTER)
    assert longest_s + PAUSES.longest_pause_s < MAX_AGE.total_seconds()


async def test_who_asks_to_wait_is_not_tried_earlier(hooks: Hooks) -> None:
    async with receiving() as receiver, receiving() as channel:
        webhook = await hooks.register(receiver.url, ("build.started", "build.finished"))
        await hooks.register_channel(channel.url, ("build.finished",))
        for one in (receiver, channel):
            one.answers.append((429, {"Retry-After": "60"}, b""))
        await hooks.build(1, "passed")
        assert await hooks.deliver() == 2
        await hooks.build(2, "passed")
        assert await hooks.deliver() == 3, "nobody else waits"
        for one in (receiver, channel):
            one.answers.append((503, {"Retry-After": "60"}, b""))  # its turn is in 300 s
        for pause in (60, RETRY_DELAYS_S[1]):
            hooks.later(pause - 1)
            assert await hooks.deliver() == 0
            hooks.later(1 + pause * 0.1)
            await hooks.deliver()
        assert [name for name, of in messages(receiver) if of == 1] == [*["build.started"] * 3, "build.finished"]
        assert len(channel.requests) == 4
        errors = [one.error for one in await hooks.history(webhook) if not one.ok]
        assert errors == ["answered 503, asked to wait 60 s", "answered 429, asked to wait 60 s"]


async def test_an_address_that_is_left_alone_is_so_for_as_long_as_it_asks(hooks: Hooks) -> None:
    async with receiving() as receiver:
        receiver.answers.extend([(429, {"Retry-After": "900"}, b"")] * PAUSES.opens_after)
        await hooks.register(receiver.url, ("build.finished",))
        for build in range(1, PAUSES.opens_after + 2):
            await hooks.build(build, "passed")
            await hooks.deliver()
        assert len(receiver.requests) == PAUSES.opens_after
        hooks.later(899)
        assert await hooks.deliver() == 0
        hooks.later(1)
        assert await hooks.deliver() == PAUSES.opens_after + 1


async def test_the_next_goes_when_one_is_given_up(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register(receiver.url, ("build.started", "build.finished"))
        receiver.answers.extend([(500, {}, b"")] * 8)
        await hooks.build(1, "passed")
        await hooks.deliver()
        for pause in RETRY_DELAYS_S:
            hooks.later(pause * 1.2)
            await hooks.deliver()
        assert [name for name, _ in messages(receiver)] == ["build.started"] * 8 + ["build.finished"]


async def test_a_day_of_downtime_loses_nothing_and_delays_nobody(hooks: Hooks) -> None:
    async with receiving() as down, receiving() as up:
        webhook = await hooks.register(down.url, ALL)
        await hooks.register(up.url, ALL)
        down.status = 502
        for hour in range(24):
            for build in range(hour * 5, hour * 5 + 5):
                await hooks.build(build + 1, "failed" if build % 2 else "passed")
            await hooks.deliver()
            assert len(up.requests) == sum(3 if build % 2 else 2 for build in range(hour * 5 + 5)), "at once"
            for _ in range(6):
                hooks.later(600)
                await hooks.deliver()
        assert len(down.requests) < 400, "it was left alone"
        assert (await hooks.shown(webhook)).failing_error == "answered 502"
        down.status = 200
        before = len(down.requests)
        hooks.later(PAUSES.longest_pause_s)
        await hooks.deliver()
        arrived = [(name, build) for name, build in messages(down)[before:]]
        assert sorted(arrived) == sorted(messages(up)), "each once, as soon as it is back"
        for build in range(1, 121):
            order = ["build.started", "build.finished", *(["build.failed"] if build % 2 == 0 else [])]
            assert [name for name, of in arrived if of == build] == order
        assert (await hooks.shown(webhook)).failing_since is None
        names = [event.name for event in await hooks.events("webhook.failing", "webhook.recovered")]
        assert names == ["webhook.failing", "webhook.recovered"]
        assert await hooks.events("webhook.delivery_given_up") == []


async def test_a_receiver_that_fails_is_said_to_fail_before_the_next_upkeep(hooks: Hooks) -> None:
    async with receiving() as receiver, hooks.running():
        receiver.status = 500
        webhook = await hooks.register(receiver.url, ("build.finished",))
        for build in range(1, PAUSES.opens_after + 1):
            await hooks.build(build, "passed")
        async with asyncio.timeout(UPKEEP_INTERVAL_S / 3):
            while not (failing := await hooks.events("webhook.failing")):
                await asyncio.sleep(0.01)  # between two looks
        assert [event.webhook_id for event in failing] == [webhook]


async def test_the_breaker_tries_one_at_a_time(hooks: Hooks) -> None:
    async with receiving() as receiver:
        receiver.status = 500
        await hooks.register(receiver.url, ("build.finished",))
        for build in range(1, 31):
            await hooks.build(build, "passed")
        await hooks.deliver()
        opened = len(receiver.requests)
        assert PAUSES.opens_after <= opened <= PAUSES.opens_after + MAX_PER_ENDPOINT
        hooks.later(PAUSES.first_pause_s - 1)
        assert await hooks.deliver() == 0
        for pause in (1, PAUSES.first_pause_s * 2, PAUSES.first_pause_s * 4):
            hooks.later(pause)
            assert await hooks.deliver() == 1
        hooks.later(PAUSES.first_pause_s * 8 - 1)
        assert await hooks.deliver() == 0


async def test_the_one_try_of_somebody_who_is_gone_is_made_by_another(hooks: Hooks) -> None:
    async with receiving() as receiver:
        receiver.status = 500
        await hooks.register(receiver.url, ("build.finished",))
        for build in range(1, 31):
            await hooks.build(build, "passed")
        await hooks.deliver()
        hooks.later(PAUSES.first_pause_s)
        receiver.hold, tried = asyncio.Event(), len(receiver.requests)
        async with hooks.running():
            await hooks.until(lambda: len(receiver.requests) > tried)
        receiver.hold.set()
        assert await hooks.send() == 0, "it is still leased"
        assert await hooks.reclaim_expired() == 1
        assert await hooks.send() == 1
        assert len(receiver.requests) == tried + 2


async def test_another_url_is_tried_at_once(hooks: Hooks) -> None:
    async with receiving() as wrong, receiving() as right:
        wrong.status = 404
        webhook = await hooks.register(wrong.url, ("build.finished",))
        for build in range(1, 21):
            await hooks.build(build, "passed")
        await hooks.deliver()
        await hooks.update(webhook, url=right.url)
        await hooks.deliver()
        assert sorted(messages(right)) == [("build.finished", build) for build in range(1, 21)]


async def test_what_is_too_late_is_given_up_and_can_be_asked_for(hooks: Hooks) -> None:
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ("build.started", "build.finished"))
        receiver.status = 500
        for build in range(1, 16):
            await hooks.build(build, "passed")
        await hooks.deliver()
        hooks.later(MAX_AGE.total_seconds() + 60)
        await hooks.deliveries.maintain()
        await hooks.deliveries.publish()
        given_up = await hooks.events("webhook.delivery_given_up")
        assert {event.type for event in given_up} == {"build.started"}
        receiver.status = 200
        hooks.later(PAUSES.longest_pause_s)
        receiver.requests.clear()
        await hooks.deliver()
        assert sorted(messages(receiver)) == sorted(("build.finished", build) for build in range(1, 16))
        await hooks.redeliver(webhook, given_up[0].delivery_id)
        await hooks.deliver()
        assert messages(receiver)[-1][0] == "build.started"
        assert receiver.requests[-1].headers["webhook-id"] == given_up[0].delivery_id


async def test_redelivered_it_is_tried_as_often_as_a_new_one(hooks: Hooks) -> None:
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.deliver()
        (done,) = await hooks.history(webhook)
        receiver.status = 500
        await hooks.redeliver(webhook, done.delivery_id)
        await hooks.deliver()
        for pause in RETRY_DELAYS_S:
            hooks.later(pause * 1.2)
            await hooks.deliver()
        assert len(receiver.requests) == 9
        (given_up,) = await hooks.events("webhook.delivery_given_up")
        assert given_up.attempts == 9


async def test_another_url_that_fails_too_is_no_recovery(hooks: Hooks) -> None:
    async with receiving() as first, receiving() as second:
        first.status, second.status = 404, 500
        webhook = await hooks.register(first.url, ("build.finished",))
        await _fail(hooks)
        await hooks.update(webhook, url=second.url)
        await hooks.deliver()
        assert len(second.requests) == 1, "one at a time, as long as it fails"
        hooks.later(PAUSES.first_pause_s)
        await hooks.deliver()
        assert len(second.requests) == 2
        assert [event.name for event in await hooks.events("webhook.failing", "webhook.recovered")] == [
            "webhook.failing"
        ]
        second.status = 200
        await hooks.update(webhook, active=True)
        await hooks.deliver()
        assert len(second.requests) == 2 + PAUSES.opens_after, "at once, and all that waited"
        assert len(await hooks.events("webhook.recovered")) == 1


async def test_no_pause_is_longer_than_the_rules_make_it(hooks: Hooks) -> None:
    """The table is no event: somebody who changes it must not be able to silence a webhook."""
    async with receiving() as receiver:
        await hooks.register(receiver.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.follow()
        for column in ("open_until = '2099-01-01'", "open_until = 'infinity'"):
            await hooks.rows(f"UPDATE webhook_endpoints SET {column} RETURNING id")
            await hooks.build(2 + len(receiver.requests), "passed")
            await hooks.deliver()
        assert len(receiver.requests) == 3


async def _fail(hooks: Hooks) -> None:
    """Makes builds whose messages fail so often that the webhook is paused."""
    for build in range(1, PAUSES.opens_after + 1):
        await hooks.build(build, "passed")
    await hooks.deliver()
