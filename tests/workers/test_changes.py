"""Changes of repositories start builds, each once, and end builds of older changes."""

import asyncio
import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from commands.jobs import ConfigureJob, CreateJob, UpdateJob
from commands.scm import CreateScmEndpoint, DeleteScmEndpoint
from commands.triggers import SetTriggers
from commands.untrusted_builds import ApproveBuild
from domain.builds import BUILD, BuildFinished, Finished
from domain.changes import CHANGE, ChangePathsDropped
from domain.core.errors import Conflict, Unavailable
from domain.matrix import Matrix
from domain.triggers import BuildTrigger, RepositoryChange, Triggers
from integrations.scm.hosts import ScmHosts
from testhide.processes import Core
from tests.support.git_repository import GitRepository
from tests.workers.watched_jobs import ANN, RunBuild, WatchedJobs

MAIN = Triggers(branches=["main"])
NEWEST = Triggers(branches=["**"], tags=["**"], pull_requests=True, cancel_superseded=True)


def fork(commit: str, **more: Any) -> RepositoryChange:
    """A commit of a pull request from a fork."""
    about: dict[str, Any] = {"fork_repository": "bob/web", "head_ref": "refs/pull/7/head", "pull_request": 7} | more
    return RepositoryChange("pull_request", "main", commit, fork=True, **about)


@pytest.fixture
async def jobs(parts: Core) -> WatchedJobs:
    jobs = WatchedJobs(parts)
    await jobs.begin()
    return jobs


async def test_a_push_starts_the_jobs_that_want_it(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, MAIN)
    await jobs.add_job(6, Triggers(branches=["release/*"]))
    await jobs.add_job(7, MAIN, repository="https://github.com/acme/api.git")
    await jobs.add_job(8, MAIN, repository="https://github.com/Acme/Web.git")
    received = await jobs.push(commit="c0ffee", repository="acme/web")
    await jobs.push(commit="c0ffee", repository="acme/other")
    builds = await jobs.queued()
    assert [(build.job_id, build.branch, build.commit_sha, build.actor) for build in builds] == [
        (5, "main", "c0ffee", "user:1"),
        (8, "main", "c0ffee", "user:1"),
    ]
    assert builds[0].trigger == BuildTrigger("push", received.change_id)


async def test_a_change_starts_no_second_build(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, MAIN)
    received = await jobs.receive(RepositoryChange("push", "main"))
    await asyncio.gather(*(jobs.evaluator.evaluate(received) for _ in range(4)))
    await jobs.evaluator.evaluate(received)
    assert len(await jobs.queued()) == 1
    await jobs.push()
    assert len(await jobs.queued()) == 2


async def test_a_commit_that_a_request_has_evaluated_starts_no_job_that_was_enabled_later(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, MAIN)
    await jobs.add_job(6, MAIN)
    await jobs.add_job(7, Triggers())
    await jobs.does(UpdateJob(6, enabled=False))
    jobs.now += timedelta(seconds=1)
    change = RepositoryChange("push", "main", paths=["a.py"], fast_forward=True)
    of_hook = await jobs.receive(change)
    notified = await jobs.receive(change, "git-notify")
    jobs.now += timedelta(seconds=1)
    await jobs.does(UpdateJob(6, enabled=True), SetTriggers(7, MAIN))
    await jobs.evaluator.evaluate(notified)
    assert [build.job_id for build in await jobs.queued()] == [5], "in case that the request was cut off"
    await jobs.evaluator.evaluate(of_hook)
    assert [build.job_id for build in await jobs.queued()] == [5, 5, 6, 7], "nobody has evaluated it before"


async def test_a_change_starts_all_builds_of_a_matrix_once(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, NEWEST)
    matrix = Matrix({"a": ["1", "2", "3"], "b": ["1", "2"]}, exclude=[{"a": "3", "b": "2"}])
    await jobs.does(ConfigureJob(5, "make", matrix=matrix))
    received = await jobs.push()
    await jobs.evaluator.evaluate(received)
    builds = await jobs.queued()
    assert len({build.build_id for build in builds}) == len(builds) == 5
    assert {(build.group_id, build.actor) for build in builds} == {(builds[0].build_id, "user:1")}
    await jobs.push()
    assert await jobs.statuses() == ["aborted"] * 5 + ["queued"] * 5


