"""The engine on a real PostgreSQL: rows and position in one statement, and what cannot be taken is parked."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import hypothesis
import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from domain.builds import BuildAssigned, BuildFinished, BuildQueued
from domain.core.events import Event, Recorded
from domain.jobs import Configuration, JobCreated, JobDeleted
from domain.projects import ProjectCreated
from projections import projects, registry
from projections.builds import BuildRow
from projections.engine import model, statements
from projections.engine.engine import Engine, LostLeadership, drop_tables, ensure_tables, fetch_positions
from projections.engine.model import Projection, Row
from projections.engine.parking import WAITS
from projections.jobs import JobRow
from projections.projects import ProjectRow
from tests.projections.toys import (
    NOW,
    SEEN,
    TOYS,
    BoxGone,
    Broken,
    Delivered,
    DeliveryRow,
    Found,
    KindRow,
    PieceRow,
    Put,
    SeenRow,
    ShelfGone,
    Taken,
    Toy,
    ToyRow,
    parked,
    query,
    recorded,
    table,
)
from tests.support.spec import given

BOTH = (TOYS, SEEN)
NUL = "a text with \0 in it"
"""No row can hold it."""


class Spy(AsyncConnection):
    """Counts what is sent to the database."""

    sent: list[str]

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.setdefault("sent", []).append(query.decode() if isinstance(query, bytes) else str(query))
        return await super().execute(query, *args, **kwargs)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Spy]:
    async with await Spy.connect(database, autocommit=True) as connection:
        await ensure_tables(connection, BOTH)
        connection.sent = []
        yield connection


async def applied(connection: AsyncConnection, *events: Event, projections: Sequence[Projection] = BOTH) -> Engine:
    moving = Engine(connection, projections, announce=True)
    assert await moving.apply(recorded(*events), 0) == len(events)
    return moving


async def test_events_become_rows(connection: Spy) -> None:
    await applied(connection, Put(id=1, box=7), Put(id=2, box=7), Put(id=1, box=8, text="again"), Taken(id=2))
    assert await table(connection, ToyRow) == [(1, 8, 2, "again")]
    assert await table(connection, SeenRow) == [(1,), (2,), (3,), (4,)]
    assert await fetch_positions(connection, BOTH) == {"toys": 4, "seen": 4}


async def test_a_batch_is_one_fetch_a_table_and_one_write(connection: Spy) -> None:
    moving = await applied(connection, Put(id=1, box=7), Put(id=2, box=7), Put(id=1, box=8))
    *first, fetch, write = [text.split(" ")[0] for text in connection.sent]
    assert (len(first), fetch, write) == (2, "SELECT", "WITH"), "at its start it looks at generations and parked events"
    connection.sent.clear()
    await moving.apply(recorded(Put(id=1, box=7), Put(id=2, box=9), after=3), 3)
    assert [text.split(" ")[0] for text in connection.sent] == ["WITH"], "hot rows are not fetched again"
    assert await table(connection, ToyRow) == [(1, 7, 3, ""), (2, 9, 2, "")]


async def test_what_another_engine_wrote_is_fetched(connection: Spy) -> None:
    await applied(connection, Put(id=1, box=7), Put(id=2, box=7))
    await Engine(connection, BOTH, announce=True).apply(recorded(Put(id=1, box=7), after=2), 2)
    assert await table(connection, ToyRow) == [(1, 7, 2, ""), (2, 7, 1, "")]


async def test_each_write_is_announced(connection: Spy, database: str) -> None:
    async with await AsyncConnection.connect(database, autocommit=True) as listening:
        await listening.execute("LISTEN projected")
        moving = await applied(connection, Put(id=1, box=7), Put(id=2, box=7))
        await moving.apply(recorded(Broken(), Put(id=1, box=7, text=NUL), after=2), 2)
        heard = []
        async for note in listening.notifies(timeout=5):
            heard.append(note.payload)
            if not note.payload:
                break
    assert heard[0] == f"2 {model.versions_digest(BOTH)}"
    # From then on projections move one by one: an empty payload says "look at the positions".
    assert heard[-1] == ""


async def test_rows_of_a_parent_go_with_it_wherever_they_are(connection: Spy) -> None:
    """In the table, in the cache, written earlier in the same batch; not those that come later."""
    moving = await applied(connection, Put(id=1, box=7), Put(id=2, box=8))
    events = (Put(id=3, box=7), Put(id=2, box=7), BoxGone(box=7), Put(id=4, box=7), Put(id=1, box=8))
    await moving.apply(recorded(*events, after=2), 2)
    assert await table(connection, ToyRow) == [(1, 8, 1, ""), (4, 7, 1, "")]
    # The cache knows that they are gone: a count begins anew.
    await moving.apply(recorded(Put(id=2, box=9), Put(id=3, box=9), after=7), 7)
    assert await table(connection, ToyRow) == [(1, 8, 1, ""), (2, 9, 1, ""), (3, 9, 1, ""), (4, 7, 1, "")]


async def test_a_row_that_left_a_parent_does_not_go_with_it(connection: Spy) -> None:
    await applied(connection, Put(id=1, box=7), Put(id=1, box=8), BoxGone(box=7))
    assert await table(connection, ToyRow) == [(1, 8, 2, "")]


async def test_rows_between_two_values_go_wherever_they_are(connection: Spy) -> None:
    moving = await applied(connection, *(Put(id=number, box=7) for number in (1, 2, 3)))
    events = (Put(id=4, box=7), Put(id=2, box=8), ShelfGone(first=2, last=4), Put(id=3, box=9))
    await moving.apply(recorded(*events, after=3), 3)
    assert await table(connection, ToyRow) == [(1, 7, 1, ""), (3, 9, 1, "")]
    await moving.apply(recorded(Put(id=4, box=7), ShelfGone(first=5, last=9), after=7), 7)
    assert await table(connection, ToyRow) == [(1, 7, 1, ""), (3, 9, 1, ""), (4, 7, 1, "")]


async def test_the_last_event_of_a_batch_may_empty_a_parent(connection: Spy) -> None:
    moving = await applied(connection, BoxGone(box=1), Put(id=1, box=7), BoxGone(box=7))
    assert await table(connection, ToyRow) == []
    assert await fetch_positions(connection, BOTH) == {"toys": 3, "seen": 3}
    assert await moving.apply(recorded(Put(id=1, box=7), after=3), 3) == 4
    assert await table(connection, ToyRow) == [(1, 7, 1, "")]


async def test_numbers_and_arrays_of_them(connection: Spy) -> None:
    await applied(connection, Delivered(ids=[10, 11, 12]), Put(id=1, box=7), Delivered(ids=[]), Found(id=20, number=3))
    assert await table(connection, PieceRow) == [(10, 0), (11, 1), (12, 2), (20, 3)]
    assert await table(connection, DeliveryRow) == [(1, [5, 6, 7], [0, 1, 2]), (3, [], [])]


async def test_an_event_that_one_projection_cannot_take_is_parked_for_that_one(connection: Spy) -> None:
    await applied(connection, Put(id=1, box=7), Broken(), Put(id=2, box=7))
    assert await parked(connection) == [("toys", 2, "ValueError: broken")]
    assert [key for key, *_ in await table(connection, ToyRow)] == [1, 2]
    assert await table(connection, SeenRow) == [(1,), (2,), (3,)]
    assert await fetch_positions(connection, BOTH) == {"toys": 3, "seen": 3}


async def test_a_row_that_the_database_refuses_is_parked_too(connection: Spy) -> None:
    moving = await applied(
        connection, Put(id=1, box=7), Put(id=2, box=7, text=NUL), Put(id=3, box=2**40), Put(id=4, box=7)
    )
    assert await parked(connection) == [
        ("toys", 2, "InvalidValue: toys_v1.text cannot hold a text with NUL"),
        ("toys", 3, "InvalidValue: toys_v1.box cannot hold a number outside of integer"),
    ]
    assert [key for key, *_ in await table(connection, ToyRow)] == [1, 4]
    assert await table(connection, SeenRow) == [(1,), (2,), (3,), (4,)]
    await moving.apply(recorded(BoxGone(box=7), after=4), 4)
    assert await table(connection, ToyRow) == []


async def test_a_parked_event_holds_back_its_stream_and_no_other(connection: Spy) -> None:
    moving = await applied(connection, Put(id=1, box=7), Broken(id=1), Put(id=1, box=8), Put(id=2, box=8))
    assert await table(connection, ToyRow) == [(1, 7, 1, ""), (2, 8, 1, "")]
    await moving.apply(recorded(Taken(id=1), Put(id=2, box=9), after=4), 4)
    # So does it for whoever leads after this one.
    await Engine(connection, BOTH, announce=True).apply(recorded(Put(id=1, box=9), after=6), 6)
    assert await table(connection, ToyRow) == [(1, 7, 1, ""), (2, 9, 2, "")]
    assert await parked(connection) == [
        ("toys", 2, "ValueError: broken"),
        *(("toys", position, WAITS) for position in (3, 5, 7)),
    ]
    assert len(await table(connection, SeenRow)) == 7


async def test_what_only_the_database_refuses_is_parked(connection: Spy) -> None:
    await connection.execute("ALTER TABLE toys_v1 ADD CHECK (box <> 13)")
    moving = await applied(connection, Put(id=1, box=7), Put(id=2, box=13), Put(id=3, box=7))
    await moving.apply(recorded(Put(id=2, box=7), after=3), 3)
    assert [(name, position) for name, position, _ in await parked(connection)] == [("toys", 2), ("toys", 4)]
    assert "13" not in (await parked(connection))[0][2], "the row's content stays out of the error"
    assert [key for key, *_ in await table(connection, ToyRow)] == [1, 3]


async def test_a_table_that_is_gone_parks_nothing(connection: Spy) -> None:
    await connection.execute("DROP TABLE toys_v1")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await applied(connection, Put(id=1, box=7))
    assert await parked(connection) == []
    assert await fetch_positions(connection, BOTH) == {"toys": 0, "seen": 0}


async def test_a_refused_row_after_a_parents_end_is_parked(connection: Spy) -> None:
    """The events before it are already written when the batch fails."""
    await applied(connection, Put(id=1, box=7), BoxGone(box=7), Put(id=2, box=7, text=NUL), Put(id=3, box=7))
    assert [(name, position) for name, position, _ in await parked(connection)] == [("toys", 3)]
    assert [key for key, *_ in await table(connection, ToyRow)] == [3]
    assert await table(connection, SeenRow) == [(1,), (2,), (3,), (4,)]


async def test_a_projection_whose_keys_fail_parks_the_event(connection: Spy) -> None:
    def keys(recorded: Recorded) -> Any:
        raise LookupError("no keys")

    forgetful = replace(TOYS, keys=keys)
    await applied(connection, Put(id=1, box=7), Delivered(ids=[1]), projections=(forgetful, SEEN))
    assert [(name, position) for name, position, _ in await parked(connection)] == [("toys", 1)]
    assert await table(connection, PieceRow) == [(1, 0)]


async def test_changes_before_an_error_are_not_kept(connection: Spy) -> None:
    def apply(recorded: Recorded, rows: Any) -> Any:
        yield ToyRow(99, 1, 1, "half")
        yield from TOYS.apply(recorded, rows)

    await applied(connection, Broken(), projections=(replace(TOYS, apply=apply), SEEN))
    assert await table(connection, ToyRow) == []


@pytest.mark.parametrize(
    "events", [(Put(id=1, box=7),), (Put(id=1, box=7, text=NUL),), (Put(id=1, box=7), BoxGone(box=7))]
)
async def test_a_leader_that_was_overtaken_writes_nothing(connection: Spy, events: tuple[Event, ...]) -> None:
    """Also while it goes on one by one after a refused row."""
    await connection.execute("UPDATE projection_positions SET position = 5 WHERE name = 'seen'")
    with pytest.raises(LostLeadership):
        await Engine(connection, BOTH, announce=True).apply(recorded(*events), 0)
    assert await table(connection, ToyRow) == []
    assert await table(connection, SeenRow) == []
    assert await parked(connection) == []
    assert await fetch_positions(connection, BOTH) == {"toys": 0, "seen": 5}


async def test_a_failed_write_leaves_nothing_in_the_cache(connection: Spy) -> None:
    moving = await applied(connection, Put(id=1, box=7))
    await connection.execute("UPDATE projection_positions SET position = 5")
    with pytest.raises(LostLeadership):
        await moving.apply(recorded(Put(id=1, box=7), after=1), 1)
    await connection.execute("UPDATE projection_positions SET position = 1")
    await moving.apply(recorded(Put(id=1, box=7), after=1), 1)
    assert await table(connection, ToyRow) == [(1, 7, 2, "")]


async def test_no_events_move_nothing(connection: Spy) -> None:
    assert await Engine(connection, BOTH, announce=True).apply([], 3) == 3
    assert connection.sent == []


async def test_every_type_of_column_comes_back_as_it_was(connection: Spy) -> None:
    kinds = Projection("kinds", 1, (KindRow,), lambda recorded: (), lambda recorded, rows: (full, empty))
    full = KindRow(
        1, 'a "word"', b"\0\xff", -(2**63), True, 0.1, NOW, ["a", ""], [7, -(2**31)], {"a": [1, None]}, "low", 3
    )
    empty = KindRow(2, "", b"", None, False, -1.5e300, None, [], [], {}, None, None)
    await ensure_tables(connection, [kinds])
    await Engine(connection, [kinds], announce=True).apply(recorded(Toy()), 0)
    cursor = await connection.execute(
        statements.fetch(KindRow).encode(), (statements.keys_json(KindRow, [(1,), (2,), (3,)]),), binary=True
    )
    assert sorted([KindRow(*values) for values in await cursor.fetchall()], key=lambda row: row.id) == [full, empty]


def test_columns_have_the_types_of_their_fields() -> None:
    assert {column.name: (column.sql_type, column.nullable) for column in model.columns_of(KindRow)} == {
        "id": ("bigint", False),
        "word": ("text", False),
        "data": ("bytea", False),
        "maybe": ("bigint", True),
        "flag": ("boolean", False),
        "share": ("double precision", False),
        "at": ("timestamptz", True),
        "names": ("jsonb", False),
        "numbers": ("integer[]", False),
        "more": ("jsonb", False),
        "level": ("text", True),
        "small": ("smallint", True),
    }


async def test_a_new_version_of_a_projection_starts_beside_the_old_one(connection: Spy) -> None:
    await applied(connection, Put(id=1, box=7))

    class NewToyRow(Row, frozen=True):
        table = model.Table("toys", 2)
        id: int

    newer = Projection(
        "toys", 2, (NewToyRow,), lambda recorded: (), lambda recorded, rows: (NewToyRow(recorded.position),)
    )
    await ensure_tables(connection, [newer])
    await ensure_tables(connection, BOTH)  # again: changes nothing
    assert await fetch_positions(connection, [newer]) == {"toys": 0}
    assert await fetch_positions(connection, BOTH) == {"toys": 1, "seen": 1}
    await drop_tables(connection, [newer])
    assert await table(connection, ToyRow) == [(1, 7, 1, "")]
    assert await fetch_positions(connection, [newer]) == {}


toys = st.one_of(
    st.builds(Put, id=st.integers(1, 4), box=st.sampled_from([1, 2, 3, 2**40]), text=st.sampled_from(["", NUL])),
    st.builds(Put, id=st.integers(1, 4), box=st.integers(1, 3)),
    st.builds(Taken, id=st.integers(1, 4)),
    st.builds(BoxGone, box=st.integers(1, 3)),
    st.builds(ShelfGone, first=st.integers(1, 4), last=st.integers(1, 4)),
    st.builds(Broken, id=st.integers(1, 4)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@hypothesis.given(history=st.lists(toys, max_size=14), cuts=st.sets(st.integers(0, 14)))
async def test_batches_make_no_difference(connection: Spy, history: list[Event], cuts: set[int]) -> None:
    """The same rows as one event after the other in memory, however a history is cut."""
    await connection.execute("UPDATE projection_positions SET position = 0")
    for name in (ToyRow.table, SeenRow.table, "parked_events"):
        await connection.execute(f"DELETE FROM {name}".encode())
    moving = Engine(connection, BOTH, announce=True)
    events = recorded(*history)
    starts = sorted({0, *(cut for cut in cuts if cut < len(events))})
    for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
        await moving.apply(events[start:end], start)
    streams: set[str] = set()
    bad: list[int] = []
    for event in events:
        if isinstance(event.event, Broken) or (
            isinstance(event.event, Put) and (event.event.text or event.event.box > 9)
        ):
            streams.add(event.stream)
        if event.stream in streams:
            bad.append(event.position)
    expected = given(*(event.event for event in events if event.position not in bad)).when(TOYS)
    assert await table(connection, ToyRow) == [msgspec.structs.astuple(row) for row in expected.all(ToyRow)]
    assert [position for _, position, _ in await parked(connection)] == bad
    assert len(await table(connection, SeenRow)) == len(events)


# ----- with the projections of the server -----

PROJECT = ProjectCreated(project_id=1, title="Web", slug="web", sealed_webhook_secret=b"")
JOB = JobCreated(job_id=5, project_id=1, title="Smoke")


def queued(build_id: int, minute: int = 0, job_id: int = 5) -> BuildQueued:
    return BuildQueued(
        at=NOW + timedelta(minutes=minute),
        build_id=build_id,
        job_id=job_id,
        project_id=1,
        configuration=Configuration(command="pytest"),
        branch="main",
    )


@pytest.fixture
async def real(connection: Spy) -> Spy:
    await ensure_tables(connection, registry.PROJECTIONS)
    return connection


async def moved(connection: Spy, *events: Event) -> None:
    stamped = [Recorded(event.stream, position, position, event) for position, event in enumerate(events, 1)]
    await Engine(connection, registry.PROJECTIONS, announce=True).apply(stamped, 0)
    assert await parked(connection) == []


async def test_a_deleted_job_takes_its_builds_along(real: Spy) -> None:
    started = BuildAssigned(build_id=1, job_id=5, project_id=1, node_id=3, attempt=1)
    late = BuildFinished(build_id=1, job_id=5, project_id=1, status="aborted", reason="job_deleted")
    gone = JobDeleted(job_id=5, project_id=1)
    await moved(real, PROJECT, JOB, queued(1), queued(2, job_id=6), started, gone, late)
    assert await table(real, JobRow) == []
    assert [row[0] for row in await table(real, BuildRow)] == [2]
    assert await query(real, f"SELECT jobs_count FROM {ProjectRow.table}") == [(0,)]


async def test_a_projects_last_build_is_the_newest_whatever_the_order(real: Spy) -> None:
    await moved(real, PROJECT, JOB, queued(1, minute=5), queued(3, minute=1), queued(2, minute=9), queued(4, minute=3))
    row = await projects.find(real, 1)
    assert row is not None
    assert row.last_build_at == NOW + timedelta(minutes=9)
