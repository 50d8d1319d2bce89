"""Deliveries of webhooks over real HTTP, with a clock that a test moves."""

import asyncio
from typing import Any

import pytest

from store.tables import delivery_history
from tests.integrations.receiving import messages, receiving
from tests.workers.hooks import Hooks
from workers.deliveries.sender import LEASE_S, MAX_PER_ENDPOINT, RETENTION

ALL = ("build.started", "build.finished", "build.failed", "build.cancelled")


async def test_who_is_told_what(hooks: Hooks) -> None:
    async with receiving() as everything, receiving() as failures, receiving() as others, receiving() as off:
        await hooks.register(everything.url, ALL, project_id=None)
        await hooks.register(failures.url, ("build.failed",))
        await hooks.register(others.url, ALL, project_id=2)
        await hooks.register(off.url, ALL, active=False)
        for build, status in ((1, "passed"), (2, "failed"), (3, "aborted")):
            await hooks.build(build, status)
        await hooks.deliver()
        by_build = {build: [name for name, of in messages(everything) if of == build] for build in (1, 2, 3)}
        assert by_build == {
            1: ["build.started", "build.finished"],
            2: ["build.started", "build.finished", "build.failed"],
            3: ["build.started", "build.finished", "build.cancelled"],
        }
        assert messages(failures) == [("build.failed", 2)]
        assert (others.requests, off.requests) == ([], [])


async def test_what_a_message_says(hooks: Hooks) -> None:
    """It shows the build as it was then, whatever has become of it since."""
    async with receiving() as receiver:
        await hooks.register(receiver.url, ("build.started", "build.failed"))
        await hooks.build(7, "failed")
        await hooks.deliver()
        started, failed = receiver.requests
        assert started.json.keys() == {"id", "type", "created_at", "project_id", "data"}
        assert (started.json["project_id"], started.json["created_at"]) == (1, "2026-05-20T10:00:00Z")
        assert (started.json["data"]["status"], started.json["data"]["finished_at"]) == ("running", None)
        assert (failed.json["data"]["status"], failed.json["data"]["branch"]) == ("failed", "main")
        assert started.json["id"] != failed.json["id"]
        assert failed.headers["X-Testhide-Event"] == "build.failed"
        assert failed.headers["X-Testhide-Delivery"] == failed.headers["webhook-id"]


async def test_only_what_happens_after_it_was_registered(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.build(1, "passed")
        webhook = await hooks.register(receiver.url, ("build.finished",))
        await hooks.build(2, "passed")
        await hooks.update(webhook, events=("build.started",))
        await hooks.build(3, "passed")
        await hooks.update(webhook, active=False)
        await hooks.build(4, "passed")
        await hooks.deliver()  # all at once: what counted was what was wanted at each moment
        assert messages(receiver) == []
        await hooks.update(webhook, active=True)
        await hooks.deliver()
        assert sorted(messages(receiver)) == [("build.finished", 2), ("build.started", 3)]


async def test_order_within_a_build_and_nobody_else_waits(hooks: Hooks) -> None:
    async with receiving() as broken, receiving() as sound:
        await hooks.register(broken.url, ALL)
        await hooks.register(sound.url, ALL)
        broken.answers.extend([(500, {}, b""), (200, {}, b"")])
        await hooks.build(1, "failed")
        await hooks.follow()
        assert await hooks.send() == 4, "three for the sound one; the broken one's second and third wait"
        assert messages(broken) == [("build.started", 1)]
        assert [name for name, _ in messages(sound)] == ["build.started", "build.finished", "build.failed"]
        await hooks.build(2, "passed")
        await hooks.deliver()
        assert messages(broken)[1:] == [("build.started", 2), ("build.finished", 2)], "another build does not wait"
        hooks.later(6)
        await hooks.deliver()
        assert [name for name, of in messages(broken) if of == 1] == [
            "build.started",
            "build.started",
            "build.finished",
            "build.failed",
        ]


async def test_a_replay_says_that_it_is_one(hooks: Hooks) -> None:
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ("build.started", "build.finished"))
        for build in (1, 2):
            await hooks.build(build, "passed")
        await hooks.deliver()
        first = list(receiver.requests)
        receiver.requests.clear()
        await hooks.replay(webhook)
        await hooks.build(3, "passed")
        await hooks.deliver()
        replayed = [request for request in receiver.requests if request.headers.get("X-Testhide-Replay") == "true"]
        live = [request for request in receiver.requests if "X-Testhide-Replay" not in request.headers]
        assert [request.json["data"]["id"] for request in live] == [3, 3]
        assert {request.json["id"] for request in replayed} == {request.json["id"] for request in first}
        assert all(request.json["replay"] is True for request in replayed)
        ids = [request.headers["webhook-id"] for request in [*first, *receiver.requests]]
        assert len(set(ids)) == len(ids)
        for build in (1, 2):
            names = [request.json["type"] for request in replayed if request.json["data"]["id"] == build]
            assert names == ["build.started", "build.finished"]


async def test_a_long_replay_goes_on_as_it_is_delivered(hooks: Hooks) -> None:
    hooks.planner = hooks.new_planner(max_open_replayed=10, batch_size=5)
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ("build.finished",))
        for build in range(1, 41):
            await hooks.build(build, "passed")
        await hooks.deliver()
        await hooks.replay(webhook)
        await hooks.follow()
        assert await hooks.open_deliveries(webhook) <= 15
        for _ in range(10):
            await hooks.deliver()
        assert len(receiver.requests) == 80


