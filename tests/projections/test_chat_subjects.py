"""Choice of the project, job and build that a question is about."""

from datetime import UTC, datetime
from typing import Any

import pytest

from domain.builds import BuildFinished, BuildQueued, Verdict
from domain.jobs import JobCreated
from projections import builds, jobs
from projections.builds import BuildRow
from projections.chat_subjects import ChatSubject, Nameable, choose_build, choose_named
from projections.comparable_builds import fetch_earlier
from projections.engine.engine import Engine, ensure_tables
from projections.job_states import fetch_job_states, find_worst
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
        await ensure_tables(connection, [builds.PROJECTION, jobs.PROJECTION])
        engine = Engine(connection, (builds.PROJECTION, jobs.PROJECTION), announce=False)
        events = [
            JobCreated(job_id=5, project_id=1),
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


SHOP, DOCS = Nameable("project", 1, 1, "Shop"), Nameable("project", 2, 2, "Tests of docs")
IN_SHOP = (Nameable("job", 11, 1, "Tests"), Nameable("job", 12, 1, "Nightly"), Nameable("job", 13, 1, "Lint shop"))
IN_DOCS = (Nameable("job", 21, 2, "Tests"), Nameable("job", 22, 2, "Nightly"), Nameable("job", 23, 2, "Docs"))


@pytest.mark.parametrize(
    ("message", "near", "project", "job"),
    [
        ("Which tests failed?", None, None, None),
        ("Which tests failed?", 1, None, None),
        ("Which tests of Shop are flaky?", None, 1, None),
        ("Which tests of docs are flaky?", None, 2, None),
        ("Is job Tests of Shop red?", None, 1, 11),
        ("Is job Tests red?", 2, 2, 21),
        ("Is job Tests red?", 1, 1, 11),
        ("Why is the nightly red?", 1, 1, 12),
        ("Why is lint shop red?", 2, 1, 13),
        ("Why is job 22 red?", 1, 2, 22),
        ("Why are the docs red?", 1, 2, 23),
    ],
)
def test_what_a_message_names(message: str, near: int | None, project: int | None, job: int | None) -> None:
    found = choose_named((SHOP, DOCS, *IN_SHOP, *IN_DOCS), message, near).subject
    assert found == (None if project is None else ChatSubject(project, job))


def test_a_job_of_another_project_than_the_named_one_is_not_found() -> None:
    found = choose_named((SHOP, IN_DOCS[1]), "Why is job Nightly of Shop red?", None)
    assert found.subject == ChatSubject(1)
    assert "Nightly" in found.rest
    assert "Nightly" not in choose_named((SHOP, *IN_SHOP), "Why is job Nightly of Shop red?", None).rest


async def test_a_question_about_a_branch(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        await ensure_tables(connection, [builds.PROJECTION, jobs.PROJECTION])
        events = [
            JobCreated(job_id=5, project_id=1),
            *build_events(10, "failed", branch="Feature/pay"),
            *build_events(11, "failed"),
            *build_events(12, "passed"),
        ]
        await Engine(connection, (builds.PROJECTION, jobs.PROJECTION), announce=False).apply(recorded(*events), 0)
        for message, build, choice in (
            ("Why is feature/pay red?", 10, "newest_of_branch"),
            ("Why is the feature/pay branch red?", 10, "newest_of_branch"),
            ("Why is main red?", 12, "newest_of_branch"),
            ("Why is it red?", 12, "newest"),
            ("Why is branch release red?", 12, "offered"),
        ):
            for subject in (ChatSubject(1, 5, rest=message), ChatSubject(1, rest=message)):
                chosen = await choose_build(connection, subject, message)
                assert (chosen.build_id, chosen.build_choice) == (build, choice), message
        asked = {"And on main?": 12, "And on feature/pay?": 10, "And what now?": 11}
        for message, build in asked.items():
            before = ChatSubject(1, 5, 10 if build == 12 else 11, rest=message)
            assert (await choose_build(connection, before, message)).build_id == build, message
        stays = ChatSubject(1, 5, 11, rest="Is main red?")
        assert (await choose_build(connection, stays, "Is main red?")).build_id == 11
        missing = ChatSubject(1, 5, 11, is_missing=True)
        assert await choose_build(connection, missing, "Why?") == ChatSubject(1, 5, 11, "offered")


async def test_a_question_about_a_project_is_about_its_red_jobs(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        await ensure_tables(connection, [builds.PROJECTION, jobs.PROJECTION])
        engine = Engine(connection, (builds.PROJECTION, jobs.PROJECTION), announce=False)
        events = [
            *(JobCreated(job_id=job, project_id=1, title=f"Job {job}", default_branch="trunk") for job in (5, 6, 7)),
            *build_events(10, "failed", branch="trunk"),
            *build_events(11, "failed", job_id=6, branch="trunk", group_id=11, matrix={"os": "windows"}),
            *build_events(12, "passed", job_id=6, branch="trunk", group_id=11, matrix={"os": "linux"}),
            *build_events(13, "passed", job_id=7, branch="trunk"),
            *build_events(14, "failed", job_id=7, branch="feature"),
        ]
        await engine.apply(recorded(*events), 0)
        states = await fetch_job_states(connection, 1)
        assert [(state.job_id, state.build_id, state.status) for state in states] == [
            (6, 11, "failed"),
            (5, 10, "failed"),
            (7, 13, "passed"),
        ]
        asked = {
            "What should I look at first?": (11, "red_job"),
            "Is the trunk red?": (11, "red_job"),
            "Why is feature red?": (14, "newest_of_branch"),
        }
        for message, expected in asked.items():
            chosen = await choose_build(connection, ChatSubject(1, rest=message), message)
            assert (chosen.build_id, chosen.build_choice) == expected, message
        of_job = await choose_build(connection, ChatSubject(1, 7), "Why is it red?")
        assert (of_job.build_id, of_job.build_choice) == (13, "newest")


def build_events(number: int, status: Verdict, **fields: Any) -> list[BuildQueued | BuildFinished]:
    ids: dict[str, Any] = {"build_id": number, "job_id": fields.pop("job_id", 5), "project_id": 1}
    queued: dict[str, Any] = ids | {"branch": "main"} | fields
    return [BuildQueued(**queued), BuildFinished(**ids, status=status)]
