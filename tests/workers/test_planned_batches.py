"""What one transaction of the delivery planner covers: many changes of endpoints, a bounded number of deliveries."""

from typing import Any

from commands.webhooks import ReplayWebhook
from store.tables.delivery_planning import count_replays
from tests.workers.hooks import Hooks

URL = "http://127.0.0.1:1/"
BUILDS = ("build.started", "build.finished", "build.failed")
PLANNED = "SELECT webhook_id, position, type, item, lane, state FROM webhook_deliveries ORDER BY 1, 2, 3"
TRANSACTIONS = "SELECT count(DISTINCT xmin::text) FROM {}"


async def transactions(hooks: Hooks, table: str) -> Any:
    """Returns the number of transactions that wrote the rows of a table."""
    return (await hooks.rows(TRANSACTIONS.format(table)))[0][0]


async def test_registrations_share_transactions(hooks: Hooks) -> None:
    """Otherwise, whoever registers many endpoints holds up the deliveries of all projects."""
    for _ in range(20):
        await hooks.register(URL, ("build.failed",), active=False)
    for _ in range(20):
        await hooks.register_channel(URL, ("build.failed",))
    await hooks.follow()
    assert await transactions(hooks, "webhook_endpoints") == 2, "the first adds a type of event to read"


async def test_updates_share_transactions(hooks: Hooks) -> None:
    webhooks = [await hooks.register(URL, ("build.failed", "test.flaky")) for _ in range(10)]
    await hooks.follow()
    for webhook in webhooks:
        await hooks.update(webhook, events=("test.flaky",))
        await hooks.update(webhook, events=("build.failed",))
        await hooks.update(webhook, active=False)
        await hooks.update(webhook, active=True)
    await hooks.follow()
    assert await transactions(hooks, "webhook_endpoints") == 1
    for webhook in webhooks:
        await hooks.update(webhook, events=("test.flaky",))  # a type that no endpoint is registered for now
    await hooks.follow()
    assert await transactions(hooks, "webhook_endpoints") == 1


async def test_a_batch_reads_the_endpoints_of_its_projects(hooks: Hooks) -> None:
    for project_id in (1, 2, None):
        await hooks.register(URL, BUILDS, project_id=project_id)
    await hooks.follow()
    await hooks.build(1, "failed")
    await hooks.build(2, "failed", job_id=2)
    await hooks.follow()
    assert await hooks.rows("SELECT webhook_id, count(*) FROM webhook_deliveries GROUP BY 1 ORDER BY 1") == [
        (1, 3),
        (2, 3),
        (3, 6),
    ]


async def test_a_transaction_plans_a_bounded_number_of_deliveries(hooks: Hooks) -> None:
    for _ in range(5):
        await hooks.register(URL, BUILDS)
    await hooks.follow()
    for build in range(1, 11):
        await hooks.build(build, "passed")
    hooks.planner = hooks.new_planner(max_planned=10)
    await hooks.follow()
    assert await transactions(hooks, "webhook_deliveries") == 10, "20 events, each for five webhooks"
    assert len(await hooks.rows("SELECT DISTINCT webhook_id, position FROM webhook_deliveries")) == 100


async def test_a_replay_plans_a_bounded_number_of_deliveries(hooks: Hooks) -> None:
    webhook = await hooks.register(URL, BUILDS)
    for build in range(1, 6):
        await hooks.build(build, "passed")
    await hooks.follow()
    await hooks.rows("DELETE FROM webhook_deliveries RETURNING id")
    await hooks.replay(webhook)
    hooks.planner = hooks.new_planner(max_planned=4)
    await hooks.follow()
    assert await transactions(hooks, "webhook_deliveries") == 3
    assert len(await hooks.rows("SELECT DISTINCT position FROM webhook_deliveries")) == 10


async def test_projects_take_turns_at_replays(hooks: Hooks) -> None:
    one, other = await hooks.register(URL, BUILDS), await hooks.register(URL, BUILDS, project_id=2)
    await hooks.build(1, "passed")
    await hooks.build(2, "passed", job_id=2)
    await hooks.follow()
    await hooks.rows("DELETE FROM webhook_deliveries RETURNING id")
    for _ in range(5):
        await hooks.replay(one)
    await hooks.do(ReplayWebhook(other, "the last one by its name", 0, await hooks.parts.log.read_head()))
    assert (await count_replays(hooks.parts.pool, one))[0] == 0
    hooks.planner = hooks.new_planner(max_open_replayed=0)
    await hooks.follow()
    assert (await count_replays(hooks.parts.pool, one))[0] == 5
    hooks.planner = hooks.new_planner()
    await hooks.follow()
    planned = await hooks.rows("SELECT webhook_id FROM webhook_deliveries ORDER BY id")
    assert [webhook for (webhook,) in planned] == [one] * 2 + [other] * 2 + [one] * 8
    assert (await count_replays(hooks.parts.pool, one))[0] == 0


async def test_a_batch_plans_what_single_events_do(hooks: Hooks) -> None:
    """Each event is planned for the endpoints as they were then, however many changes of them a batch has."""
    builds = iter(range(1, 100))

    async def build_both() -> None:
        for job_id in (1, 2):
            await hooks.build(next(builds), "failed", job_id=job_id)

    await build_both()
    first = await hooks.register(URL, ("build.started",))
    await build_both()
    everywhere = await hooks.register(URL, BUILDS, project_id=None)
    channel = await hooks.register_channel(URL, BUILDS)
    off = await hooks.register(URL, BUILDS, project_id=2, active=False)
    await build_both()
    await hooks.update(first, events=("build.failed",))
    await hooks.update_channel(channel, active=False)
    await hooks.update(off, active=True)
    await build_both()
    await hooks.update_channel(channel, active=True)
    await hooks.update(everywhere, active=False)
    await hooks.update(first, url="http://127.0.0.1:2/")
    await build_both()
    gone = await hooks.register(URL, BUILDS)
    await build_both()
    await hooks.delete(gone)
    await hooks.update(everywhere, active=True)
    await build_both()
    await hooks.delete_project(2)
    await hooks.build(next(builds), "failed")
    planned = {}
    for size in (200, 7, 1):
        for table in ("webhook_endpoints", "webhook_deliveries", "reaction_positions"):
            await hooks.rows(f"DELETE FROM {table} RETURNING 1")
        hooks.planner = hooks.new_planner(batch_size=size)
        await hooks.follow()
        planned[size] = await hooks.rows(PLANNED)
    assert planned[200] == planned[7] == planned[1]
    of = [webhook for webhook, *_ in planned[1]]
    assert [of.count(webhook) for webhook in (first, everywhere, channel, off, gone)] == [7, 21, 10, 0, 0]
