"""Choice of the build that a question is about if nobody has named one."""

from datetime import UTC, datetime
from typing import Any

from domain.builds import BuildFinished, BuildQueued, Verdict
from projections import builds
from projections.build_groups import fetch_earlier
from projections.builds import BuildRow
from projections.chat_subjects import ChatSubject, choose_build, find_worst
from projections.engine.engine import Engine, ensure_tables
from testhide.processes import Core
from tests.projections.toys import recorded


def make_build(number: int, status: str, failed: int = 0) -> BuildRow:
    at = datetime(2026, 5, 20, 10, tzinfo=UTC)
    return BuildRow(number, 5, 1, status, "main", 0, external=False, created_at=at, created_by="user:1", failed=failed)


def test_the_worst_build_of_a_matrix() -> None:
    passed, aborted = make_build(1, "passed"), make_build(2, "aborted", 9)
    few, many, as_many = make_build(3, "failed", 1), make_build(4, "failed", 2), make_build(5, "failed", 2)
    assert find_worst([passed, aborted, few, as_many, many]) == many
    assert find_worst([passed, aborted, few]) == few
    assert find_worst([passed, aborted]) == aborted
    assert find_worst([passed]) is None
    assert find_worst([]) is None


async def test_a_build_of_some_tests_says_nothing_about_the_job(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        await ensure_tables(connection, [builds.PROJECTION])
        engine = Engine(connection, (builds.PROJECTION,), announce=False)
        events = [
            *build_events(10, "passed"),
            *build_events(11, "failed"),
            *build_events(12, "passed", test_ids=["t::a"]),
            *build_events(13, "failed", test_ids=["t::a"]),
        ]
        await engine.apply(recorded(*events), 0)
        chosen = await choose_build(connection, ChatSubject(1, 5), "Why is it red?")
        assert (chosen.build_id, chosen.build_choice) == (11, "newest")
        newest = await builds.find(connection, 13)
        assert newest is not None
        assert [earlier.id for earlier in await fetch_earlier(connection, newest)] == [11, 10]


def build_events(number: int, status: Verdict, **fields: Any) -> list[BuildQueued | BuildFinished]:
    ids: dict[str, Any] = {"build_id": number, "job_id": 5, "project_id": 1}
    return [BuildQueued(**ids, branch="main", **fields), BuildFinished(**ids, status=status)]