async def test_a_commit_of_a_pull_request_is_built_once(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, Triggers(pull_requests=True))
    for commit in ("c0ffee", "c0ffee", "decade"):
        pull = RepositoryChange("pull_request", "fix", commit, pull_request=7)
        await jobs.evaluator.evaluate(await jobs.receive(pull))
    assert [build.commit_sha for build in await jobs.queued()] == ["c0ffee", "decade"]


async def test_what_starts_nothing(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, NEWEST)
    await jobs.push("gone", deleted=True)
    await jobs.push(skip_marker="[skip ci]")
    await jobs.evaluator.evaluate(await jobs.receive(fork("c0ffee")))
    await jobs.does(UpdateJob(5, enabled=False))
    await jobs.push()
    assert await jobs.queued() == []


async def test_a_job_that_can_have_no_build_keeps_no_other_from_its_own(jobs: WatchedJobs) -> None:
    await jobs.does(CreateJob(4, 1, "Without a command"), SetTriggers(4, MAIN))
    await jobs.add_job(5, MAIN)
    await jobs.push()
    assert [build.job_id for build in await jobs.queued()] == [5]


async def test_a_job_without_a_repository_has_no_build_of_a_change(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, MAIN)
    await jobs.add_job(6, MAIN, repository="https://github.com/acme/web")
    await jobs.does(DeleteScmEndpoint(1))
    await jobs.push()
    assert [build.job_id for build in await jobs.queued()] == [6]


async def test_paths_count_only_if_the_branch_has_kept_its_commits(parts: Core, tmp_path: Path) -> None:
    """Neither GitLab nor Gitea says whether a push has dropped commits. The repository is real."""
    repository, outgoing = GitRepository(tmp_path / "shop.git", ()), cast("Any", None)
    jobs = WatchedJobs(parts, ScmHosts(outgoing, parts.secrets.unseal, [tmp_path]))
    await jobs.begin(with_endpoint=False)
    await jobs.does(CreateScmEndpoint(1, 1, "git", "Shop", str(repository.path)))
    await jobs.add_job(5, Triggers(branches=["main"], paths=["src/**"]))
    base = repository.commits[-1]
    first = repository.write("README.md", "first")
    second = repository.write("README.md", "second")
    listed: dict[str, Any] = {"paths": ["README.md"], "repository": repository.path.stem}
    await jobs.push(before=first, commit=second, **listed)
    await jobs.push(before=base, commit=first, **listed)  # the branch has moved on
    await jobs.push(before=None, commit=second, **listed)
    assert await jobs.queued() == []
    repository.git("update-ref", "refs/heads/main", base)
    amended = repository.write("README.md", "amended")
    received = await jobs.push(before=second, commit=amended, **listed)
    await jobs.evaluator.evaluate(received)
    await jobs.push(before=second, commit=amended, fast_forward=True, **listed)
    assert [build.commit_sha for build in await jobs.queued()] == [amended]
    await jobs.push(before=base, commit=amended, paths=["README.md"], repository="acme/other")
    repository.path.rename(tmp_path / "gone.git")
    await jobs.push(before=base, commit="c0ffee", **listed)
    assert [build.commit_sha for build in await jobs.queued()] == [amended, "c0ffee"], "nobody can be asked"
    dropped = [item.event for item in await parts.log.read(0, 1_000, [ChangePathsDropped.name])]
    assert [event.why.split()[0:2] for event in dropped if isinstance(event, ChangePathsDropped)] == [
        ["The", "commit"],
        ["The", "host"],
    ]
    change = await parts.log.load_state(CHANGE.at(received.change_id))
    assert change is not None
    assert (change.change.paths, second in change.change.paths_unknown) == (None, True)


