"""Parts of the log: events by position, and streams as far as they are wanted."""

from datetime import UTC, datetime

import pytest

from domain.core.events import EventMetadata, Recorded
from domain.jobs import JobCreated, JobUpdated
from store.log import event_log
from store.log.event_log import Write
from testhide.processes import Core

STAMP = EventMetadata(datetime(2026, 5, 20, 10, tzinfo=UTC), "user:7")


@pytest.fixture(name="log")
async def _log(parts: Core) -> list[Recorded]:
    """Two jobs with three events each."""
    recorded: list[Recorded] = []
    for job_id in (1, 2):
        events = [JobCreated(job_id=job_id, project_id=3, title="a")]
        updates = [JobUpdated(job_id=job_id, project_id=3, title=title) for title in "bc"]
        writes = [Write(version, event) for version, event in enumerate([*events, *updates], start=1)]
        recorded += await parts.log.append(writes, STAMP)
    return recorded


async def test_events_by_position(parts: Core, log: list[Recorded]) -> None:
    assert await parts.log.read_at([5, 2, 99]) == [log[1], log[4]]
    assert await parts.log.read_at([]) == []


async def test_a_stream_in_parts(parts: Core, log: list[Recorded]) -> None:
    assert await parts.log.read_stream("job-2", 0, 2) == log[3:5]
    assert await parts.log.read_stream("job-2", 2, 2) == log[5:]
    assert await parts.log.read_stream("job-3", 0, 2) == []


async def test_streams_up_to_a_version(parts: Core, log: list[Recorded]) -> None:
    assert await parts.log.load_up_to({"job-1": 2, "job-2": 9, "job-3": 1}) == {
        "job-1": log[:2],
        "job-2": log[3:],
        "job-3": [],
    }
    assert await parts.log.load_up_to({}) == {}


async def test_pieces_of_few_bytes(parts: Core, log: list[Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep the order of the positions, and pass over those without an event."""
    found = await parts.log.find_stream_positions({"job-2": 9, "job-3": 1, "job-1": 2})
    assert found == {"job-2": [4, 5, 6], "job-3": [], "job-1": [1, 2]}
    positions = [6, 99, 1, 2, 100]
    for size, pieces in ((2**20, [[6, 1, 2]]), (1, [[6], [1], [2], []])):
        monkeypatch.setattr(event_log, "PIECE_BYTES", size)
        read = [piece async for piece in parts.log.read_pieces(positions)]
        assert [[recorded.position for recorded in piece.events] for piece in read] == pieces
        assert [recorded for piece in read for recorded in piece.events] == [log[5], log[0], log[1]]
        assert sum(piece.covered for piece in read) == len(positions)
        assert all(size > 0 for piece in read for size in piece.sizes)
    monkeypatch.setattr(event_log, "PIECE_EVENTS", 2)
    monkeypatch.setattr(event_log, "PIECE_BYTES", 2**20)
    assert [piece.covered async for piece in parts.log.read_pieces(positions)] == [2, 2, 1]
