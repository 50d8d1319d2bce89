"""Jobs that need others start when these have passed for the same change, each once."""

import asyncio
from typing import Any

import msgspec
import pytest

from commands.build_actions import RestartBuild
from commands.builds import AbortBuild, StartBuild
from commands.gitops import prepare_sync
from commands.jobs import ConfigureJob, UpdateJob
from commands.triggers import SetTriggers
from domain.builds import BUILD, BuildFinished
from domain.changes import ChangeReceived, JobDeferred, JobLeftOut
from domain.core.events import Damaged
from domain.gitops import GITOPS
from domain.matrix import Matrix
from domain.triggers import BuildTrigger, RepositoryChange, Triggers
from testhide.processes import Core
from tests.support.documentation import ROOT
from tests.workers.watched_jobs import WatchedJobs

MAIN = Triggers(branches=["main"])
TESTS, LINT, DEPLOY, REPORT = 5, 6, 7, 8


@pytest.fixture
async def jobs(parts: Core) -> WatchedJobs:
    """Tests and lint, which pushes to main start, and a deployment that needs both."""
    jobs = WatchedJobs(parts)
    await jobs.begin()
    await jobs.add_job(TESTS, MAIN)
    await jobs.add_job(LINT, MAIN)
    await jobs.add_job(DEPLOY, Triggers(branches=["main"], needs=[TESTS, LINT]))
    return jobs


async def started(jobs: WatchedJobs) -> list[int]:
    """The jobs of all builds, in the order in which they were queued."""
    return [build.job_id for build in await jobs.queued()]


async def left_out(jobs: WatchedJobs) -> dict[int, str]:
    events = [recorded.event for recorded in await jobs.parts.log.read(0, 10_000, [JobLeftOut.name])]
    return {event.job_id: event.why for event in events if isinstance(event, JobLeftOut)}


async def test_a_job_starts_when_all_that_it_needs_have_passed(jobs: WatchedJobs) -> None:
    received = await jobs.push(commit="c0ffee")
    assert await started(jobs) == [TESTS, LINT]
    (deferred,) = [recorded.event for recorded in await jobs.parts.log.read(0, 1_000, [JobDeferred.name])]
    assert isinstance(deferred, JobDeferred)
    assert (deferred.change_id, deferred.job_id, deferred.needs) == (received.change_id, DEPLOY, [TESTS, LINT])
    await jobs.run_job(TESTS)
    assert await started(jobs) == [TESTS, LINT]
    await jobs.run_job(LINT)
    tests, lint, deploy = await jobs.queued()
    assert (deploy.job_id, deploy.commit_sha, deploy.actor) == (DEPLOY, "c0ffee", "user:1")
    assert deploy.trigger == BuildTrigger("push", received.change_id, after=[tests.build_id, lint.build_id])


@pytest.mark.parametrize("status", ["failed", "aborted"])
async def test_a_job_starts_only_after_a_restart_that_passes(jobs: WatchedJobs, status: str) -> None:
    await jobs.push(commit="c0ffee")
    tests, _ = await jobs.queued()
    await jobs.run_job(LINT)
    if status == "failed":
        await jobs.run(tests.build_id, "failed")
    else:
        await jobs.does(AbortBuild(tests.build_id, "stopped_by_user"))
    await jobs.does(RestartBuild(100, tests.build_id, TESTS, ("a",)))
    await jobs.run(100)
    assert DEPLOY not in await started(jobs), "the build of some tests does not count"
    await jobs.does(RestartBuild(101, tests.build_id, TESTS), RestartBuild(102, 100, TESTS))
    await jobs.run(101)
    assert DEPLOY not in await started(jobs), "a newer restart has not ended"
    await jobs.run(102)
    (deploy,) = [build for build in await jobs.queued() if build.job_id == DEPLOY]
    assert deploy.trigger is not None
    assert 102 in deploy.trigger.after


async def test_a_job_starts_once_however_many_workers_see_the_end(jobs: WatchedJobs) -> None:
    received = await jobs.push(commit="c0ffee")
    await asyncio.gather(*(jobs.evaluator.evaluate(received) for _ in range(3)))
    for job_id in (TESTS, LINT):
        await jobs.run_job(job_id)
    events = [recorded.event for recorded in await jobs.parts.log.read(0, 10_000, [BuildFinished.name])]
    ends = [event for event in events if isinstance(event, BuildFinished)]
    await asyncio.gather(*(jobs.evaluator.continue_after(end) for end in ends * 3))
    await jobs.evaluator.evaluate(received)
    assert await started(jobs) == [TESTS, LINT, DEPLOY]
    await jobs.does(RestartBuild(100, ends[0].build_id, ends[0].job_id))
    await jobs.run(100)
    assert (await started(jobs)).count(DEPLOY) == 1


