"""A push that changes the file of pipelines syncs the jobs, before it starts their builds. The repository is real."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from commands.gitops import SyncPipelines
from commands.scm import CreateScmEndpoint
from domain.changes import ChangeReceived
from domain.gitops import GITOPS, GitopsSyncFailed, SyncedPipelines
from domain.jobs import JOB
from domain.scm import ScmEndpoint
from domain.triggers import RepositoryChange, Triggers
from integrations.scm.hosts import ScmHosts
from integrations.source_ports import NewSource, SourceHost, SourceHosts, SourceUnavailable
from store.tables.build_logs import BuildLogs
from store.tables.shared_caches import SharedCaches
from testhide.processes import Core
from tests.support.git_repository import GitRepository
from tests.workers.watched_jobs import WatchedJobs
from workers.gitops import PipelineSyncer
from workers.reactions.reaction import Reaction, RetryLater, Tools
from workers.reactions.registry import REACTIONS

START, SYNC = (
    next(reaction for reaction in REACTIONS if reaction.name == name)
    for name in ("start_builds_of_a_change", "sync_jobs_with_their_file")
)
FILE = "jobs: {unit: {command: pytest, triggers: {branches: [main]}}}"


class DownHosts:
    """A host that does not answer, and asks to be called again."""

    def open(self, endpoint: ScmEndpoint) -> NoReturn:
        raise SourceUnavailable("example.com does not answer.", 7)

    async def check(self, endpoint: NewSource, *, is_admin: bool) -> None:
        pass


@dataclass
class SlowHosts(DownHosts):
    """Hosts that read the file, and answer when something else has happened."""

    hosts: SourceHosts
    meanwhile: Callable[[], Awaitable[object]]

    def open(self, endpoint: ScmEndpoint) -> Any:
        return SlowHost(self.hosts.open(endpoint), self.meanwhile)


@dataclass
class SlowHost:
    host: SourceHost
    meanwhile: Callable[[], Awaitable[object]]

    async def fetch_file(self, path: str, ref: str) -> tuple[str, bytes]:
        found = await self.host.fetch_file(path, ref)
        await self.meanwhile()
        return found


@dataclass
class Pipelines:
    """A project whose SCM endpoint is a real repository."""

    jobs: WatchedJobs
    hosts: SourceHosts
    tools: Tools
    repository: GitRepository

    async def push(self, *reactions: Reaction, **change: Any) -> ChangeReceived:
        """Receives a push, and runs reactions to it."""
        given = {"branch": "main", "commit": "c0ffee", "repository": self.repository.path.stem, **change}
        received = await self.jobs.receive(RepositoryChange("push", **given))
        for reaction in reactions:
            await reaction.run(received, self.tools)
        return received

    def slow_tools(self, meanwhile: Callable[[], Awaitable[object]]) -> Tools:
        return make_tools(self.jobs, SlowHosts(self.hosts, meanwhile))

    async def state(self) -> SyncedPipelines:
        return await self.jobs.parts.log.load_state(GITOPS.at(1))


def make_tools(jobs: WatchedJobs, hosts: SourceHosts) -> Tools:
    parts = jobs.parts
    syncer = PipelineSyncer(parts.pool, parts.log, jobs.handler, parts.ids, hosts, jobs.wait_reached)
    logs, caches = BuildLogs(parts.pool), SharedCaches(parts.pool)
    blobs: Any = None  # no reaction here deletes any
    return Tools(logs, caches, blobs, parts.log, parts.secrets, changes=jobs.evaluator, pipelines=syncer)


@pytest.fixture
async def pipelines(parts: Core, tmp_path: Path) -> Pipelines:
    jobs = WatchedJobs(parts)
    await jobs.begin(with_endpoint=False)
    repository = GitRepository(tmp_path / "shop.git", ())
    await jobs.does(CreateScmEndpoint(1, 1, "git", "Shop", str(repository.path)))
    outgoing: Any = None  # a repository in a folder of the server is not called
    hosts = ScmHosts(outgoing, parts.secrets.unseal, [tmp_path])
    return Pipelines(jobs, hosts, make_tools(jobs, hosts), repository)


async def test_a_new_file_takes_effect_for_its_own_commit(pipelines: Pipelines) -> None:
    head = pipelines.repository.write(".testhide.yml", FILE)
    received = await pipelines.push(START, paths=[".testhide.yml"])
    (build,) = await pipelines.jobs.queued()
    state = await pipelines.state()
    assert (state.commit, build.job_id, build.commit_sha) == (head, state.jobs["unit"], "c0ffee")
    await START.run(received, pipelines.tools)
    await SYNC.run(received, pipelines.tools)
    assert len(await pipelines.jobs.queued()) == 1
    assert await pipelines.state() == state


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ["src/app.py"], "fast_forward": True},
        {"branch": "release/3"},
        {"repository": "acme/other"},
        {"deleted": True},
    ],
)
async def test_other_pushes_sync_nothing(pipelines: Pipelines, change: dict[str, Any]) -> None:
    pipelines.repository.write(".testhide.yml", FILE)
    await pipelines.push(START, SYNC, **change)
    assert await pipelines.state() == SyncedPipelines()


async def test_the_file_of_a_fork_counts_for_nothing(pipelines: Pipelines) -> None:
    """Its pull request may come from a branch with the name of the one that the project follows."""
    pipelines.repository.write(".testhide.yml", "jobs: {unit: {command: make, triggers: {fork_pull_requests: true}}}")
    pushed = await pipelines.push(START)
    commit = pipelines.repository.write(".testhide.yml", "jobs: {unit: {command: steal}, more: {command: x}}", "of-bob")
    pipelines.repository.git("update-ref", "refs/pull/7/head", commit)
    state = await pipelines.state()
    fork = RepositoryChange(
        "pull_request",
        "main",
        commit,
        pull_request=7,
        fork=True,
        head_ref="refs/pull/7/head",
        repository=pushed.change.repository,
    )
    received = await pipelines.jobs.receive(fork)
    for reaction in (START, SYNC):
        await reaction.run(received, pipelines.tools)
    assert await pipelines.state() == state
    (build,) = await pipelines.jobs.queued()
    assert (build.commit_sha, build.configuration.command, build.untrusted) == (commit, "make", True)


async def test_a_push_of_unknown_paths_syncs_what_there_is(pipelines: Pipelines) -> None:
    await pipelines.push(SYNC)
    assert await pipelines.state() == SyncedPipelines(), "the repository has no file, and needs none"
    pipelines.repository.write(".testhide.yml", FILE)
    await pipelines.push(SYNC)
    assert (await pipelines.state()).jobs.keys() == {"unit"}


async def test_a_push_that_may_have_dropped_commits_syncs(pipelines: Pipelines) -> None:
    """The dropped commits may have changed the file, and the pushed commits do not list it."""
    await pipelines.push(SYNC, paths=["src/app.py"])
    assert await pipelines.state() == SyncedPipelines(), "the repository has no file, and needs none"
    head = pipelines.repository.write(".testhide.yml", FILE)
    await pipelines.push(SYNC, paths=["src/app.py"])
    assert (await pipelines.state()).commit == head


async def test_a_file_with_mistakes_is_recorded_and_stops_no_build(pipelines: Pipelines) -> None:
    pipelines.repository.write(".testhide.yml", FILE)
    await pipelines.push(START)
    pipelines.repository.write(".testhide.yml", "jobs: {unit: {comand: x}}")
    received = await pipelines.push(START)
    assert len(await pipelines.jobs.queued()) == 2
    state = await pipelines.state()
    assert state.problem == "1:15: `comand` is not known here; did you mean `command`?"
    await SYNC.run(received, pipelines.tools)
    failures = await pipelines.jobs.parts.log.read(0, 1_000, [GitopsSyncFailed.name])
    assert len(failures) == 1
    pipelines.repository.write(".testhide.yml", FILE)
    await pipelines.push(START)
    assert (await pipelines.state()).problem is None


async def test_a_job_made_by_hand_is_left_alone(pipelines: Pipelines) -> None:
    await pipelines.jobs.add_job(5, Triggers(), max_parallel=7)
    pipelines.repository.write(".testhide.yml", "jobs: {Job 5: {command: x}}")
    await pipelines.push(SYNC)
    assert "Job 5 ('Job 5') is not managed" in ((await pipelines.state()).problem or "")
    job = await pipelines.jobs.parts.log.load_state(JOB.at(5))
    assert job is not None
    assert job.max_parallel == 7


async def test_a_host_that_is_down_stops_no_build_and_is_asked_again(pipelines: Pipelines) -> None:
    pipelines.repository.write(".testhide.yml", FILE)
    await pipelines.push(START)
    down = make_tools(pipelines.jobs, DownHosts())
    received = await pipelines.jobs.receive(RepositoryChange("push", "main", "c0ffee"))
    await START.run(received, down)
    assert len(await pipelines.jobs.queued()) == 2
    with pytest.raises(RetryLater) as later:
        await SYNC.run(received, down)
    assert later.value.seconds == 7
    assert (await pipelines.state()).problem == "example.com does not answer."


async def test_changes_of_one_commit_read_the_file_once(pipelines: Pipelines) -> None:
    reads: list[str] = []

    async def count() -> None:
        reads.append("the file")

    tools = pipelines.slow_tools(count)
    head = pipelines.repository.write(".testhide.yml", FILE)
    for _ in range(3):
        received = await pipelines.push(commit=head)
        await START.run(received, tools)
        await SYNC.run(received, tools)
    assert len(reads) == 1
    assert len(await pipelines.jobs.queued()) == 3
    pipelines.repository.write(".testhide.yml", "jobs: {unit: {comand: x}}")
    await SYNC.run(await pipelines.push(), tools)
    assert (await pipelines.state()).problem is not None
    await SYNC.run(await pipelines.push(commit=head), tools)
    assert len(reads) == 3, "the branch may have been set back to what was synced before"


async def test_a_sync_that_a_newer_one_overtakes_brings_no_older_file_back(pipelines: Pipelines) -> None:
    async def sync_newer() -> None:
        pipelines.repository.write(".testhide.yml", "jobs: {newer: {command: x}}")
        await pipelines.push(SYNC)

    pipelines.repository.write(".testhide.yml", FILE)
    received = await pipelines.push()
    with pytest.raises(RetryLater):
        await SYNC.run(received, pipelines.slow_tools(sync_newer))
    await SYNC.run(received, pipelines.tools)
    state = await pipelines.state()
    assert (set(state.jobs), state.problem) == ({"newer"}, None)


async def test_a_sync_brings_no_branch_back_that_an_admin_has_just_left(pipelines: Pipelines) -> None:
    async def follow_release() -> None:
        sync = SyncPipelines(1, await pipelines.state(), "release", "c9", [], [], [])
        await pipelines.jobs.does(sync)

    pipelines.repository.write(".testhide.yml", FILE)
    received = await pipelines.push(SYNC)
    pipelines.repository.write(".testhide.yml", "jobs: {newer: {command: x}}")
    with pytest.raises(RetryLater):
        await SYNC.run(received, pipelines.slow_tools(follow_release))
    await SYNC.run(received, pipelines.tools)
    assert (await pipelines.state()).branch == "release"
