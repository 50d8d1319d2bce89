"""Changes of a repository with which a failure may have come, as a diagnosis looks them up."""

from collections.abc import Sequence
from typing import Any

import pytest

from domain.assistant.answers import Question
from domain.assistant.evidence import BuildFacts, BuildSummary, ChangeFacts, Evidence, FailedTest, FailureStart
from domain.builds import BuildQueued
from domain.changes import ChangeReceived
from domain.core.events import EventMetadata
from domain.jobs import JobCreated
from domain.triggers import BuildTrigger, RepositoryChange
from projections import builds, jobs
from projections.change_evidence import MAX_CHANGES, MAX_PATHS, fetch_changes
from projections.engine.engine import Engine, ensure_tables
from store.clock import utcnow
from store.log.event_log import Write
from testhide.processes import Core
from tests.projections.toys import recorded

GOOD, BAD = 10, 20
STARTED: dict[int, tuple[int, RepositoryChange]] = {
    GOOD: (1, RepositoryChange("push", "main", "good")),
    11: (1, RepositoryChange("push", "main", "good")),
    12: (1, RepositoryChange("push", "main", "aaaa", message="Log in password=hunter2", author="Ann")),
    13: (1, RepositoryChange("push", "other", "bbbb")),
    14: (2, RepositoryChange("push", "main", "cccc")),
    15: (1, RepositoryChange("push", "main", "dddd", repository="acme/other")),
    BAD: (1, RepositoryChange("push", "main", "eeee", repository="acme/web", paths=["a.py", "src/cart.py"])),
    21: (1, RepositoryChange("push", "main", "ffff")),
}
"""Build -> its project, and the change that started it. The change has the id of the build."""


@pytest.fixture(name="core")
async def _core(parts: Core) -> Core:
    async with parts.pool.connection() as connection:
        projections = (builds.PROJECTION, jobs.PROJECTION)
        await ensure_tables(connection, projections)
        job = JobCreated(job_id=5, project_id=1, title="Nightly", repository="https://example.com/acme/web.git")
        queued = [
            BuildQueued(
                build_id=number,
                job_id=5,
                project_id=project,
                branch=change.branch,
                trigger=BuildTrigger("push", number),
            )
            for number, (project, change) in STARTED.items()
        ]
        await Engine(connection, projections, announce=False).apply(recorded(job, *queued), 0)
    await receive(parts, STARTED)
    return parts


async def receive(parts: Core, started: dict[int, tuple[int, RepositoryChange]]) -> None:
    for number, (project, change) in started.items():
        event = ChangeReceived(change_id=number, project_id=project, reporter="github", change=change)
        await parts.log.append([Write(1, event)], EventMetadata(utcnow(), "user:1"))


async def find(core: Core, *starts: FailureStart, **fields: Any) -> Sequence[ChangeFacts]:
    build = BuildFacts(BAD, 5, "Nightly", "failed", branch="main")
    trace = 'File "/build/src/cart.py", line 3'
    failures = tuple(FailedTest(n, n, f"t::{n}", trace=trace, first_bad=start) for n, start in enumerate(starts))
    evidence = Evidence(Question("diagnosis", 1, build_id=BAD), build=build, failures=failures, **fields)
    return await fetch_changes(core.pool, core.log, evidence)


async def test_changes_of_the_branch_after_the_last_good_build(core: Core) -> None:
    start = FailureStart(BAD, "eeee", GOOD, "good", 1, "commit")
    newest, older = await find(core, start, start)
    assert newest == ChangeFacts("eeee", GOOD, BAD, paths=("src/cart.py", "a.py"), all_paths=2)
    assert older == ChangeFacts("aaaa", GOOD, BAD, "Log in password=[secret]", "Ann")
    assert await find(core, FailureStart(BAD, "eeee", BAD - 1, "dddd", 1, "commit")) == (
        ChangeFacts("eeee", BAD - 1, BAD, paths=("src/cart.py", "a.py"), all_paths=2),
    )


async def test_no_change_is_blamed_without_a_good_and_a_bad_commit(core: Core) -> None:
    assert await find(core, FailureStart(BAD, "eeee", None, None, 9, "unknown")) == ()
    assert await find(core, FailureStart(BAD, "good", GOOD, "good", 1, "same_commit")) == ()
    passed, failed = (BuildSummary(GOOD, status, commit_sha="good") for status in ("passed", "failed"))
    assert [one.commit_sha for one in await find(core, earlier=(passed, failed))] == ["eeee", "aaaa"]
    assert await find(core, earlier=(failed, passed)) == ()
    assert await find(core) == ()


async def test_a_change_that_cannot_be_read_hides_no_other(core: Core) -> None:
    async with core.pool.connection() as connection:
        damage = f"UPDATE stored_events SET state = reverse(state) WHERE originator_id = 'change-{BAD}'"
        await connection.execute(damage.encode())
    assert [one.commit_sha for one in await find(core, FailureStart(BAD, "eeee", GOOD, "good", 1, "commit"))] == [
        "aaaa"
    ]


async def test_of_many_changes_and_paths_some_are_named(core: Core) -> None:
    paths = [f"docs/{number}.md" for number in range(MAX_PATHS)] + ["src/cart.py"]
    more = {
        number: (1, RepositoryChange("push", "main", f"{number:04x}", paths=paths))
        for number in range(30, 31 + MAX_CHANGES)
    }
    async with core.pool.connection() as connection:
        queued = [
            BuildQueued(build_id=n, job_id=5, project_id=1, branch="main", trigger=BuildTrigger("push", n))
            for n in more
        ]
        after = 1 + len(STARTED)
        await Engine(connection, (builds.PROJECTION,), announce=False).apply(recorded(*queued, after=after), after)
    await receive(core, more)
    found = await find(core, FailureStart(max(more), "0023", 29, "ffff", 1, "commit"))
    assert [one.commit_sha for one in found] == [f"{number:04x}" for number in sorted(more, reverse=True)[:MAX_CHANGES]]
    assert (found[0].paths[0], len(found[0].paths), found[0].all_paths) == ("src/cart.py", MAX_PATHS, MAX_PATHS + 1)
