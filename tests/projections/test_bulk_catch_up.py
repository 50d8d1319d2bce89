"""Loading gives the rows that the engine gives, whatever happens on the way."""

import inspect
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from domain.claims import ClaimTaken
from domain.core.columns import Int32s
from domain.core.events import Event, EventMetadata, Recorded
from domain.registry import EVENTS
from domain.results import FAILED, PASSED, SKIPPED
from projections import results, results_passes
from projections.engine import bulk_catch_up, bulk_loader, column_table
from projections.engine.bulk_loader import BulkLoader, UncheckedRows
from projections.engine.engine import Engine, drop_tables, ensure_tables
from projections.engine.model import Change, DeleteRange, Projection, Rows
from projections.engine.row_writer import LoadRefused
from projections.engine.schemas import connect
from projections.registry import PROJECTIONS
from projections.results_cases import CaseStatsRow
from projections.results_days import CaseDayRow, CaseRunsRow
from projections.results_runs import NotableRunRow, SuspectRow
from store.log.event_log import Write
from testhide.processes import Core
from tests.projections.test_results import block, replaced
from tests.projections.toys import (
    NOW,
    TOYS,
    BoxGone,
    Broken,
    Delivered,
    DeliveryRow,
    Found,
    PieceRow,
    Put,
    ShelfGone,
    Taken,
    ToyRow,
    parked,
    query,
    recorded,
    table,
)

IDS = st.integers(1, 6)
happenings = st.lists(
    st.one_of(
        st.builds(Put, id=IDS, box=st.integers(1, 3), text=st.sampled_from(["", "said", "a\0b"])),
        st.builds(Taken, id=IDS),
        st.builds(BoxGone, box=st.integers(1, 3)),
        st.builds(ShelfGone, first=IDS, last=IDS),
        st.builds(Delivered, ids=st.lists(st.integers(-5, 2**33), max_size=16)),
        st.builds(Found, id=st.integers(1, 9), number=st.integers(1, 2)),
        st.builds(Broken),
    ),
    max_size=25,
)


@pytest.fixture
async def staging(parts: Core) -> AsyncIterator[AsyncConnection]:
    async with await connect(parts.conninfo, "beside") as connection:
        yield connection


async def rows(connection: AsyncConnection) -> list[Any]:
    parts = [await table(connection, row) for row in (ToyRow, PieceRow, DeliveryRow)]
    return [
        *parts,
        await parked(connection),
        await query(connection, "SELECT name, position FROM projection_positions ORDER BY 1"),
    ]


async def anew(connection: AsyncConnection, projections: Sequence[Projection]) -> None:
    await drop_tables(connection, projections)
    await ensure_tables(connection, projections)


async def load(
    connection: AsyncConnection,
    events: Sequence[Recorded],
    cuts: Sequence[int],
    kept: int,
    projection: Projection = TOYS,
) -> None:
    """In batches that end at `cuts`, by a new loader after `kept` of them, as after a crash; by a careful one from the
    transaction on in which a row does not fit.
    """
    loader = BulkLoader(connection, [projection], 0, is_careful=False)
    await loader.begin()
    for number, cut in enumerate(sorted({*cuts, len(events)})):
        if number == kept:
            await connection.execute("ROLLBACK")
            loader = BulkLoader(connection, [projection], loader.committed, is_careful=False)
            await loader.begin()
        if batch := [event for event in events if loader.position < event.position <= cut]:
            try:
                await loader.apply(batch)
            except UncheckedRows:
                loader = BulkLoader(connection, [projection], loader.committed)
                await loader.begin()
                await loader.apply([event for event in events if loader.position < event.position <= cut])
    await loader.finish(len(events))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings, st.lists(st.integers(0, 25), max_size=4), st.integers(0, 4), st.sampled_from([1, 3, 1_000]))
