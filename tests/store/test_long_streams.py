"""Streams that are larger than a piece: they are folded to the same values, and few of their events are in memory."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from random import Random

import pytest

from domain.core.errors import StreamDamaged
from domain.core.events import Event, EventMetadata, Recorded
from domain.jobs import JOB, Configuration, JobConfigured, JobCreated, JobDeleted, JobUpdated
from domain.registry import EVENTS, UPCASTERS
from store.log import event_log
from store.log.append import GroupCommit
from store.log.codec import EventMapper
from store.log.event_log import EventLog, Write
from testhide.processes import Core
from tests.support.damage import damaged, no_event

STAMP = EventMetadata(datetime(2026, 5, 20, 10, tzinfo=UTC), "user:7")
MIB = 1024**2


def configured(job_id: int, revision: int, size: int) -> JobConfigured:
    command = f"{revision} " + Random(revision).randbytes(size // 2).hex()
    return JobConfigured(job_id=job_id, project_id=1, configuration=Configuration(command=command))


def history(job_id: int, revisions: int, size: int) -> list[Event]:
    created = JobCreated(job_id=job_id, project_id=1, title=f"Job {job_id}")
    return [created, *(configured(job_id, revision, size) for revision in range(revisions))]


async def append(log: EventLog, events: Iterable[Event], after: int = 0) -> list[Recorded]:
    return await log.append([Write(version, event) for version, event in enumerate(events, start=after + 1)], STAMP)


@contextlib.asynccontextmanager
async def another_log(parts: Core) -> AsyncIterator[EventLog]:
    """On the same database, as another process has it."""
    commit = GroupCommit(parts.conninfo)
    yield EventLog(parts.pool, commit, EventMapper(EVENTS, UPCASTERS), parts.secrets)
    await commit.close()


async def fold_to_pieces(log: EventLog, streams: Sequence[str]) -> dict[str, list[list[Recorded]]]:
    found: dict[str, list[list[Recorded]]] = await log.fold(
        streams, lambda name: [], lambda pieces, events: [*pieces, list(events)]
    )
    return found


async def test_a_stream_of_many_pieces(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = await append(parts.log, history(1, 40, 1_000))
    whole = await parts.log.load_at_version(JOB.at(1))
    monkeypatch.setattr(event_log, "PIECE_BYTES", 3_500)
    pieces = (await fold_to_pieces(parts.log, ["job-1"]))["job-1"]
    assert [one for piece in pieces for one in piece] == recorded
    assert len(pieces) >= 10
    assert max(map(len, pieces[1:])) == 4, "until they have reached the limit"
    assert await parts.log.load_at_version(JOB.at(1)) == whole
    assert (whole.version, whole.position) == (41, recorded[-1].position)
    assert whole.state is not None
    assert whole.state.configuration == configured(1, 39, 1_000).configuration


@pytest.mark.parametrize(
    ("limit", "value"), [("PIECE_BYTES", 1), ("PIECE_BYTES", 2_500), ("PIECE_EVENTS_OF_STREAMS", 2)]
)
async def test_several_streams_at_once(parts: Core, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """Short ones before, between and after long ones, and some without events: few and many of them."""
    expected: dict[str, list[Recorded]] = {"job-30": [], "job-10": []}
    for job_id, revisions in ((20, 9), (1, 0), (29, 1), (21, 3), *((number, 0) for number in range(40, 60))):
        expected[f"job-{job_id}"] = await append(parts.log, history(job_id, revisions, 1_000))
    monkeypatch.setattr(event_log, limit, value)
    for streams in (list(expected), list(expected)[:3], list(expected)[1:7]):
        loaded = await parts.log.load(streams)
        assert list(loaded) == streams
        assert loaded == {stream: expected[stream] for stream in streams}
    states = await parts.log.load_states([JOB.at(20), JOB.at(30), JOB.at(20), JOB.at(1)])
    assert {name: loaded.version for name, loaded in states.items()} == {"job-20": 10, "job-30": 0, "job-1": 1}
    assert states["job-20"].state == JOB.at(20).fold(recorded.event for recorded in expected["job-20"])
    assert await parts.log.load([]) == {}
    async with parts.pool.connection() as connection:
        taken = parts.pool.get_stats()["requests_num"]
        assert await parts.log.on(connection).load(list(expected)) == expected
        assert parts.pool.get_stats()["requests_num"] == taken


async def test_readers_share_a_query_that_ends_early(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its whole streams, also if the query has ended before them."""
    expected = {f"job-{number}": await append(parts.log, history(number, number % 4, 1_000)) for number in range(20)}
    monkeypatch.setattr(event_log, "PIECE_BYTES", 2_500)
    loaded = await asyncio.gather(*(parts.log.load([name, "job-3"]) for name in expected))
    assert [found[name] for found, name in zip(loaded, expected, strict=True)] == list(expected.values())
    assert all(found["job-3"] == expected["job-3"] for found in loaded)


@pytest.mark.parametrize("count", [1, 3, 8, 30])
async def test_short_streams_take_one_query(parts: Core, count: int) -> None:
    for job_id in range(1, count + 1):
        await append(parts.log, history(job_id, 3, 100))
    streams = [f"job-{job_id}" for job_id in range(1, count + 1)]
    await parts.log.load(streams)  # loads the data keys, too
    before = parts.pool.get_stats()["requests_num"]
    assert all(len(events) == 4 for events in (await parts.log.load(streams)).values())
    assert parts.pool.get_stats()["requests_num"] == before + 1


@pytest.mark.parametrize("repeat", [1, 2_048])
async def test_few_events_are_in_memory(parts: Core, repeat: int) -> None:
    """Large events, and events that take few bytes in the database, since they compress well."""
    command = Random(1).randbytes(MIB // repeat // 2).hex() * repeat
    for number in range(30):
        configuration = Configuration(command=f"{number} {command}")
        event = JobConfigured(job_id=1, project_id=1, configuration=configuration)
        await append(parts.log, [event] if number else [JobCreated(job_id=1, project_id=1)], after=number)
    tracemalloc.start()
    try:
        loaded = await parts.log.load_at_version(JOB.at(1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded.version == 30
    assert peak < 10 * MIB, f"{peak / MIB:.0f} MiB"


async def test_an_erasure_in_a_later_piece_blanks_the_earlier_ones(
    parts: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has erased the job, and this one still has its data key."""
    await append(parts.log, history(1, 9, 1_000))
    async with another_log(parts) as other:
        await other.load(["job-1"])
        await append(parts.log, [JobDeleted(job_id=1, project_id=1)], after=10)
        later = JobUpdated(job_id=1, project_id=1, enabled=False)
        await append(parts.log, [later], after=11)
        monkeypatch.setattr(event_log, "PIECE_BYTES", 1)
        state = await other.load_state(JOB.at(1))
        assert state is not None
        assert (state.deleted, state.title, state.configuration) == (True, "", Configuration())
        assert state == await parts.log.load_state(JOB.at(1))
        pieces = (await fold_to_pieces(other, ["job-1"]))["job-1"]
        assert [recorded.erased for piece in pieces for recorded in piece] == [True] * 10 + [False] * 2


async def test_a_damaged_event_in_a_later_piece(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = await append(parts.log, history(1, 9, 1_000))
    monkeypatch.setattr(event_log, "PIECE_BYTES", 1)
    with (
        damaged(parts.conninfo, recorded[-1].position, no_event),
        pytest.raises(StreamDamaged, match="job-1 cannot be used"),
    ):
        await parts.log.load_state(JOB.at(1))
