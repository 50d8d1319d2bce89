"""The property that everything rests on: read tables made again from the log are the ones that were kept up live."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from commands.artifacts import DeleteArtifact
from commands.auth import CreateApiToken, OpenSession, RevokeApiToken, RevokeSession
from commands.build_actions import CommentOnBuild, DeleteBuild, MoveBuildToTop, PinBuild, RestartBuild
from commands.build_assignment import AcknowledgeBuild, AssignBuild, LoseBuild, TakeLeadership
from commands.builds import AbortBuild, FinishBuild, FinishExternalBuild, StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob, DeleteJob, UpdateJob
from commands.known_issues import CreateKnownIssue, DeleteKnownIssue, NoteSearch, UpdateKnownIssue
from commands.nodes import ConnectNode, DeleteNode, MarkNodeOffline, RegisterNode
from commands.pools import CreatePool, DeletePool
from commands.projects import AdmitMember, CloseProject, CreateProject, DeleteProject, UpdateProject
from commands.quarantine import AddToQuarantine, RecordExpiry, RecordRecovery, RemoveFromQuarantine
from commands.triage import ClassifyResult, LinkDefect, LinkKnownIssue, SetResolution
from commands.triage import TriagedResult as Result
from commands.users import DeleteUser, RegisterUser
from domain.artifacts import ArtifactStored
from domain.builds import BUILD, BuildQueued, DeletedBuild, ReportRecorded, status_of
from domain.core.columns import Int16s, Int32s
from domain.core.errors import Rejection
from domain.core.events import UNSTAMPED, AnyStream, Category, Event, Recorded, Stream
from domain.jobs import JOB
from domain.quarantine import QuarantinedTestsRan
from domain.registry import EVENTS, UPCASTERS
from domain.results import CasesSeen, Replaced, ResultsRecorded, ResultText, commit_number
from domain.triage import ResultsClassifiedByRules
from projections.builds import BuildRow
from projections.engine import bulk_catch_up
from projections.engine.engine import Engine
from projections.engine.schemas import Schema
from projections.rebuild.rebuild import build_staging
from projections.registry import PROJECTIONS
from store.log.append import GroupCommit
from store.log.codec import EventMapper
from store.log.event_log import EventLog
from testhide.processes import Core
from tests.projections.toys import query
from tests.support.read_models import begin_read_models
from tests.support.strategies import commands

RECORDINGS = 1_000
"""Numbers of recordings for each build, so that an id of a result or an artifact belongs to one build alone."""
SMALL = st.integers(1, 3)
LEADER = st.just("a")
CALLER = CommandContext("user:1")


@dataclass(frozen=True)
class Recording(Command):
    """Results and artifacts of a build, as recording a report stores them."""

    build_id: int
    number: int
    statuses: bytes
    texts: bool
    replaces: bool
    commit_sha: str

    def reads(self) -> Sequence[AnyStream]:
        no_state = Category[None]("", None, lambda state, event: None)
        streams = (f"results-{self.build_id}", "project-1-cases", f"artifact-{self.number}")
        return (BUILD.at(self.build_id), *(Stream(name, no_state) for name in streams))

    def decide(self, build_staging: Any, *states: None) -> Iterable[Event]:
        if build_staging is None:
            return
        ids: dict[str, Any] = {"build_id": self.build_id, "job_id": build_staging.queued.job_id, "project_id": 1}
        rows = len(self.statuses)
        first = self.number * 10
        yield CasesSeen(project_id=1, first_case_id=first, node_ids=[f"test_{self.number}"], suites=["s"])
        yield ResultsRecorded(
            **ids,
            first_result_id=first,
            # Few cases of all builds, so that each has a history.
            case_ids=Int32s(range(1, rows + 1)),
            suites=Int16s([0] * rows),
            durations_ms=Int32s([5] * rows),
            statuses=self.statuses,
            attempts=b"\1" * rows,
            finals=b"\1" * rows,
            known_issues=b"\0" * rows,
            flaky=b"\0" * rows,
            texts=[ResultText(0, "said")] if self.texts else [],
            replaced=[Replaced(0, first - 10, 1)] if self.replaces else [],
            commit=commit_number(self.commit_sha),
        )
        yield ResultsClassifiedByRules(**ids, result_ids=[first], known_issue_ids=[1], classifications=b"\2")
        yield QuarantinedTestsRan(**ids, passed=[1], failed=[2, 3][: self.statuses.count(1)])
        failed = self.statuses.count(1)
        counts: dict[str, Any] = {"cases": rows, "passed": rows - failed, "failed": failed}
        counts |= {"skipped": 0, "known_issues": 0}
        yield ReportRecorded(
            **ids, **counts, attempt=1, path="r.xml", first_result_id=first, duration_ms=5, blocks=3, suites=["s"]
        )
        yield ArtifactStored(
            **ids,
            artifact_id=self.number,
            path="r.xml",
            type="report",
            content_type="",
            size_bytes=1,
            sha256="",
            blob="b",
        )


START: Sequence[Command] = (
    TakeLeadership("a"),
    RegisterUser(1, "ann@example.com", "admin", "hash", "email-1"),
    *(CreateProject(n, f"Project {n}", 1, ((f"p{n}", f"slug-{n}"),), b"sealed") for n in (1, 2)),
    CreatePool(1, 1, "linux", "pool-1"),
    *(RegisterNode(n, f"node {n}", f"node-{n}", bytes([n]), None, max_parallel=2) for n in (1, 2)),
    *(ConnectNode(n, "a", "1", "linux", "h", 8, 16.0) for n in (1, 2)),
    *(CreateJob(n, 1, f"Job {n}") for n in (1, 2)),
    *(ConfigureJob(n, "pytest") for n in (1, 2)),
    *(StartBuild(n, 1 + n % 2) for n in (1, 2)),
    *(Recording(n, 0, b"\1\1\1", True, False, "c0ffee") for n in (1, 2)),
)
"""So that what follows meets something."""


anything = st.one_of(
    commands(RegisterUser),
    commands(DeleteUser, admin_id=st.just(1)),
    commands(OpenSession),
    commands(RevokeSession),
    commands(CreateApiToken),
    commands(RevokeApiToken),
    commands(UpdateProject),
    commands(DeleteProject, job_ids=st.just((1, 2, 3))),
    commands(AdmitMember),
    commands(CreatePool),
    commands(RegisterNode),
    commands(ConnectNode),
    commands(MarkNodeOffline),
    commands(DeleteNode),
    commands(CreateJob, project_id=st.just(1)),
    commands(UpdateJob),
    commands(ConfigureJob, kept_secrets=st.just(()), matrix=st.none()),
    commands(DeleteJob, job_id=SMALL),
    commands(CreateKnownIssue, kind=st.just("signature")),
    commands(UpdateKnownIssue, match=st.none()),
    commands(DeleteKnownIssue),
    commands(NoteSearch, found=st.just([(10_000, 2), (20_010, 1)])),
    # Each id is drawn once: an entry of one job never takes the id of another job's.
    commands(AddToQuarantine, job_id=st.just(1), now=st.just(UNSTAMPED)),
    commands(AddToQuarantine, job_id=st.just(2), first_id=st.integers(11, 13), now=st.just(UNSTAMPED)),
    commands(RemoveFromQuarantine, job_id=st.integers(1, 2)),
    commands(RecordExpiry, job_id=st.integers(1, 2)),
    commands(RecordRecovery, job_id=st.integers(1, 2), now=st.just(UNSTAMPED)),
)
# Those that START records. Triage of others is impossible: their events would be unreadable once their build is
# deleted, but nothing would delete their rows.
results = st.builds(
    lambda build_id, row: Result(
        (RECORDINGS * build_id + build_id - 1) * 10 + row, build_id, 1 + build_id % 2, 1, "failed", "f", "s"
    ),
    st.integers(1, 2),
    st.integers(0, 2),
)
triage_commands = st.one_of(
    *(commands(kind, result=results) for kind in (ClassifyResult, LinkDefect, SetResolution, LinkKnownIssue))
)
# What happens to builds, more often than all the rest.
happening = st.one_of(
    commands(StartBuild, build_id=st.integers(3, 8), job_id=st.integers(1, 2)),
    commands(AssignBuild, leader=LEADER, node_id=st.integers(1, 2)),
    commands(AcknowledgeBuild, attempt=st.integers(1, 2)),
    commands(FinishBuild, attempt=st.integers(1, 2)),
    commands(FinishExternalBuild, build_id=st.integers(3, 8)),
    commands(AbortBuild),
    commands(LoseBuild, attempt=st.integers(1, 2)),
    commands(RestartBuild, build_id=st.integers(3, 8)),
    commands(MoveBuildToTop),
    commands(CommentOnBuild),
    commands(PinBuild),
    commands(DeleteBuild),
    st.integers(1, 2).flatmap(
        lambda build_id: commands(
            DeleteArtifact,
            build_id=st.just(build_id),
            artifact_id=st.integers(0, 2).map(lambda number: RECORDINGS * build_id + number),
        )
    ),
    st.builds(
        Recording,
        st.integers(1, 4),
        st.just(0),
        st.binary(min_size=1, max_size=3).map(lambda data: bytes(byte % 3 for byte in data)),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["", "c0ffee", "decade"]),
    ),
)
histories = st.lists(st.one_of(happening, happening, anything, triage_commands), min_size=25, max_size=40)
"""Long ones: making all tables costs more than what is written into them, and without a least size five commands are
usual.
"""


async def dump(connection: AsyncConnection, schema: Schema = "public") -> dict[str, list[Any]]:
    """All read tables that stand there, ordered, and how far they are."""
    tables = [str(row.table) for projection in PROJECTIONS for row in projection.rows]
    content = {name: await query(connection, f"SELECT t FROM {schema}.{name} t ORDER BY t::text") for name in tables}
    for name in ("projection_positions", "parked_events"):
        content[name] = await query(connection, f"SELECT * FROM {schema}.{name} ORDER BY 1, 2, 3")
        content[name] = [row[:3] for row in content[name]]
    return content


class Story:
    """Executes commands, and moves the projections along now and then, as a projector does."""

    def __init__(self, event_log: EventLog, connection: AsyncConnection) -> None:
        self._log = event_log
        seconds = count()
        begin = datetime(2026, 5, 20, tzinfo=UTC)
        self._handler = Handler(event_log, lambda: begin + timedelta(seconds=next(seconds)))
        self._engine = Engine(connection, PROJECTIONS, announce=True)
        self._position = 0
        self._recordings = count()

    async def execute(self, command: Command) -> None:
        if isinstance(command, Recording):
            command = dataclasses.replace(command, number=RECORDINGS * command.build_id + next(self._recordings))
        steps: list[Command] = [command]
        if isinstance(command, DeleteProject):  # as the API does it
            steps = [CloseProject(command.project_id), *(DeletePool(number, (1, 2)) for number in (1, 2, 3)), command]
        for step in steps:
            with contextlib.suppress(Rejection):
                await self._handler.execute(step, CALLER)

    async def project(self, at_most: int) -> None:
        events = await self._log.read(self._position, at_most)
        self._position = await self._engine.apply(events, self._position)


@pytest.fixture
async def commit(parts: Core) -> Any:
    commit = GroupCommit(parts.conninfo)
    yield commit
    await commit.close()


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(history=histories, batches=st.lists(st.integers(0, 9), min_size=1, max_size=8))
async def test_rebuilt_tables_are_those_that_were_kept_up_live(
    parts: Core, commit: GroupCommit, history: list[Command], batches: list[int]
) -> None:
    async with parts.pool.connection() as connection:
        await connection.execute("DELETE FROM stored_events")
        await connection.execute("DELETE FROM stored_events_keys")
        await connection.execute("SELECT setval('stored_events_notification_id_seq', 1, false)")
        await begin_read_models(connection)
        event_log = EventLog(parts.pool, commit, EventMapper(EVENTS, UPCASTERS), parts.secrets)
        story = Story(event_log, connection)
        for number, command in enumerate((*START, *history)):
            await story.execute(command)
            await story.project(batches[number % len(batches)])
        await story.project(10_000)
        live = await dump(connection)
        for near in (bulk_catch_up.NEAR_HEAD, 0):  # by the engine alone, and by the loader
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(bulk_catch_up, "NEAR_HEAD", near)
                built = await build_staging(parts.conninfo, event_log, PROJECTIONS, from_scratch=True)
            assert built == await event_log.read_head()
            again = await dump(connection, "beside")
            for table, rows in live.items():
                assert again[table] == rows, table
        assert live["parked_events"] == []
        await states_are_folds(event_log, connection)


async def states_are_folds(event_log: EventLog, connection: AsyncConnection) -> None:
    """A stream's state is what all events, in the order of the log, fold to; and the read model says the same."""
    everything = await event_log.read(0, 10_000)
    shown = {build_id: (status, attempt) for build_id, status, attempt in await _builds(connection)}
    seen = 0
    for build_id in {event.event.build_id for event in everything if isinstance(event.event, BuildQueued)}:
        stream = BUILD.at(build_id)
        state = _folded(stream, everything)
        assert await event_log.load_state(stream) == state
        assert state is not None
        job = await event_log.load_state(JOB.at(state.queued.job_id))
        if isinstance(state, DeletedBuild) or (job is not None and job.deleted):
            assert build_id not in shown
        else:
            assert shown[build_id] == (status_of(state), state.attempt)
            seen += 1
    assert len(shown) == seen


def _folded(stream: Stream[Any], everything: Sequence[Recorded]) -> Any:
    return stream.fold(recorded.event for recorded in everything if recorded.stream == stream.name)


async def _builds(connection: AsyncConnection) -> list[tuple[Any, ...]]:
    return await query(connection, f"SELECT id, status, attempt FROM {BuildRow.table}")
