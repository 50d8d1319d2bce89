"""Messages about pushes that arrive in another order than that of the pushes end no build of a newer commit."""

from typing import Any

import pytest

from domain.builds import BUILD, Finished
from domain.triggers import RepositoryChange, Triggers
from testhide.processes import Core
from tests.workers.watched_jobs import WatchedJobs

JOB = 5


@pytest.fixture
async def jobs(parts: Core) -> WatchedJobs:
    jobs = WatchedJobs(parts)
    await jobs.begin()
    await jobs.add_job(JOB, Triggers(branches=["**"], paths=["src/**"], cancel_superseded=True))
    return jobs


def pushed(before: str | None, commit: str | None, **more: Any) -> RepositoryChange:
    return RepositoryChange("push", "main", commit, before, **more)


async def report(jobs: WatchedJobs, *changes: RepositoryChange) -> None:
    """Reports the changes in this order, each once the one before has its builds."""
    for change in changes:
        await jobs.evaluator.evaluate(await jobs.receive(change))


async def statuses(jobs: WatchedJobs) -> dict[str | None, str]:
    """Commit -> status of its newest build."""
    found = zip(await jobs.queued(), await jobs.statuses(), strict=True)
    return {build.commit_sha: status for build, status in found}


async def test_a_late_message_ends_its_own_build_instead_of_that_of_the_newest_commit(jobs: WatchedJobs) -> None:
    await report(jobs, pushed("a", "b"), pushed(None, "a"))
    assert await statuses(jobs) == {"b": "queued", "a": "aborted"}
    late = await jobs.parts.log.load_state(BUILD.at((await jobs.queued())[-1].build_id))
    assert isinstance(late, Finished)
    assert (late.reason, late.detail) == ("superseded", "A newer change of main has started another build.")
    await report(jobs, pushed("b", "c"))
    assert await statuses(jobs) == {"b": "aborted", "a": "aborted", "c": "queued"}


async def test_messages_that_come_in_reverse_order(jobs: WatchedJobs) -> None:
    await report(jobs, pushed("c", "d"), pushed("b", "c"), pushed("a", "b"), pushed(None, "a"))
    assert await statuses(jobs) == {"d": "queued", "c": "aborted", "b": "aborted", "a": "aborted"}


@pytest.mark.parametrize("first", [0, 1])
async def test_workers_evaluate_a_late_change_at_any_time(jobs: WatchedJobs, first: int) -> None:
    received = [await jobs.receive(change) for change in (pushed("a", "b"), pushed(None, "a"))]
    for change in (received[first], received[1 - first], *received):
        await jobs.evaluator.evaluate(change)
    assert await statuses(jobs) == {"b": "queued", "a": "aborted"}


async def test_a_late_message_before_a_push_that_starts_no_build(jobs: WatchedJobs) -> None:
    docs, src = {"paths": ["README.md"], "fast_forward": True}, {"paths": ["src/a.py"], "fast_forward": True}
    await report(jobs, pushed("b", "c", **docs), pushed("a", "b", **src))
    assert await statuses(jobs) == {"b": "queued"}, "no newer commit has a build"
    await report(jobs, pushed("c", "d", **src))
    assert await statuses(jobs) == {"b": "aborted", "d": "queued"}
    await report(jobs, pushed(None, "a", **src))
    assert await statuses(jobs) == {"b": "aborted", "d": "queued", "a": "aborted"}


async def test_a_branch_that_goes_back_to_an_older_commit(jobs: WatchedJobs) -> None:
    await report(jobs, pushed("a", "b"), pushed("b", "a"))
    assert await statuses(jobs) == {"b": "aborted", "a": "queued"}
    await report(jobs, pushed("a", "b"), pushed("b", "c"), pushed("x", "b"))
    assert await statuses(jobs) == {"a": "aborted", "c": "aborted", "b": "queued"}, "b was reported before c"


async def test_a_branch_that_is_deleted_and_made_again(jobs: WatchedJobs) -> None:
    await report(jobs, pushed("a", "b"), pushed("b", None, deleted=True), pushed(None, "a"))
    assert await statuses(jobs) == {"b": "aborted", "a": "queued"}


async def test_the_order_of_arrival_counts_where_nothing_else_is_known(jobs: WatchedJobs) -> None:
    await report(jobs, pushed("b", "c"), pushed(None, "a"))
    assert await statuses(jobs) == {"c": "aborted", "a": "queued"}, "nothing says yet that a came before b"
    await report(jobs, pushed("a", "b"))
    assert await statuses(jobs) == {"c": "aborted", "a": "aborted", "b": "queued"}, "the build of c ends no other"