async def test_what_somebody_has_begun_is_due_as_soon_as_he_is_gone(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register(receiver.url, ("build.started", "build.finished"))
        await hooks.build(1, "passed")
        await hooks.build(2, "passed")
        await hooks.follow()
        receiver.hold = asyncio.Event()
        async with hooks.running():
            await hooks.until(lambda: len(receiver.requests) == 2)
            assert await hooks.reclaim_expired() == 0, "he lives"
            assert await hooks.send() == 0
        assert await hooks.send() == 0, "the leases have not ended"
        receiver.hold.set()
        async with hooks.running():
            await hooks.until(lambda: len(receiver.requests) == 6)
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 4
        for build in (1, 2):
            assert [name for name, of in messages(receiver)[2:] if of == build] == [
                "build.started",
                "build.finished",
            ]


async def test_who_dies_in_the_middle_leaves_it_due(hooks: Hooks) -> None:
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.follow()
        receiver.hold = asyncio.Event()
        dying = asyncio.create_task(hooks.new_deliveries().run_due())
        await hooks.until(lambda: bool(receiver.requests))
        dying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dying
        receiver.hold.set()
        assert await hooks.send() == 0, "it is still leased"
        hooks.later(LEASE_S + 1)
        assert await hooks.send() == 1
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
        assert [one.number for one in await hooks.history(webhook)] == [1]


async def test_several_workers_share_the_work(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register(receiver.url, ALL)
        for build in range(1, 41):
            await hooks.build(build, "failed")
        followers = [hooks.new_planner() for _ in range(3)]
        await asyncio.gather(*(planner.catch_up() for planner in followers))
        workers = [hooks.new_deliveries() for _ in range(3)]
        for _ in range(3):
            await asyncio.gather(*(worker.run_due() for worker in workers))
        assert len(receiver.requests) == 120, "each once"
        for build in range(1, 41):
            assert [name for name, of in messages(receiver) if of == build] == [
                "build.started",
                "build.finished",
                "build.failed",
            ]


async def test_a_slow_endpoint_has_its_own_limit(hooks: Hooks) -> None:
    async with receiving() as slow, receiving() as fast:
        await hooks.register(slow.url, ("build.finished",))
        await hooks.register(fast.url, ("build.finished",))
        slow.hold = asyncio.Event()
        for build in range(1, 51):
            await hooks.build(build, "passed")
        await hooks.follow()
        async with hooks.running():
            await hooks.until(lambda: len(fast.requests) == 50)
            assert len(slow.requests) == MAX_PER_ENDPOINT
            slow.hold.set()
            await hooks.until(lambda: len(slow.requests) == 50)


async def test_it_runs_by_itself(hooks: Hooks) -> None:
    async with receiving() as receiver, hooks.running():
        await hooks.register(receiver.url, ALL)
        await hooks.build(1, "failed")
        await hooks.until(lambda: len(receiver.requests) == 3)
        assert [name for name, _ in messages(receiver)] == ["build.started", "build.finished", "build.failed"]


async def test_what_is_deleted_is_told_nothing_more(hooks: Hooks) -> None:
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ALL)
        of_project = await hooks.register(receiver.url, ALL, project_id=2)
        receiver.status = 500
        await hooks.build(1, "passed")
        await hooks.deliver()
        receiver.requests.clear()
        await hooks.delete(webhook)
        await hooks.delete_project(2)
        await hooks.follow()
        hooks.later(86_400)
        assert await hooks.deliver() == 0
        assert await hooks.rows("SELECT id FROM webhook_endpoints") == []
        for table in ("webhook_deliveries", "webhook_attempts", "webhook_replays"):
            assert await hooks.rows(f"SELECT FROM {table} WHERE webhook_id IN ({webhook}, {of_project})") == []


async def test_an_erased_build_is_told_without_its_texts(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register(receiver.url, ("build.failed",))
        await hooks.build(1, "failed")
        await hooks.follow()
        await hooks.delete_build(1)
        await hooks.deliver()
        (request,) = receiver.requests
        assert (request.json["data"]["id"], request.json["data"]["status"]) == (1, "failed")
        assert request.json["data"]["branch"] == ""


async def test_what_was_long_ago_is_forgotten(hooks: Hooks) -> None:
    async with receiving() as receiver:
        webhook = await hooks.register(receiver.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.deliver()
        hooks.later(RETENTION.total_seconds() - 60)
        await hooks.deliveries.maintain()
        assert len(await hooks.history(webhook)) == 1
        hooks.later(120)
        await hooks.deliveries.maintain()
        assert await hooks.history(webhook) == []
        assert (await hooks.stats(webhook)) == delivery_history.DeliveryStats(ok=1, failed=0)


@pytest.mark.parametrize(("url", "error"), [("http://127.0.0.1:1/", "connection refused"), ("http://10.0.0.1/", "URL")])
async def test_what_cannot_be_called(hooks: Hooks, url: str, error: Any) -> None:
    webhook = await hooks.register(url, ("build.finished",))
    await hooks.build(1, "passed")
    assert await hooks.deliver() == 1
    (attempt,) = await hooks.history(webhook)
    assert (attempt.ok, attempt.status_code) == (False, 0)
    assert error in attempt.error


async def test_what_happens_while_it_follows_is_told_once(hooks: Hooks) -> None:
    """Events that come between its look at the log's head and its reading."""
    await hooks.register("http://127.0.0.1:1/", ("build.started", "build.finished"))
    await hooks.build(1, "passed")
    head, built = hooks.parts.log.read_head, [1]

    async def head_of_a_busy_log() -> int:
        found = await head()
        if len(built) < 5:
            built.append(len(built) + 1)
            await hooks.build(built[-1], "passed")
        return found

    hooks.parts.log.read_head = head_of_a_busy_log  # type: ignore[method-assign]
    await hooks.follow()
    messages = await hooks.rows("SELECT position, type FROM webhook_deliveries")
    assert len(built) > 1
    assert (len(messages), len(set(messages))) == (2 * len(built), 2 * len(built))
