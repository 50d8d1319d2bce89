"""Turns of projects: how many deliveries of each project a sender has under way."""

from collections import Counter
from datetime import timedelta

import pytest

from store.tables import deliveries
from store.tables.deliveries import NO_PROJECT, LeasedDelivery, is_cut
from tests.workers.hooks import Hooks
from workers.deliveries.sender import MAX_PER_ENDPOINT

URL = "http://127.0.0.1:9/"
EVENTS = 20


async def given_due(hooks: Hooks, webhooks: dict[int | None, int]) -> None:
    """Makes deliveries due: 20 at each of so many webhooks of each project."""
    for project_id, count in webhooks.items():
        for _ in range(count):
            await hooks.register(URL, ("build.finished",), project_id=project_id)
    for number in range(EVENTS):
        for job_id in (1, 2):
            await hooks.build(2 * number + job_id, "passed", job_id=job_id)
    await hooks.follow()


async def lease(hooks: Hooks, under_way: list[LeasedDelivery], slots: int) -> list[LeasedDelivery]:
    """Leases as a sender with so many slots does that has these deliveries under way."""
    async with hooks.parts.pool.connection() as connection:
        return await deliveries.lease(
            connection,
            hooks.now,
            hooks.now + timedelta(minutes=1),
            Counter(one.endpoint_id for one in under_way),
            Counter(one.project for one in under_way),
            by=None,
            each=MAX_PER_ENDPOINT,
            free=slots - len(under_way),
        )


async def lease_all(hooks: Hooks, under_way: list[LeasedDelivery], slots: int) -> list[LeasedDelivery]:
    while leased := await lease(hooks, under_way, slots):
        under_way = [*under_way, *leased]
    return under_way


def count(leased: list[LeasedDelivery]) -> dict[int, int]:
    return dict(Counter(one.project for one in leased))


async def test_a_project_has_no_more_under_way_than_are_free(hooks: Hooks) -> None:
    await given_due(hooks, {1: 10})
    under_way = await lease_all(hooks, [], slots=100)
    assert count(under_way) == {1: 50}
    assert await lease(hooks, under_way[1:], slots=100), "one has ended, and the next is leased"


async def test_a_project_is_not_delayed_by_one_that_was_there_before(hooks: Hooks) -> None:
    await given_due(hooks, {1: 10, 2: 1})
    under_way = [one for one in await lease_all(hooks, [], slots=100) if one.project == 1]
    assert len(under_way) >= 40
    assert count(await lease(hooks, under_way, slots=100))[2] > 0


async def test_many_slow_projects_leave_slots_free(hooks: Hooks) -> None:
    await given_due(hooks, {1: 10, 2: 10, None: 10})
    found = count(await lease_all(hooks, [], slots=100))
    assert found.keys() == {1, 2, NO_PROJECT}
    assert found == {1: 25, 2: 25, NO_PROJECT: 25}


@pytest.mark.parametrize("slots", [1, 2, 1_000])
async def test_what_is_due_is_leased_whatever_is_free(hooks: Hooks, slots: int) -> None:
    await given_due(hooks, {1: 1, 2: 1})
    found: list[int] = []
    while leased := await lease_all(hooks, [], slots):
        found += [one.id for one in leased]
    assert len(found) == len(set(found)) == 2 * EVENTS


async def test_the_webhooks_of_a_project_take_turns_too(hooks: Hooks) -> None:
    await given_due(hooks, {1: 10})
    under_way = await lease_all(hooks, [], slots=64)
    waiting = {*range(1, 11)} - {one.endpoint_id for one in under_way}
    assert waiting
    assert {one.endpoint_id for one in await lease(hooks, under_way[8:], slots=64)} <= waiting


async def test_a_sender_notices_that_more_is_due(hooks: Hooks) -> None:
    """As few other deliveries as those of project 2 have cut the share of project 1."""
    await given_due(hooks, {1: 10, 2: 1})
    leased = await lease(hooks, [], slots=30)
    assert count(leased) == {1: 10, 2: 10}
    assert is_cut(Counter(count(leased)), {}, 30)
    assert not is_cut(Counter({1: 9, 2: 9}), {}, 30)
