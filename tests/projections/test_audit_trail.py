"""Looking events up in the trail, against all of its rows."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from projections.audit_trail import (
    NO_PROJECT,
    TrailFilter,
    TrailRow,
    actor_number,
    find_positions,
    microseconds,
    type_number,
)
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


def wanted(row: Row, asked: TrailFilter) -> bool:
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


def questions(seed: int) -> list[TrailFilter]:
    chance = random.Random(seed)

    def time() -> datetime | None:
        return chance.choice((None, BEGIN + timedelta(minutes=chance.uniform(-100, 3_000))))

    return [
        TrailFilter(
            projects=chance.choice((None, [], [1], [1, 2], [2, 1, 2], [3])),
            types=chance.choice((None, TYPES[:1], TYPES[:2], (*TYPES, *TYPES), ("user.registered",))),
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
                found = await find_positions(connection, asked, newest=newest, limit=limit)
                assert found == (everything[::-1] if newest else everything)[:limit], asked


LONG = 100_000
SAID = BEGIN + timedelta(seconds=LONG / 2)
"""Half of them."""
LONG_AGO: dict[str, TrailFilter] = {
    "a project": TrailFilter(projects=[1]),
    "projects": TrailFilter(projects=[1, 2, 99]),
    "an actor": TrailFilter(actor="user:1"),
    "types": TrailFilter(types=["job.created", "job.updated"]),
    "projects and a type": TrailFilter(projects=[1, 2], types=["job.created"]),
    "projects and types": TrailFilter(projects=[1, 2, 99], types=["job.created", "job.updated"]),
    "all projects and an actor": TrailFilter(projects=range(1, 300), actor="user:1"),
    "all projects": TrailFilter(projects=range(1, 300)),
    "projects since then": TrailFilter(projects=[1, 2], since=SAID),
    "an actor since then": TrailFilter(actor="user:1", since=SAID),
    "types since then": TrailFilter(types=["job.created", "job.updated"], since=SAID),
    "all projects until then": TrailFilter(projects=range(1, 300), until=SAID),
    "a page of a stream of events": TrailFilter(projects=[1, 2, NO_PROJECT], types=["job.created"], after=LONG // 2),
}


async def test_what_was_long_ago_is_not_searched_for_in_all_of_the_log(parts: Core) -> None:
    """What the statistics show as frequent may have ended long ago: projects were closed, people have left."""
    query = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = %s"
    much: list[str] = []
    async with parts.pool.connection() as connection:
        await connection.execute(
            f"INSERT INTO {TrailRow.table} SELECT n, %(begin)s + n * 1000000, CASE WHEN n < %(then)s THEN %(actor)s"
            " ELSE n %% 200 END, CASE WHEN n < %(then)s THEN %(type)s ELSE n %% 70 END,"
            " CASE WHEN n < %(then)s THEN 1 + n %% 2 ELSE 3 + n %% 300 END"
            " FROM generate_series(1::bigint, %(long)s) n".encode(),
            {
                "begin": microseconds(BEGIN),
                "then": LONG // 5,
                "actor": actor_number("user:1"),
                "type": type_number("job.created"),
                "long": LONG,
            },
        )
        await connection.execute(f"VACUUM ANALYZE {TrailRow.table}".encode())
        for what, asked in LONG_AGO.items():
            for newest in (True, False):
                async with connection.transaction():
                    read = [0, 0]
                    for attempt in range(2):
                        if attempt:
                            await find_positions(connection, asked, newest=newest, limit=50)
                        cursor = await connection.execute(query, (str(TrailRow.table),))
                        ((read[attempt],),) = await cursor.fetchall()
                if read[1] - read[0] > LONG / 20:
                    much.append(f"{what}, {'newest' if newest else 'oldest'} first: {read[1] - read[0]} rows")
    assert much == []