@example(
    # A deletion waits when the loader is replaced; what comes then is not to be taken by it.
    happened=[Put(id=1, box=1), ShelfGone(first=1, last=6), Found(id=2, number=1)],
    cuts=[2],
    kept=1,
    rows_changed=1,
)
@example(
    # A row between two deletions that match it, and one after both.
    happened=[ShelfGone(first=1, last=6), Found(id=2, number=1), ShelfGone(first=1, last=6), Found(id=3, number=1)],
    cuts=[],
    kept=9,
    rows_changed=1_000,
)
@example(
    # A row that is new since the first deletion, and one that is moved to the box that goes.
    happened=[
        Put(id=2, box=1, text=""),
        BoxGone(box=2),
        Put(id=1, box=2, text=""),
        Put(id=2, box=2, text=""),
        BoxGone(box=2),
    ],
    cuts=[],
    kept=9,
    rows_changed=1_000,
)
@example(
    # A row that was dropped from memory, and is read again between two deletions.
    happened=[
        *(Put(id=id, box=1, text="") for id in range(1, 6)),
        BoxGone(box=3),
        Put(id=2, box=2, text=""),
        BoxGone(box=1),
        Put(id=1, box=2, text=""),
    ],
    cuts=[1, 2, 3, 4, 5],
    kept=9,
    rows_changed=1,
)
async def test_loaded_rows_are_those_of_the_engine(
    parts: Core,
    staging: AsyncConnection,
    happened: list[Event],
    cuts: list[int],
    kept: int,
    rows_changed: int,
) -> None:
    events = recorded(*happened)
    await anew(staging, [TOYS])
    await Engine(staging, [TOYS], announce=False).apply(events, 0)
    expected = await rows(staging)
    await anew(staging, [TOYS])
    with pytest.MonkeyPatch.context() as patched:
        # Short transactions, and little that is remembered after them.
        patched.setattr(bulk_loader, "MAX_CHANGED_ROWS", rows_changed)
        patched.setattr("projections.engine.buffers.CACHED_ROWS", 2)
        await load(staging, events, cuts, kept)
    loaded = await rows(staging)
    if happened:
        assert loaded == expected


@st.composite
def blocks(draw: st.DrawFn) -> list[Event]:
    """Results of up to six reports, nearly all of which passed. The tests of a report follow each other, or not."""
    drawn: list[Event] = []
    for number in range(1, draw(st.integers(2, 6)) + 1):
        statuses = draw(st.lists(st.sampled_from([PASSED] * 6 + [FAILED, SKIPPED]), min_size=3, max_size=14))
        first, step = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 1, 2]))
        case_ids = [first + index * step for index in range(len(statuses))]
        finals = bytearray(b"\1" * len(statuses))
        if draw(st.booleans()):
            # The second row is another attempt of the first, or the same test in another suite.
            case_ids[1], finals[0] = case_ids[0], draw(st.integers(0, 1))
        columns = {
            "finals": bytes(finals),
            "job_id": draw(st.sampled_from([5, 5, 6])),
            "commit": draw(st.integers(0, 1)),
            "outages": bytes(status == FAILED for status in statuses) if draw(st.booleans()) else b"",
        }
        build = draw(st.sampled_from([number, number, 1]))
        drawn.append(block(build, *statuses, case_ids=Int32s(case_ids), first_result_id=number * 100, **columns))
    return drawn


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    # Two reports of one build, and tests in two suites of a report, all of which passed before.
    happened=[
        block(1, *[PASSED] * 6),
        block(2, *[PASSED] * 6),
        block(2, *[PASSED] * 6, first_result_id=300),
        block(4, *[PASSED] * 6),
        block(5, *[PASSED] * 6, case_ids=Int32s([1, 2, 3, 2, 3, 4])),
        # The second report of a build has a test that the first skipped, and one that failed before.
        block(6, FAILED, *[PASSED] * 5, commit=1, first_result_id=600),
        block(7, *[PASSED] * 4, SKIPPED, FAILED, commit=1, first_result_id=700),
        block(7, *[PASSED] * 6, commit=1, first_result_id=800),
    ],
    cuts=[1, 2, 3],
    kept=9,
    rows_changed=1_000,
    spans=1,
)
@example(
    # Each transaction changes other tests: a few, then all.
    happened=[
        block(1, *[PASSED] * 14),
        block(2, *[PASSED] * 3, first_result_id=300),
        block(3, *[PASSED] * 12, FAILED, SKIPPED, first_result_id=400),
    ],
    cuts=[],
    kept=0,
    rows_changed=1,
    spans=100,
)
@example(
    # All three results of an older run were withdrawn, though the run counted once.
    happened=[
        *(block(1, PASSED, case_ids=Int32s([2]), first_result_id=number) for number in (100, 101, 102)),
        block(2, *[PASSED] * 4),
        *[replaced(block(1, PASSED, case_ids=Int32s([2])))] * 3,
        block(3, *[PASSED] * 4),
    ],
    cuts=[],
    kept=9,
    rows_changed=1_000,
    spans=100,
)
@given(
    blocks(),
    st.lists(st.integers(0, 6), max_size=3),
    st.integers(0, 3),
    st.sampled_from([1, 1_000]),
    st.sampled_from([1, 100]),
)
async def test_passes_that_are_counted_in_columns_give_the_rows_of_the_engine(
    parts: Core,
    staging: AsyncConnection,
    happened: list[Event],
    cuts: list[int],
    kept: int,
    rows_changed: int,
    spans: int,
) -> None:
    events = recorded(*happened)
    tables = (CaseStatsRow, CaseRunsRow, CaseDayRow, NotableRunRow, SuspectRow)
    await anew(staging, [results.PROJECTION])
    await Engine(staging, [results.PROJECTION], announce=False).apply(events, 0)
    expected = [await table(staging, row) for row in tables]
    await anew(staging, [results.PROJECTION])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(results_passes, "MIN_CASES", 2)
        patched.setattr(column_table, "SPAN", 4)
        patched.setattr(column_table, "MAX_SPANS", spans)
        patched.setattr(bulk_loader, "MAX_CHANGED_ROWS", rows_changed)
        await load(staging, events, cuts, kept, results.PROJECTION)
    assert [await table(staging, row) for row in tables] == expected


