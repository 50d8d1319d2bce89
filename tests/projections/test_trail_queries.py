"""Looking events up in the trail, against all of its rows."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from projections.trail import NO_PROJECT, Filter, TrailRow, actor_number, microseconds, positions, type_number
from testhide.processes import Core

BEGIN = datetime(2026, 5, 20, tzinfo=UTC)
TYPES, ACTORS = ("job.created", "job.updated", "build.queued"), ("user:1", "user:2", "node:1")
Row = tuple[int, datetime, str, str, int]


def history(seed: int) -> list[Row]:
    """Clocks differ by up to half an hour, and some positions were never used."""
    chance = random.Random(seed)
    return [
        (
            position,
            BEGIN + timedelta(minutes=7 * position + chance.uniform(0, 30)),
            chance.choice(ACTORS),
            chance.choice(TYPES),
            chance.choice((NO_PROJECT, 1, 2)),
        )
        for position in range(1, 400)
        if chance.random() < 0.9
    ]


def wanted(row: Row, asked: Filter) -> bool:
    position, at, actor, kind, project = row
    return (
        (asked.projects is None or project in asked.projects)
        and (asked.types is None or kind in asked.types)
        and asked.actor in (None, actor)
        and (asked.since is None or at >= asked.since)
        and (asked.until is None or at < asked.until)
        and (asked.after is None or position > asked.after)
        and (asked.before is None or position < asked.before)
    )


def questions(seed: int) -> list[Filter]:
    chance = random.Random(seed)

    def time() -> datetime | None:
        return chance.choice((None, BEGIN + timedelta(minutes=chance.uniform(-100, 3_000))))

    return [
        Filter(
            projects=chance.choice((None, [1], [1, 2], [3])),
            types=chance.choice((None, TYPES[:1], TYPES[:2], ("user.registered",))),
            actor=chance.choice((None, *ACTORS)),
            since=time(),
            until=time(),
            after=chance.choice((None, chance.randrange(400))),
            before=chance.choice((None, chance.randrange(400))),
        )
        for _ in range(100)
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_the_trail_finds_what_is_there(parts: Core, seed: int) -> None:
    rows = history(seed)
    async with parts.pool.connection() as connection:
        for position, at, actor, kind, project in rows:
            await connection.execute(
                f"INSERT INTO {TrailRow.table} VALUES (%s, %s, %s, %s, %s)".encode(),
                (position, microseconds(at), actor_number(actor), type_number(kind), project),
            )
        for asked in questions(seed):
            everything = [row[0] for row in rows if wanted(row, asked)]
            for newest, limit in ((False, 1_000), (True, 1_000), (True, 3)):
                found = await positions(connection, asked, newest=newest, limit=limit)
                assert found == (everything[::-1] if newest else everything)[:limit], asked