async def test_triggers_that_are_set_before_a_change_count(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, Triggers())
    await jobs.does(SetTriggers(5, MAIN))
    await jobs.push()
    assert len(await jobs.queued()) == 1


async def test_triggers_that_the_sync_of_a_change_has_set_count(jobs: WatchedJobs) -> None:
    waited_for: list[int] = []

    async def show(position: int) -> bool:
        waited_for.append(position)
        return await jobs.wait_reached(position)

    received = await jobs.receive(RepositoryChange("push", "main"))
    await jobs.add_job(5, MAIN)
    head = await jobs.parts.log.read_head()
    await dataclasses.replace(jobs.evaluator, wait_reached=show).evaluate(received)
    assert waited_for[0] == head
    assert len(await jobs.queued()) == 1


async def test_a_change_waits_for_read_models_that_are_behind(jobs: WatchedJobs) -> None:
    async def stays_behind(position: int) -> bool:
        return False

    await jobs.add_job(5, MAIN)
    received = await jobs.receive(RepositoryChange("push", "main"))
    with pytest.raises(Unavailable):
        await dataclasses.replace(jobs.evaluator, wait_reached=stays_behind).evaluate(received)
    await jobs.evaluator.evaluate(received)
    assert len(await jobs.queued()) == 1


async def test_a_newer_change_ends_queued_builds_of_its_branch(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, NEWEST)
    await jobs.add_job(6, MAIN)
    await jobs.push("main")
    await jobs.push("other")
    await jobs.evaluator.evaluate(await jobs.receive(RepositoryChange("tag", "main")))
    await jobs.evaluator.evaluate(await jobs.receive(RepositoryChange("pull_request", "main", "c1", pull_request=7)))
    await jobs.push("main")
    kinds = [(build.job_id, build.branch, build.trigger and build.trigger.kind) for build in await jobs.queued()]
    ended = [kind for kind, status in zip(kinds, await jobs.statuses(), strict=True) if status == "aborted"]
    assert ended == [(5, "main", "push")], "neither of another branch, tag, pull request or job"
    await jobs.evaluator.evaluate(await jobs.receive(RepositoryChange("pull_request", "main", "c2", pull_request=7)))
    await jobs.evaluator.evaluate(await jobs.receive(RepositoryChange("pull_request", "main", "c2", pull_request=8)))
    assert (await jobs.statuses()).count("aborted") == 2


async def test_changes_that_are_evaluated_late_end_their_builds(jobs: WatchedJobs) -> None:
    """Workers evaluate changes in any order; the newest change wins, not the newest build."""
    await jobs.add_job(5, NEWEST)
    older, newer = [await jobs.receive(RepositoryChange("push", "main", commit)) for commit in ("c1", "c2")]
    await jobs.evaluator.evaluate(newer)
    await jobs.evaluator.evaluate(older)
    found = zip(await jobs.queued(), await jobs.statuses(), strict=True)
    assert {build.commit_sha: status for build, status in found} == {"c1": "aborted", "c2": "queued"}


FORKS = Triggers(fork_pull_requests=True)


@pytest.mark.parametrize("of_fork", [False, True])
async def test_a_closed_pull_request_ends_its_queued_builds(jobs: WatchedJobs, of_fork: bool) -> None:
    def change(commit: str = "c0ffee", number: int = 7, **more: Any) -> RepositoryChange:
        if of_fork:
            return fork(commit, pull_request=number, **more)
        return RepositoryChange("pull_request", "fix", commit, pull_request=number, **more)

    await jobs.add_job(5, Triggers(pull_requests=True, fork_pull_requests=True))
    await jobs.does(ConfigureJob(5, "make", matrix=Matrix({"a": ["1", "2"]})))
    for opened in (change(), change(number=8)):
        await jobs.evaluator.evaluate(await jobs.receive(opened))
    closed = await jobs.receive(change(deleted=True))
    for _ in range(2):
        await jobs.evaluator.evaluate(closed)
    assert await jobs.statuses() == ["aborted"] * 2 + ["queued"] * 2
    ended = await jobs.parts.log.load_state(BUILD.at((await jobs.queued())[0].build_id))
    assert isinstance(ended, Finished)
    assert (ended.reason, ended.detail) == (
        "pull_request_closed",
        "Pull request 7 was closed before a node ran the build.",
    )
    reopened = await jobs.receive(change())
    for _ in range(2):
        await jobs.evaluator.evaluate(reopened)
    assert await jobs.statuses() == ["aborted"] * 2 + ["queued"] * 4, "it has a build of its commit again"


