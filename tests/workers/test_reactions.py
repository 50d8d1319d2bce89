"""What follows from deletions outside the log: logs and contents go, those of others stay."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from commands.artifacts import DeleteArtifact, StoreArtifact
from commands.build_actions import DeleteBuild
from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import CreateJob, DeleteJob
from commands.projects import CreateProject
from domain.artifacts import blob_key
from integrations.blobs import open_blobs
from store.clock import utcnow
from store.postgres.notifications import EVENTS, Listener
from store.tables.build_logs import BuildLogs, Line
from store.tables.shared_caches import SharedCaches
from testhide.processes import Core
from tests.workers.yard import run_due
from workers.reactions.reaction import Tools
from workers.reactions.reaction_dispatcher import ReactionDispatcher
from workers.reactions.registry import REACTIONS

JOB, OTHER_JOB = 5, 55
BUILD, OTHER_BUILD, THIRD_BUILD = 7, 70, 71
"""Numbers that begin alike: nothing goes by half a name."""


class Yard:
    """Two jobs; builds with a log and two artifacts each."""

    def __init__(self, parts: Core, folder: Path) -> None:
        self._parts, self._folder = parts, folder
        self._handler = Handler(parts.log, utcnow)
        self._tools = Tools(
            BuildLogs(parts.pool), SharedCaches(parts.pool), open_blobs(folder.as_uri()), parts.log, parts.secrets
        )
        listener = Listener(parts.conninfo, EVENTS)
        self._relay = ReactionDispatcher(parts.pool, parts.log, listener, "redis://127.0.0.1:1", REACTIONS, self._tools)

    async def does(self, *commands: Command) -> None:
        for command in commands:
            await self._handler.execute(command, CommandContext("user:1"))

    async def begin(self) -> None:
        await self.does(CreateProject(1, "Web", 1, (("web", "slug-1"),), b""))
        for job_id in (JOB, OTHER_JOB):
            await self.does(CreateJob(job_id, 1, "Smoke"))
        for build_id, job_id in ((BUILD, JOB), (OTHER_BUILD, JOB), (THIRD_BUILD, OTHER_JOB)):
            await self.does(StartBuild(build_id, job_id, external=True), FinishExternalBuild(build_id, "passed"))
            await self._tools.build_logs.append(job_id, build_id, 1, 0, [Line(0, "said")])
            for artifact_id in (build_id * 10, build_id * 10 + 1):
                await self._tools.blobs.put(blob_key(job_id, build_id, artifact_id), _content())
                await self.does(StoreArtifact(artifact_id, build_id, "a.log", "text/plain", 4, "00"))
        async with self._parts.pool.connection() as connection:
            for reaction in REACTIONS:
                await connection.execute(
                    "INSERT INTO reaction_positions VALUES (%s, %s)", (reaction.name, await self._parts.log.read_head())
                )

    async def react(self) -> int:
        """How many reactions were run to what happened since the last time."""
        for reaction in REACTIONS:
            while await self._relay.note_next(reaction):
                continue
        ran = await run_due(self._relay)
        assert await self._query("SELECT reaction, error FROM due_reactions") == []
        return ran

    async def logs(self) -> set[int]:
        """Builds that have one."""
        return {int(str(build)) for (build,) in await self._query("SELECT build_id FROM build_log_chunks")}

    def contents(self) -> set[int]:
        """Artifacts whose content is there."""
        return {int(path.name) for path in self._folder.rglob("*") if path.is_file()}

    async def _query(self, text: str) -> Sequence[tuple[object, ...]]:
        async with self._parts.pool.connection() as connection:
            return await (await connection.execute(text.encode())).fetchall()


async def _content() -> AsyncIterator[bytes]:
    yield b"said"


@pytest.fixture
async def yard(parts: Core, tmp_path: Path) -> Yard:
    yard = Yard(parts, tmp_path)
    await yard.begin()
    assert await yard.logs() == {BUILD, OTHER_BUILD, THIRD_BUILD}
    assert yard.contents() == {70, 71, 700, 701, 710, 711}
    return yard


async def test_a_deleted_builds_log_and_artifacts_go(yard: Yard) -> None:
    await yard.does(DeleteBuild(BUILD))
    assert await yard.react() == 1
    assert await yard.logs() == {OTHER_BUILD, THIRD_BUILD}
    assert yard.contents() == {700, 701, 710, 711}
    assert await yard.react() == 0


async def test_a_deleted_artifacts_content_goes(yard: Yard) -> None:
    await yard.does(DeleteArtifact(71, BUILD))
    assert await yard.react() == 1
    assert yard.contents() == {70, 700, 701, 710, 711}
    assert await yard.logs() == {BUILD, OTHER_BUILD, THIRD_BUILD}


async def test_a_deleted_jobs_logs_and_artifacts_go(yard: Yard) -> None:
    await yard.does(DeleteJob(JOB))
    assert await yard.react() == 1
    assert await yard.logs() == {THIRD_BUILD}
    assert yard.contents() == {710, 711}


async def test_what_is_gone_already_is_no_fault(yard: Yard) -> None:
    """Reactions run at least once, and in any order."""
    await yard.does(DeleteArtifact(70, BUILD), DeleteBuild(BUILD), DeleteJob(JOB))
    assert await yard.react() == 3
    assert yard.contents() == {710, 711}
    assert await yard.logs() == {THIRD_BUILD}
