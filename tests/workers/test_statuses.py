"""Statuses of the commits of builds at a host of source code, which is a fake of ours (tests.support.source_host)."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from commands.build_actions import DeleteBuild, RestartBuild
from commands.build_assignment import AcknowledgeBuild, AssignBuild, TakeLeadership
from commands.builds import FinishBuild, FinishExternalBuild, StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob
from commands.projects import CreateProject, UpdateProject
from commands.scm import CreateScmEndpoint, DeleteScmEndpoint
from commands.untrusted_builds import ApproveBuild
from domain.matrix import Matrix
from domain.scm import SCM_ENDPOINT
from domain.triggers import BuildTrigger
from integrations.addresses import parse_networks
from integrations.blobs import open_blobs
from integrations.outgoing import HttpOutgoing
from integrations.scm.hosts import ScmHosts
from projections.engine.engine import ensure_tables
from projections.registry import PROJECTIONS
from store.clock import utcnow
from store.postgres.notifications import EVENTS, Listener
from store.tables.build_logs import BuildLogs
from store.tables.shared_caches import SharedCaches
from testhide.processes import Core
from tests.support.git_repository import GitRepository
from tests.support.source_host import FakeSourceHost, fake_source_host
from tests.workers.watched_jobs import WatchedJobs
from tests.workers.yard import run_due
from workers.reactions.host_calls import MAX_CALLS, HostCalls
from workers.reactions.reaction import Tools
from workers.reactions.reaction_dispatcher import ReactionDispatcher
from workers.reactions.registry import REACTIONS
from workers.reactions.statuses import MAX_AGE, BuildStates

CALLER = CommandContext("user:1")
BASE_URL = "https://ci.example.com"
ADDRESS = "https://gitlab.example.com/acme/shop.git"
"""Address of the repository of the project, as commands get it."""
JOB, OTHER_JOB, BUILD = 5, 6, 7
SMOKE = f"testhide/Smoke #{JOB}"
"""Name of the status of the first job."""


class Workshop:
    """A project that is connected to a repository, with two jobs: the second one has a repository of its own."""

    def __init__(self, parts: Core, folder: Path, host: FakeSourceHost, outgoing: HttpOutgoing) -> None:
        self.parts, self.host = parts, host
        self.commit = host.repository.commits[-1]
        self.reactions = [reaction for reaction in REACTIONS if reaction.queue == "statuses"]
        self.calls = HostCalls()
        tools = Tools(
            BuildLogs(parts.pool),
            SharedCaches(parts.pool),
            open_blobs(folder.as_uri()),
            parts.log,
            parts.secrets,
            base_url=BASE_URL,
            source_hosts=ScmHosts(outgoing, parts.secrets.unseal),
            build_states=BuildStates(parts.log, parts.pool, WatchedJobs(parts).wait_reached),
            host_calls=self.calls,
        )
        listener = Listener(parts.conninfo, EVENTS)
        self._dispatcher = ReactionDispatcher(
            parts.pool, parts.log, listener, "redis://127.0.0.1:1", self.reactions, tools
        )

    async def does(self, *commands: Command, ago: timedelta = timedelta()) -> None:
        handler = Handler(self.parts.log, lambda: utcnow() - ago)
        for command in commands:
            await handler.execute(command, CALLER)

    async def begin(self) -> None:
        token = self.parts.secrets.seal("good-token")
        await self.does(
            CreateProject(1, "Web", 1, (("web", "slug-1"),), b""),
            CreateScmEndpoint(2, 1, "gitlab", "Main", "acme/shop", f"{self.host.url}/gitlab", token),
            CreateJob(JOB, 1, "Smoke"),
            CreateJob(OTHER_JOB, 1, "Other", repository="https://example.com/other.git"),
        )
        async with self.parts.pool.connection() as connection:
            for reaction in self.reactions:
                await connection.execute(
                    "INSERT INTO reaction_positions VALUES (%s, %s)", (reaction.name, await self.parts.log.read_head())
                )

    async def build(self, number: int = BUILD, job: int = JOB, commit: str | None = "") -> None:
        """Starts an external build, which is running at once."""
        await self.does(StartBuild(number, job, commit_sha=self.commit if commit == "" else commit, external=True))

    async def start_matrix(self) -> None:
        """Starts builds 7 and 8 of the two combinations of a matrix."""
        async with self.parts.pool.connection() as connection:
            await ensure_tables(connection, PROJECTIONS)
        await self.does(
            ConfigureJob(JOB, "pytest", matrix=Matrix({"os": ["linux", "windows"]})),
            StartBuild(BUILD, JOB, commit_sha=self.commit, more_ids=(8,), project_repository=ADDRESS),
            TakeLeadership("d"),
        )

    async def run(self, number: int, exit_code: int) -> None:
        await self.does(
            AssignBuild(number, 1, "d"),
            AcknowledgeBuild(number, 1, 1, self.commit),
            FinishBuild(number, 1, 1, exit_code, None, None),
        )

    async def note(self) -> None:
        for reaction in self.reactions:
            while await self._dispatcher.note_next(reaction):
                continue

    async def react(self) -> int:
        await self.note()
        return await run_due(self._dispatcher)

    async def due(self) -> Sequence[tuple[object, ...]]:
        query = "SELECT error, extract(epoch FROM due_at - now())::int FROM due_reactions ORDER BY position"
        async with self.parts.pool.connection() as connection:
            return await (await connection.execute(query)).fetchall()

    @property
    def states(self) -> list[str]:
        return [body["state"] for _, body in self.host.statuses]


@pytest.fixture(name="repository", scope="module")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> GitRepository:
    return GitRepository(tmp_path_factory.mktemp("git") / "shop.git")


@pytest.fixture
async def workshop(parts: Core, tmp_path: Path, repository: GitRepository) -> AsyncIterator[Workshop]:
    async with (
        fake_source_host(repository) as host,
        HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing,
    ):
        workshop = Workshop(parts, tmp_path, host, outgoing)
        await workshop.begin()
        yield workshop


async def test_a_status_follows_its_build(workshop: Workshop) -> None:
    await workshop.build()
    await workshop.react()
    commit, body = workshop.host.statuses[-1]
    assert commit == workshop.commit
    assert body == {
        "state": "running",
        "name": SMOKE,
        "description": "Running (build 7)",
        "target_url": f"{BASE_URL}/api/v3/builds/7",
    }
    await workshop.does(FinishExternalBuild(BUILD, "failed"))
    await workshop.react()
    assert workshop.states[-1] == "failed"
    assert await workshop.due() == []


async def test_events_that_come_late_set_the_last_state(workshop: Workshop) -> None:
    await workshop.build()
    await workshop.does(FinishExternalBuild(BUILD, "passed"))
    assert await workshop.react() == 3
    assert set(workshop.states) == {"success"}


async def test_jobs_of_one_name_have_a_status_each(workshop: Workshop) -> None:
    await workshop.does(CreateJob(8, 1, "Smoke"))
    await workshop.build()
    await workshop.build(9, job=8)
    await workshop.does(FinishExternalBuild(BUILD, "failed"), FinishExternalBuild(9, "passed"))
    await workshop.react()
    last = {body["name"]: body["state"] for _, body in workshop.host.statuses}
    assert last == {SMOKE: "failed", "testhide/Smoke #8": "success"}


async def test_a_build_of_some_tests_leaves_the_status_of_all_tests(workshop: Workshop) -> None:
    await workshop.does(ConfigureJob(JOB, "pytest"))
    await workshop.build()
    await workshop.does(FinishExternalBuild(BUILD, "failed"))
    await workshop.does(RestartBuild(8, BUILD, JOB, ("test_a.py::test",), "flaky"))
    await workshop.react()
    last = {body["name"]: body["description"] for _, body in workshop.host.statuses}
    assert last == {
        SMOKE: "Failed (build 7)",
        f"{SMOKE} (some tests)": "Waiting for a node (build 8)",
    }


async def test_the_builds_of_a_matrix_have_one_status(workshop: Workshop) -> None:
    """A combination that passes last leaves the failure of another; the restart of that one takes its place."""
    await workshop.start_matrix()
    await workshop.react()
    group = {"name": SMOKE, "target_url": f"{BASE_URL}/api/v3/build-groups/7"}
    waiting = {"state": "pending", "description": "2 of 2 builds queued (group 7)"}
    assert [body for _, body in workshop.host.statuses] == [group | waiting]
    for build, exit_code in ((7, 1), (8, 0)):
        await workshop.run(build, exit_code)
        await workshop.react()
    assert workshop.host.statuses[-1][1] == group | {
        "state": "failed",
        "description": "1 of 2 builds failed (group 7)",
    }
    await workshop.does(RestartBuild(9, 7, JOB))
    await workshop.run(9, 0)
    await workshop.react()
    assert workshop.host.statuses[-1][1] == group | {
        "state": "success",
        "description": "2 of 2 builds passed (group 7)",
    }


async def test_a_build_of_a_fork_says_that_it_waits_for_approval(workshop: Workshop) -> None:
    fork = BuildTrigger("pull_request", 3, 7, fork=True)
    await workshop.does(ConfigureJob(JOB, "pytest"))
    await workshop.does(StartBuild(BUILD, JOB, commit_sha=workshop.commit, trigger=fork, project_repository=ADDRESS))
    await workshop.react()
    body = workshop.host.statuses[-1][1]
    assert body["state"] == "pending"
    assert body["description"] == "Waiting for approval: the pull request is from a fork (build 7)"
    await workshop.does(ApproveBuild(BUILD))
    await workshop.react()
    assert workshop.host.statuses[-1][1]["description"] == "Waiting for a node (build 7)"


async def test_a_build_of_a_fork_leaves_the_status_of_trusted_builds(workshop: Workshop) -> None:
    """Anybody can open a pull request whose newest commit is one of the repository's own."""
    fork = BuildTrigger("pull_request", 3, 7, fork=True)
    await workshop.start_matrix()
    await workshop.run(7, 1)
    await workshop.does(
        StartBuild(10, JOB, commit_sha=workshop.commit, trigger=fork, project_repository=ADDRESS, more_ids=(11,))
    )
    await workshop.react()
    last = {body["name"]: body["description"] for _, body in workshop.host.statuses}
    assert last == {
        SMOKE: "1 of 2 builds failed (group 7)",
        f"{SMOKE} (fork)": "Waiting for approval: the pull request is from a fork (group 10)",
    }