async def test_an_event_of_which_no_keys_are_found_is_parked(
    parts: Core, staging: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in a batch after events whose rows have to be read."""
    odd = block(3, FAILED, FAILED, finals=b"\1")
    events = recorded(block(1, PASSED, PASSED), block(2, PASSED, PASSED), odd, block(4, FAILED, PASSED))
    await anew(staging, [results.PROJECTION])
    await Engine(staging, [results.PROJECTION], announce=False).apply(events, 0)
    expected = [await table(staging, row) for row in results.PROJECTION.rows], await parked(staging)
    assert [position for _, position, _ in expected[1]] == [3]
    await anew(staging, [results.PROJECTION])
    monkeypatch.setattr(bulk_loader, "MAX_CHANGED_ROWS", 1)
    await load(staging, events, [1], 1, results.PROJECTION)
    assert ([await table(staging, row) for row in results.PROJECTION.rows], await parked(staging)) == expected


def numbered(event: Recorded, rows: Rows) -> Iterable[Change]:
    """0 takes all pieces before it, and the text of 31 does not fit."""
    assert isinstance(event.event, ClaimTaken)
    number = int(event.event.claim)
    yield ToyRow(event.position, number % 1_000, 1, "\0" if number == 31 else "")
    if number == 0:
        yield DeleteRange(PieceRow, "id", 0, event.position - 1)
    yield PieceRow(event.position, number)


NUMBERED = Projection("numbered", 1, (ToyRow, PieceRow), lambda recorded: (), numbered, handles=(ClaimTaken,))


async def happen(parts: Core, *numbers: int) -> None:
    for number in numbers:
        await parts.log.append([Write(1, ClaimTaken(claim=str(number), owner="ann"))], EventMetadata(NOW, "user:7"))


async def waiting(connection: AsyncConnection) -> tuple[list[Any], list[Any]]:
    """Deletions that wait, and what is set for the tables of pieces and toys."""
    deletions = await query(connection, "SELECT table_name, column_name, first, last FROM waiting_deletions")
    tables = "SELECT reloptions FROM pg_class WHERE relname IN ('pieces_v1', 'toys_v1') ORDER BY relname"
    return deletions, [option for (options,) in await query(connection, tables) for option in options]


async def test_deletions_that_wait_outlast_what_does_not_fit(
    parts: Core, staging: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_catch_up, "NEAR_HEAD", 0)
    monkeypatch.setattr(bulk_catch_up, "BATCH_SIZE", 1)
    monkeypatch.setattr(bulk_loader, "MAX_CHANGED_ROWS", 1)  # a transaction each
    await happen(parts, 1, 2, 0, 5, 2**31, 6)
    await anew(staging, [NUMBERED])
    await bulk_catch_up.bulk_catch_up(staging, parts.log, [NUMBERED])
    assert await table(staging, PieceRow) == [(3, 0), (4, 5), (6, 6)]
    assert await waiting(staging) == ([], ["fillfactor=100", "fillfactor=90"])


async def test_a_load_that_was_ended_at_its_end_is_finished_by_the_next(
    parts: Core, staging: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await happen(parts, 1, 2, 0, 5)
    await anew(staging, [NUMBERED])
    with monkeypatch.context() as ending:
        ending.setattr(bulk_catch_up, "NEAR_HEAD", 0)
        ending.setattr(bulk_loader, "INDEX_MEMORY", "no memory")  # what `finish` asks for when all events are taken
        with pytest.raises(LoadRefused):
            await load(staging, await parts.log.read(0, 10), [], 9, NUMBERED)
    assert [values for _, *values in await query(staging, "SELECT name, position FROM projection_positions")] == [[4]]
    off = "autovacuum_enabled=off"
    assert await waiting(staging) == ([("pieces_v1", "id", 0, 2)], ["fillfactor=100", off, "fillfactor=90", off])
    await bulk_catch_up.bulk_catch_up(staging, parts.log, [NUMBERED])
    assert await table(staging, PieceRow) == [(3, 0), (4, 5)]
    assert await waiting(staging) == ([], ["fillfactor=100", "fillfactor=90"])


@pytest.mark.parametrize(
    "odd", [2**31, 13, 31], ids=["too large for its column", "refused by the database", "found after the batch"]
)
async def test_what_only_shows_later_is_found_and_parked(
    parts: Core, staging: AsyncConnection, monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    """The loader undoes its transaction, and leaves the events in it to the engine, or to a careful loader."""
    monkeypatch.setattr(bulk_catch_up, "NEAR_HEAD", 0)
    await happen(parts, 1, 2, odd, 3, 4)
    await anew(staging, [NUMBERED])
    await staging.execute("ALTER TABLE toys_v1 ADD CHECK (box <> 13)")
    await bulk_catch_up.bulk_catch_up(staging, parts.log, [NUMBERED])
    assert [(name, position) for name, position, _ in await parked(staging)] == [("numbered", 3)]
    assert await table(staging, PieceRow) == [(1, 1), (2, 2), (4, 3), (5, 4)]
    assert [key for key, *_ in await table(staging, ToyRow)] == [1, 2, 4, 5]


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
def test_a_projection_handles_the_events_that_its_functions_name(projection: Projection) -> None:
    """A bulk load does not pass other events to it."""
    named = {event for function in (projection.keys, projection.apply) for event in _named_events(function)}
    if projection.handles is None:
        assert not named
    else:
        assert all(issubclass(event, projection.handles) for event in named)
        assert _stored(projection.handles) == _stored(named)


def _stored(classes: Iterable[type[Event]]) -> set[type[Event]]:
    """Returns the classes of stored events among these classes and their subclasses."""
    return {event for event in EVENTS.values() if issubclass(event, tuple(classes))}


def _named_events(function: Any) -> Iterable[type[Event]]:
    """Yields the event classes that a function names, by themselves, in their modules or in the tuple `events` around
    it. A base class stands for its subclasses in the tuple `taken` around it.
    """
    around = inspect.getclosurevars(function).nonlocals
    yield from around.get("events", ())
    names = function.__code__.co_names
    modules = [found for name in names if inspect.ismodule(found := function.__globals__.get(name))]
    for scope in (function.__globals__, *map(vars, modules)):
        for found in map(scope.get, names):
            if isinstance(found, type) and issubclass(found, Event):
                yield from [event for event in around.get("taken", ()) if issubclass(event, found)] or [found]