async def test_only_ends_of_passed_builds_of_changes_are_reacted_to(jobs: WatchedJobs) -> None:
    await jobs.push(commit="c0ffee")
    tests, lint = await jobs.queued()
    await jobs.does(StartBuild(100, TESTS, branch="main"))
    await jobs.run(100)
    await jobs.does(RestartBuild(101, 100, TESTS))
    await jobs.run(101)
    await jobs.run(lint.build_id, "failed")
    await jobs.run(tests.build_id)
    ends = await jobs.parts.log.read(0, 10_000, [BuildFinished.name])
    damaged = msgspec.structs.replace(ends[0], event=Damaged(BuildFinished.name, "its MAC is wrong"))
    assert await jobs.evaluator.select([damaged, *ends]) == [damaged, ends[-1]]


async def test_a_report_without_a_commit_is_built_at_the_commit_that_was_tested(jobs: WatchedJobs) -> None:
    await jobs.push()
    for build in await jobs.queued():
        await jobs.run(build.build_id, commit="c0ffee")
    deploy = (await jobs.queued())[-1]
    assert (deploy.job_id, deploy.commit_sha) == (DEPLOY, "c0ffee")


async def test_each_change_has_builds_of_its_own(jobs: WatchedJobs) -> None:
    first, second = [await jobs.push(commit=commit) for commit in ("c1", "c2")]
    builds = {(build.job_id, build.commit_sha): build.build_id for build in await jobs.queued()}
    await jobs.run(builds[TESTS, "c1"])
    await jobs.run(builds[LINT, "c2"])
    assert DEPLOY not in await started(jobs)
    await jobs.run(builds[TESTS, "c2"])
    deploys = [build for build in await jobs.queued() if build.job_id == DEPLOY]
    assert [build.trigger and build.trigger.change_id for build in deploys] == [second.change_id]
    assert first.change_id != second.change_id


async def test_all_builds_of_a_matrix_must_pass(jobs: WatchedJobs) -> None:
    await jobs.does(ConfigureJob(TESTS, "make", matrix=Matrix({"os": ["linux", "mac"]})))
    await jobs.push(commit="c0ffee")
    await jobs.run_job(LINT)
    linux, mac = [build.build_id for build in await jobs.queued() if build.job_id == TESTS]
    await jobs.run(linux)
    await jobs.run(mac, "failed")
    assert DEPLOY not in await started(jobs)
    await jobs.does(RestartBuild(100, mac, TESTS))
    await jobs.run(100)
    deploy = (await jobs.queued())[-1]
    assert deploy.trigger is not None
    assert (deploy.job_id, set(deploy.trigger.after) >= {linux, 100}, mac in deploy.trigger.after) == (
        DEPLOY,
        True,
        False,
    )


async def test_a_job_without_triggers_follows_those_that_it_needs(jobs: WatchedJobs) -> None:
    await jobs.add_job(REPORT, Triggers(needs=[DEPLOY]))
    await jobs.push("other")
    await jobs.push(skip_marker="[skip ci]")
    await jobs.push(repository="acme/other")
    assert (await started(jobs), await left_out(jobs)) == ([], {})
    await jobs.push(commit="c0ffee")
    for job_id in (TESTS, LINT, DEPLOY, REPORT):
        await jobs.run_job(job_id)
    assert await started(jobs) == [TESTS, LINT, DEPLOY, REPORT]


async def test_a_job_is_left_out_and_says_so_where_another_one_does_not_start(jobs: WatchedJobs) -> None:
    await jobs.does(SetTriggers(LINT, Triggers(branches=["release/*"])))
    await jobs.add_job(REPORT, Triggers(needs=[TESTS, DEPLOY]))
    await jobs.push()
    await jobs.run_job(TESTS)
    assert await started(jobs) == [TESTS]
    assert await left_out(jobs) == {
        DEPLOY: "The job does not start: it needs job 6, which does not start either (branch main matches not"
        " release/*).",
        REPORT: "The job does not start: it needs job 7, which does not start either (it needs job 6, which does not"
        " start either (branch main matches not release/*)).",
    }


async def test_a_job_that_was_left_out_waits_when_the_change_is_evaluated_again(jobs: WatchedJobs) -> None:
    """A sync may have changed the triggers since `git-notify` has evaluated a commit."""
    await jobs.does(SetTriggers(LINT, Triggers(branches=["release/*"])))
    received = await jobs.push()
    assert DEPLOY in await left_out(jobs)
    await jobs.does(SetTriggers(LINT, MAIN))
    await jobs.evaluator.evaluate(received)
    await jobs.does(SetTriggers(LINT, Triggers()))
    await jobs.evaluator.evaluate(received)
    await jobs.run_job(TESTS)
    await jobs.run_job(LINT)
    assert await started(jobs) == [TESTS, LINT, DEPLOY]
    events = await jobs.parts.log.read(0, 10_000, [JobDeferred.name, JobLeftOut.name])
    assert [recorded.event.name for recorded in events] == [JobLeftOut.name, JobDeferred.name], "each once"