async def test_a_build_that_changes_meanwhile_is_looked_at_again(workshop: Workshop) -> None:
    """The host takes its time for `running`, and nobody else sets a status when the build ends."""

    async def end_the_build() -> None:
        workshop.host.meanwhile = None
        await workshop.does(FinishExternalBuild(BUILD, "passed"))

    await workshop.build()
    workshop.host.meanwhile = end_the_build
    await workshop.react()
    assert workshop.states[0] == "running"
    assert workshop.states[-1] == "success"


@pytest.mark.parametrize("commit", [None, "a1b2c3d4"])
async def test_a_commit_that_is_not_known_in_full_has_no_status(workshop: Workshop, commit: str | None) -> None:
    await workshop.build(commit=commit)
    await workshop.react()
    assert workshop.states == []


async def test_builds_of_another_repository_set_none(workshop: Workshop) -> None:
    await workshop.build(job=OTHER_JOB)
    await workshop.react()
    assert workshop.states == []
    assert await workshop.due() == []


async def test_builds_that_name_the_same_repository_set_theirs(workshop: Workshop) -> None:
    url = f"{workshop.host.url}/gitlab/acme/shop"
    await workshop.does(CreateJob(8, 1, "Same", repository=url))
    await workshop.build(job=8)
    await workshop.react()
    assert set(workshop.states) == {"running"}