async def test_a_closed_pull_request_ends_no_build_that_a_node_has(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, Triggers(pull_requests=True))
    pull = RepositoryChange("pull_request", "fix", "c0ffee", pull_request=7)
    await jobs.evaluator.evaluate(await jobs.receive(pull))
    await jobs.run_job(5)
    await jobs.evaluator.evaluate(await jobs.receive(msgspec.structs.replace(pull, deleted=True)))
    await jobs.evaluator.evaluate(await jobs.receive(pull))
    assert await jobs.statuses() == ["passed"], "nor does it start another one of the commit"


async def test_a_pull_request_from_a_fork_starts_an_untrusted_build(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, FORKS)
    await jobs.does(ConfigureJob(5, "make", env={"A": "1"}, secrets={"KEY": jobs.parts.secrets.seal("hidden")}))
    received = await jobs.receive(fork("c0ffee"))
    await jobs.evaluator.evaluate(received)
    (build,) = await jobs.queued()
    assert (build.branch, build.commit_sha, build.repository) == ("refs/pull/7/head", "c0ffee", None)
    assert build.trigger == BuildTrigger("pull_request", received.change_id, 7, fork=True)
    assert (build.untrusted, build.fork, build.by_admin) == (True, "bob/web", False)
    assert (build.configuration.env, build.configuration.secrets) == ({"A": "1"}, {})


async def test_a_fork_at_a_host_without_refs_of_pull_requests_is_checked_out_itself(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, FORKS)
    url = "https://bitbucket.org/bob/web.git"
    await jobs.evaluator.evaluate(await jobs.receive(fork("c0ffee", head_ref="refs/heads/main", fork_url=url)))
    (build,) = await jobs.queued()
    assert (build.branch, build.repository) == ("refs/heads/main", url)


async def test_a_newer_commit_of_a_fork_is_a_build_that_waits_again(jobs: WatchedJobs) -> None:
    """Of the older ones, those end that nobody has approved; with `cancel_superseded` all."""
    await jobs.add_job(5, FORKS)
    for commit in ("c1", "c2"):
        await jobs.evaluator.evaluate(await jobs.receive(fork(commit)))
    assert await jobs.statuses() == ["aborted", "queued"]
    older, newer = await jobs.queued()
    with pytest.raises(Conflict, match="is aborted"):
        await jobs.does(ApproveBuild(older.build_id))
    await jobs.does(ApproveBuild(newer.build_id))
    await jobs.evaluator.evaluate(await jobs.receive(fork("c3")))
    assert await jobs.statuses() == ["aborted", "queued", "queued"], "it is approved"
    last = await jobs.parts.log.load_state(BUILD.at((await jobs.queued())[-1].build_id))
    assert last is not None
    assert last.awaits_approval
    await jobs.does(SetTriggers(5, Triggers(fork_pull_requests=True, cancel_superseded=True)))
    await jobs.evaluator.evaluate(await jobs.receive(fork("c4")))
    assert await jobs.statuses() == ["aborted"] * 3 + ["queued"]