async def test_a_job_is_left_out_where_another_one_can_have_no_build(jobs: WatchedJobs) -> None:
    await jobs.does(ConfigureJob(LINT, ""))
    await jobs.push()
    assert await left_out(jobs) == {DEPLOY: "It needs job 6, which can have no build of this change."}
    await jobs.does(UpdateJob(LINT, enabled=False))
    await jobs.push()
    assert (await left_out(jobs))[DEPLOY].endswith("it needs job 6, which is disabled or deleted.")


async def test_a_job_that_was_disabled_while_it_waited_says_so(jobs: WatchedJobs) -> None:
    await jobs.push()
    await jobs.does(UpdateJob(DEPLOY, enabled=False))
    await jobs.run_job(TESTS)
    await jobs.run_job(LINT)
    assert await started(jobs) == [TESTS, LINT]
    assert "Job 7 is disabled" in (await left_out(jobs))[DEPLOY]
    await jobs.does(UpdateJob(DEPLOY, enabled=True))
    await jobs.does(RestartBuild(100, (await jobs.queued())[1].build_id, LINT))
    await jobs.run(100)
    assert (await started(jobs)).count(DEPLOY) == 1


async def test_the_documented_order(parts: Core) -> None:
    page = (ROOT / "docs" / "pipelines.md").read_text().partition("## Order of jobs")[2]
    content = page.partition("```yaml\n")[2].partition("```")[0]

    async def find_none(_: object) -> Any:
        return {}

    jobs = WatchedJobs(parts)
    await jobs.begin()
    before = GITOPS.initial
    options: dict[str, Any] = {"find_pool": find_none, "fetch_jobs": find_none, "ids": parts.ids}
    await jobs.does(await prepare_sync(1, before, "main", "c1", content.encode(), **options))
    ids = (await parts.log.load_state(GITOPS.at(1))).jobs
    on_branches = ["lint", "unit tests", "unit tests", "package"]
    for branch, expected in (("main", [*on_branches, "deploy"]), ("fix", on_branches)):
        ran = len(await jobs.queued())
        await jobs.push(branch)
        for number, name in enumerate(expected, ran):
            build = (await jobs.queued())[number]
            assert (build.job_id, build.branch) == (ids[name], branch)
            await jobs.run(build.build_id)
        assert len(await jobs.queued()) == ran + len(expected)


async def test_a_newer_change_ends_the_queued_build(jobs: WatchedJobs) -> None:
    await jobs.does(
        SetTriggers(DEPLOY, Triggers(branches=["main"], needs=[TESTS], cancel_superseded=True)),
    )
    for commit in ("c1", "c2"):
        await jobs.push(commit=commit)
    tests = [build.build_id for build in await jobs.queued() if build.job_id == TESTS]
    for build_id in reversed(tests):
        await jobs.run(build_id)
    ended = zip(await jobs.queued(), await jobs.statuses(), strict=True)
    assert {build.commit_sha: status for build, status in ended if build.job_id == DEPLOY} == {
        "c1": "aborted",
        "c2": "queued",
    }


async def test_a_job_that_needs_others_only_now_starts_for_a_commit_that_was_built_before(jobs: WatchedJobs) -> None:
    """A host reports a commit of a pull request again when somebody edits the pull request."""
    pull = RepositoryChange("pull_request", "fix", "c0ffee", pull_request=7)

    async def report() -> ChangeReceived:
        received = await jobs.receive(pull)
        await jobs.evaluator.evaluate(received)
        return received

    await jobs.does(SetTriggers(TESTS, Triggers(pull_requests=True)))
    await report()
    await jobs.add_job(REPORT, Triggers(needs=[TESTS]))
    await report()
    await jobs.run_job(TESTS)
    assert await started(jobs) == [TESTS, REPORT]
    await jobs.add_job(9, Triggers(needs=[TESTS]))
    await report()
    assert await started(jobs) == [TESTS, REPORT, 9], "what it needs has passed already"


async def test_only_untrusted_builds_follow_those_of_a_fork(jobs: WatchedJobs) -> None:
    """A job that only follows others has not allowed forks, so it starts for none."""
    forks = Triggers(fork_pull_requests=True)
    await jobs.does(SetTriggers(TESTS, forks))
    await jobs.does(SetTriggers(DEPLOY, msgspec.structs.replace(forks, needs=[TESTS])))
    await jobs.add_job(REPORT, Triggers(needs=[TESTS]))
    fork = RepositoryChange("pull_request", "main", "c0ffee", pull_request=7, fork=True, head_ref="refs/pull/7/head")
    await jobs.evaluator.evaluate(await jobs.receive(fork))
    await jobs.run_job(TESTS)
    found = [(build.job_id, build.untrusted, build.branch) for build in await jobs.queued()]
    assert found == [(TESTS, True, "refs/pull/7/head"), (DEPLOY, True, "refs/pull/7/head")]
    last = await jobs.parts.log.load_state(BUILD.at((await jobs.queued())[-1].build_id))
    assert last is not None
    assert last.awaits_approval, "each build of a fork is approved by itself"