async def test_what_is_deleted_sets_none(workshop: Workshop) -> None:
    await workshop.build()
    await workshop.does(FinishExternalBuild(BUILD, "passed"), DeleteBuild(BUILD))
    assert await workshop.react() == 3
    await workshop.build(70)
    await workshop.note()
    await workshop.does(DeleteScmEndpoint(2))
    assert await workshop.react() == 2
    assert workshop.states == []
    assert await workshop.due() == []


@pytest.mark.parametrize("cut", [UpdateProject(1, cleared=("scm_endpoint_id",)), DeleteScmEndpoint(2)])
async def test_a_project_without_an_endpoint_costs_no_try(workshop: Workshop, cut: Command) -> None:
    await workshop.does(cut)
    await workshop.build()
    assert await workshop.react() == 0
    assert workshop.states == []


async def test_a_host_that_takes_no_more_is_asked_when_it_says(workshop: Workshop) -> None:
    workshop.host.refusal = (429, {"Retry-After": "600"}, b"")
    await workshop.build()
    await workshop.react()
    for error, wait_s in await workshop.due():
        assert "takes no more requests" in str(error)
        assert 590 <= int(str(wait_s)) <= 600
    assert len(await workshop.due()) == 2
    workshop.host.refusal = None
    async with workshop.parts.pool.connection() as connection:
        await connection.execute("UPDATE due_reactions SET due_at = now()")
    await workshop.react()
    assert set(workshop.states) == {"running"}
    assert await workshop.due() == []


async def test_a_host_that_has_its_calls_under_way_is_asked_later(workshop: Workshop) -> None:
    endpoint = await workshop.parts.log.load_state(SCM_ENDPOINT.at(2))
    assert endpoint is not None
    await workshop.build()
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CALLS):
            stack.enter_context(workshop.calls.call(endpoint.shown_host))
        await workshop.react()
        assert workshop.states == []
        assert {"requests under way" in str(error) for error, _ in await workshop.due()} == {True}
    async with workshop.parts.pool.connection() as connection:
        await connection.execute("UPDATE due_reactions SET due_at = now()")
    await workshop.react()
    assert set(workshop.states) == {"running"}
    assert await workshop.due() == []


async def test_a_host_that_stays_away_is_given_up(workshop: Workshop) -> None:
    workshop.host.refusal = (500, {}, b"")
    start = StartBuild(BUILD, JOB, commit_sha=workshop.commit, external=True)
    await workshop.does(start, ago=MAX_AGE + timedelta(minutes=1))
    assert await workshop.react() == 2
    assert await workshop.due() == []


async def test_a_commit_or_a_token_that_the_host_does_not_know_is_given_up(workshop: Workshop) -> None:
    await workshop.build(commit="1" * 40)
    workshop.host.tokens.clear()
    await workshop.build(70)
    assert await workshop.react() == 4
    assert await workshop.due() == []
    assert workshop.states == []
