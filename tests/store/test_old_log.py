"""A log that was written before `results.recorded` had a second version: it reads, its read models are built, it goes
on.

`old_log.json` holds its rows as they were: two builds of one commit, the first with a failure, and a third that was
deleted. It was written with the master secret below and is never made anew.
"""

import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from commands.build_actions import CommentOnBuild
from commands.handler import CommandContext, Handler
from domain.builds import BUILD, Finished
from domain.core.columns import Int16s, Int32s
from domain.results import ResultsRecorded, commit_number
from projections.engine.engine import ensure_tables
from projections.rebuild.rebuild import build_staging
from projections.rebuild.switch import switch
from projections.registry import PROJECTIONS
from projections.results_cases import CaseStatsRow
from store.clock import utcnow
from testhide.processes import Core, core
from testhide.settings import Settings

FILE = Path(__file__).with_name("old_log.json")
COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


@pytest.fixture
async def old(database: str) -> AsyncIterator[Core]:
    """A database with the old log, and nothing read from it yet."""
    rows = json.loads(FILE.read_text())
    with psycopg.connect(database) as connection:
        connection.execute("TRUNCATE root_keys, root_key_wraps")  # there were none
        for position, stream, version, topic, state in rows["events"]:
            connection.execute(
                "INSERT INTO stored_events (notification_id, originator_id, originator_version, topic, state)"
                " VALUES (%s, %s, %s, %s, %s)",
                (position, stream, version, topic, base64.b64decode(state)),
            )
        for name, wrapped in rows["keys"]:
            connection.execute(
                "INSERT INTO stored_events_keys (name, wrapped) VALUES (%s, %s)",
                (name, None if wrapped is None else base64.b64decode(wrapped)),
            )
        connection.execute("SELECT setval('stored_events_notification_id_seq', %s)", (len(rows["events"]),))
    settings = Settings(database_url=database, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with core(settings) as parts:
        async with parts.pool.connection() as pooled:
            await ensure_tables(pooled, PROJECTIONS)
        yield parts


async def test_its_results_are_of_the_first_version(old: Core) -> None:
    rows = json.loads(FILE.read_text())["events"]
    stored = [base64.b64decode(state) for *_, topic, state in rows if topic == ResultsRecorded.name]
    assert len(stored) == 3
    assert all(COMMIT.encode() in state or OTHER.encode() in state for state in stored)


async def test_they_read_as_the_newest(old: Core) -> None:
    found = await old.log.read(0, 100, [ResultsRecorded.name])
    read = [(item.event, item.erased) for item in found if isinstance(item.event, ResultsRecorded)]
    assert [(event.commit, erased) for event, erased in read] == [
        (commit_number(COMMIT), False),
        (commit_number(COMMIT), False),
        (commit_number(OTHER), True),
    ]
    for event, _ in read:
        assert (event.case_ids, event.suites, event.durations_ms) == (
            Int32s([1, 2, 3]),
            Int16s([0] * 3),
            Int32s([0] * 3),
        )


async def test_its_read_models_are_built_and_it_goes_on(old: Core) -> None:
    head = await old.log.read_head()
    await build_staging(old.conninfo, old.log, PROJECTIONS)
    await switch(old.conninfo, old.log, PROJECTIONS)
    async with old.pool.connection() as connection:
        cursor = await connection.execute(
            f"SELECT runs, failures, flips, flaky_runs FROM {CaseStatsRow.table} ORDER BY case_id".encode()
        )
        steady, shaky, skipped = await cursor.fetchall()
    assert steady == (3, 0, 0, 0)
    assert shaky == (3, 2, 2, 1), "it flipped once on one commit, and once with it"
    assert skipped == (0, 0, 0, 0)

    receipt = await Handler(old.log, utcnow).execute(CommentOnBuild(1, 1, "Still here.", 1), CommandContext("user:1"))
    assert receipt.position == head + 1
    state = await old.log.load_state(BUILD.at(1))
    assert isinstance(state, Finished)


def test_the_documented_example_is_the_code() -> None:
    root = Path(__file__).parents[2]
    (block,) = re.findall(r"```python\n(.*?)```", (root / "docs/events.md").read_text(), re.DOTALL)
    code = (root / "src/domain/results.py").read_text().splitlines()
    assert all(line in code for line in block.splitlines())