@pytest.mark.parametrize("newest", [{"commit": "c1", "deleted": True}, {"commit": "c2", "skip_marker": "[skip ci]"}])
async def test_an_older_commit_of_a_fork_that_is_evaluated_late_leaves_no_build(
    jobs: WatchedJobs, newest: dict[str, Any]
) -> None:
    """Workers evaluate two changes of a project at once. A pull request of that number of another repository keeps its
    build, and so does another pull request.
    """
    await jobs.add_job(5, FORKS)
    await jobs.add_job(6, FORKS, repository="https://github.com/acme/api.git")
    await jobs.evaluator.evaluate(await jobs.receive(fork("c1", repository="acme/api")))
    await jobs.evaluator.evaluate(await jobs.receive(fork("c1", repository="acme/web", pull_request=8)))
    older = await jobs.receive(fork("c1", repository="acme/web"))
    newer = await jobs.receive(fork(**newest, repository="acme/web"))
    await jobs.receive(fork("c9", repository="acme/api", pull_request=9, deleted=True))
    for change in (newer, older, older):
        await jobs.evaluator.evaluate(change)
    first, second, *late = await jobs.statuses()
    assert (first, second, set(late)) == ("queued", "queued", {"aborted"})


async def test_a_pull_request_that_was_closed_before_its_evaluation_leaves_no_build(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, Triggers(pull_requests=True))
    pull = RepositoryChange("pull_request", "fix", "c0ffee", pull_request=7)
    opened, closed = [await jobs.receive(change) for change in (pull, msgspec.structs.replace(pull, deleted=True))]
    await jobs.evaluator.evaluate(closed)
    await jobs.evaluator.evaluate(opened)
    (build,) = await jobs.queued()
    ended = await jobs.parts.log.load_state(BUILD.at(build.build_id))
    assert isinstance(ended, Finished)
    assert ended.reason == "pull_request_closed"
    reopened = await jobs.receive(pull)
    for change in (reopened, closed, opened):
        await jobs.evaluator.evaluate(change)
    assert await jobs.statuses() == ["aborted", "queued"], "the build of a pull request that is open again stays"


@pytest.mark.parametrize("newest", [{"commit": "c1", "deleted": True}, {"commit": "c2", "skip_marker": "[skip ci]"}])
async def test_no_build_of_an_older_commit_follows_those_that_it_needs(
    jobs: WatchedJobs, newest: dict[str, Any]
) -> None:
    """The newer change is evaluated when the needed build has ended, but before the next one is queued."""
    await jobs.add_job(5, FORKS)
    await jobs.add_job(6, Triggers(fork_pull_requests=True, needs=[5]))
    older = await jobs.receive(fork("c1"))
    await jobs.evaluator.evaluate(older)
    (needed,) = await jobs.queued()
    receipt = await jobs.handler.execute(RunBuild(needed.build_id, "passed"), ANN)
    await jobs.evaluator.evaluate(await jobs.receive(fork(**newest)))
    for recorded in receipt.events:
        if isinstance(recorded.event, BuildFinished):
            await jobs.evaluator.continue_after(recorded.event)
    assert await jobs.statuses() == ["passed", "aborted"]
    await jobs.evaluator.evaluate(older)
    assert "queued" not in await jobs.statuses()


@pytest.mark.parametrize("newest", [{"commit": "c1"}, {"commit": "c3", "skip_marker": "[skip ci]"}])
async def test_no_older_commit_of_a_fork_is_left_to_approve(jobs: WatchedJobs, newest: dict[str, Any]) -> None:
    """The newest commit starts no build: it had one before, or asks for none. A pull request of that number of another
    repository keeps its build.
    """
    await jobs.add_job(5, FORKS)
    await jobs.add_job(6, FORKS, repository="https://github.com/acme/api.git")
    for commit in ("c1", "c2"):
        await jobs.evaluator.evaluate(await jobs.receive(fork(commit, repository="acme/web")))
    await jobs.evaluator.evaluate(await jobs.receive(fork("c2", repository="acme/api")))
    await jobs.evaluator.evaluate(await jobs.receive(fork(**newest, repository="acme/web")))
    assert await jobs.statuses() == ["aborted", "aborted", "queued"]


async def test_a_fork_ends_no_other_builds(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, Triggers(branches=["**"], fork_pull_requests=True))
    for branch in ("main", "refs/pull/7/head"):
        await jobs.push(branch)
        await jobs.push(branch)
    await jobs.evaluator.evaluate(await jobs.receive(fork("c1")))
    assert await jobs.statuses() == ["queued"] * 5
