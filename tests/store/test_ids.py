"""Ids in use are never given out again, whatever kind they are of."""

import importlib
import pkgutil

import pytest

import commands
from domain.core.errors import Unavailable
from domain.core.events import Category
from projections.ids_in_use import ROWS, find_sequences_behind
from store.log.ids import KINDS, STREAMS, Kind, raise_ids
from testhide.processes import Core

WITHOUT_STREAM = {"comments", "test_cases", "results", "quarantine"}
NOT_DRAWN = {"claim", "gitops", "jira-issue", "log", "projection", "quarantine", "reaction", "result", "results"}
NOT_DRAWN |= {
    "rows",
    "secret-key",
    "session",
    "teams-card",
    "teams_channel_list",
    "test_case",
    "webhook_delivery",
    "webhook_list",
    "audit",
    "dispatch",
}
NOT_DRAWN |= {"autoscaling", "build_group", "classification_rules", "deferrals", "division", "docker-agent"}
NOT_DRAWN |= {"evaluation", "inquiry", "tokens"}
"""Categories whose streams are not named by a drawn id, or by that of something else (the first build of a group)."""


def test_each_kind_is_looked_up_wherever_its_ids_are() -> None:
    assert set(KINDS) == set(STREAMS) | WITHOUT_STREAM == set(ROWS) | set(STREAMS)


def test_each_category_that_commands_begin_is_looked_up() -> None:
    """A creation command takes a stream that exists for its earlier success, so only new ids may reach it."""
    modules = [importlib.import_module(f"commands.{module.name}") for module in pkgutil.iter_modules(commands.__path__)]
    found = {value.prefix for module in modules for value in vars(module).values() if isinstance(value, Category)}
    assert found - NOT_DRAWN <= {prefix for prefixes in STREAMS.values() for prefix in prefixes}


async def test_the_last_id_is_the_highest_that_was_drawn(parts: Core) -> None:
    assert await parts.ids.find_last("changes") == 0
    drawn = [await parts.ids.draw("changes") for _ in range(3)]
    assert await parts.ids.find_last("changes") == max(drawn)


async def test_an_id_whose_stream_has_begun_is_refused_and_repaired(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        for kind, prefixes in STREAMS.items():
            await connection.execute(
                "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
                " SELECT %s || number, 1, 'x', '' FROM (SELECT nextval(%s::regclass) + 1 AS number) next",
                (f"{prefixes[-1]}-", f"{kind}_ids"),
            )
        await connection.execute(
            "INSERT INTO webhook_deliveries (id, delivery_id, webhook_id, position, type, item, replay, state, due_at,"
            " since) VALUES (7, 'd', 1, 1, 'x', 0, false, 'delivered', now(), now())"
        )
        await connection.execute(
            "INSERT INTO webhook_attempts VALUES (8, 1, 'd', 'x', false, 1, true, 200, '', 1, '', now())"
        )
    behind = await find_sequences_behind(parts.pool)
    assert {"changes_ids", "audit_reads_ids"} <= set(behind)
    assert (behind["webhook_deliveries_id_seq"], behind["webhook_attempts_id_seq"]) == (7, 8)
    kinds: list[Kind] = list(STREAMS)
    for kind in kinds:
        with pytest.raises(Unavailable, match="in use already"):
            await parts.ids.draw(kind)
    await raise_ids(parts.pool, behind)
    assert await find_sequences_behind(parts.pool) == {}


async def test_a_range_with_an_id_in_use_is_refused(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
            " SELECT 'build-' || nextval('builds_ids') + 3, 1, 'x', ''"
        )
    with pytest.raises(Unavailable, match="in use already"):
        await parts.ids.draw_range("builds", 4)
