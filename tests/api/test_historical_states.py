"""The property of time travel: what `?as_of=` shows is what was shown then, or gone because it was erased since."""

import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from api.app import create_app
from api.http.authentication import session_token
from api.http.services import Services
from commands.auth import OpenSession
from commands.build_actions import CommentOnBuild, DeleteBuild, PinBuild
from commands.build_assignment import AcknowledgeBuild, AssignBuild, LoseBuild, TakeLeadership
from commands.builds import AbortBuild, FinishBuild, StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob, DeleteJob, UpdateJob
from commands.known_issues import CreateKnownIssue, DeleteKnownIssue, UpdateKnownIssue
from commands.nodes import (
    ConnectNode,
    DeleteNode,
    MarkNodeOffline,
    QuarantineNode,
    RegisterNode,
    ReleaseNode,
    UpdateNode,
)
from commands.projects import AdmitMember, CloseProject, CreateProject, DeleteProject
from commands.quarantine import AddToQuarantine, RecordExpiry, RecordRecovery, RemoveFromQuarantine
from commands.triage import ClassifyResult, LinkDefect, LinkKnownIssue, SetResolution
from commands.triage import TriagedResult as Result
from commands.users import DeleteUser, RegisterUser
from domain.builds import BUILD, ReportRecorded
from domain.core.columns import Int16s, Int32s
from domain.core.data_keys import build_key, job_key, lineage
from domain.core.errors import Rejection
from domain.core.events import UNSTAMPED, AnyStream, Category, Event, Stream
from domain.known_issues import KnownIssueSearched
from domain.quarantine import QuarantinedTestsRan
from domain.results import CasesSeen, ResultsRecorded, ResultText, results_stream
from domain.triage import ResultsClassifiedByRules
from projections.builds import BuildRow
from projections.engine.engine import Engine
from projections.registry import PROJECTIONS
from store.clock import utcnow
from testhide.processes import Core, api_services
from testhide.settings import Settings
from testhide.version import VERSION
from tests.projections.toys import query
from tests.support.read_models import begin_read_models
from tests.support.strategies import commands

EXAMPLES = int(os.environ.get("TESTHIDE_PAST_EXAMPLES", "2"))
STEPS = 25
ROOT = 99
"""The admin who looks back."""
CALLER = CommandContext("user:1")
PROJECT, CASES = 1, 6
RECORDINGS = 1_000
BUILDS, JOBS, NODES, USERS = range(1, 5), (1, 2), (1, 2), (1, 2)
JOB_OF = {build: 1 + build % 2 for build in BUILDS}
NO_STATE = Category[None]("", None, lambda state, event: None)


@dataclass(frozen=True)
class Happening(Command):
    """Events that other parts of the server bring about, on streams that are read for their versions only."""

    events: Sequence[Event]

    def reads(self) -> Sequence[AnyStream]:
        return [Stream(name, NO_STATE) for name in dict.fromkeys(event.stream for event in self.events)]

    def decide(self, *states: None) -> Iterable[Event]:
        return self.events


@dataclass(frozen=True)
class Recording(Command):
    """A report of a build, which begins with a failure."""

    build_id: int
    number: int
    statuses: bytes
    texts: bool

    def reads(self) -> Sequence[AnyStream]:
        return BUILD.at(self.build_id), Stream(results_stream(self.build_id), NO_STATE)

    def decide(self, build: Any, results: None) -> Iterable[Event]:
        if build is None:
            return
        ids: dict[str, Any] = {"build_id": self.build_id, "job_id": build.queued.job_id, "project_id": PROJECT}
        statuses, first = b"\1" + self.statuses, self.number * 10
        rows = len(statuses)
        yield ResultsRecorded(
            **ids,
            first_result_id=first,
            case_ids=Int32s(range(1, rows + 1)),
            suites=Int16s([0] * rows),
            durations_ms=Int32s([5] * rows),
            statuses=statuses,
            attempts=b"\1" * rows,
            finals=b"\1" * rows,
            known_issues=b"\0" * rows,
            flaky=b"\0" * rows,
            texts=[ResultText(0, "said", "trace", fail_id="f")] if self.texts else [],
        )
        yield ResultsClassifiedByRules(**ids, result_ids=[first], known_issue_ids=[1], classifications=b"\2")
        entry = _first_entry(build.queued.job_id)
        yield QuarantinedTestsRan(**ids, passed=[entry], failed=[entry + 1, entry + 2])
        failed = statuses.count(1)
        counts: dict[str, Any] = {"passed": rows - failed, "failed": failed, "skipped": 0, "known_issues": 0}
        yield ReportRecorded(
            **ids, **counts, cases=rows, attempt=1, path="r.xml", first_result_id=first, duration_ms=5, blocks=3,
            suites=["s"],
        )  # fmt: skip


START: Sequence[Command] = (
    TakeLeadership("a"),
    *(RegisterUser(n, f"user{n}@example.com", "developer", "hash", f"email-{n}") for n in USERS),
    *(CreateProject(n, f"Project {n}", 1, ((f"p{n}", f"slug-{n}"),), b"sealed") for n in (PROJECT, 2)),
    AdmitMember(PROJECT, 2, "write"),
    *(RegisterNode(n, f"node {n}", f"node-{n}", bytes([n]), None, max_parallel=2) for n in NODES),
    *(ConnectNode(n, "a", "1", "linux", "h", 8, 16.0) for n in NODES),
    *(CreateJob(n, PROJECT, f"Job {n}") for n in JOBS),
    *(ConfigureJob(n, "pytest") for n in JOBS),
    *(StartBuild(n, JOB_OF[n], external=True) for n in (1, 2)),
    Happening(
        [
            CasesSeen(
                project_id=PROJECT,
                first_case_id=1,
                node_ids=[f"t.py::test_{number}" for number in range(CASES)],
                suites=["s"] * CASES,
            )
        ]
    ),
    *(AddToQuarantine(n, 10 * n, ("t.py::test_0", "t.py::test_1"), UNSTAMPED) for n in JOBS),
    CreateKnownIssue(1, PROJECT, "Known", "infra", "signature", "s", defect_key="K-1"),
    *(Recording(n, 0, b"\0\1", texts=True) for n in (1, 2)),
    ClassifyResult(Result(10_000, 1, JOB_OF[1], PROJECT, "failed"), "infra", set_by=1),
    SetResolution(Result(20_010, 2, JOB_OF[2], PROJECT, "failed"), "Fixed", set_by=2),
    *(StartBuild(n, JOB_OF[n]) for n in (3, 4)),
    *(AssignBuild(n, n - 2, "a") for n in (3, 4)),
    AcknowledgeBuild(3, 1, 1, None),
)
"""So that what follows meets something."""


def _first_entry(job_id: int) -> int:
    """Of the job's quarantine."""
    return 10 * job_id


def _of(*kinds: type[Any], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*(commands(kind, **fixed) for kind in kinds))


BUILD_ID, JOB_ID, NODE_ID, USER_ID = (st.sampled_from(ids) for ids in (BUILDS, JOBS, NODES, USERS))
AT_START = st.just(UNSTAMPED)
# First results of recordings, which failed.
RESULTS = st.builds(
    lambda build_id, number: Result(
        (RECORDINGS * build_id + number) * 10, build_id, JOB_OF[build_id], PROJECT, "failed", "f", "s"
    ),
    st.integers(1, 2),
    st.integers(0, 2),
)
reports = st.builds(
    Recording, st.integers(1, 2), st.just(0), st.lists(st.integers(0, 2), max_size=3).map(bytes), st.booleans()
)
of_builds = st.one_of(
    BUILD_ID.flatmap(
        lambda build_id: commands(StartBuild, build_id=st.just(build_id), job_id=st.just(JOB_OF[build_id]))
    ),
    commands(AssignBuild, build_id=BUILD_ID, leader=st.just("a"), node_id=NODE_ID),
    _of(AcknowledgeBuild, FinishBuild, LoseBuild, build_id=BUILD_ID, attempt=st.integers(1, 2)),
    _of(AbortBuild, PinBuild, build_id=BUILD_ID),
    BUILD_ID.flatmap(
        lambda build_id: commands(
            CommentOnBuild,
            build_id=st.just(build_id),
            comment_id=st.integers(0, 2).map(lambda number: 10 * build_id + number),
            author=USER_ID,
        )
    ),
)
of_triage = st.one_of(
    commands(ClassifyResult, result=RESULTS, set_by=USER_ID),
    commands(SetResolution, result=RESULTS, set_by=USER_ID),
    commands(LinkDefect, result=RESULTS, set_by=USER_ID),
    commands(LinkKnownIssue, result=RESULTS, set_by=USER_ID),
    commands(CreateKnownIssue, project_id=st.just(PROJECT), kind=st.just("signature")),
    commands(UpdateKnownIssue, match=st.none()),
    commands(DeleteKnownIssue),
    st.builds(
        lambda issue, result: Happening(
            [
                KnownIssueSearched(
                    known_issue_id=issue,
                    project_id=PROJECT,
                    edition=1,
                    down_to=0,
                    classification="test_bug",
                    result_ids=[result.result_id],
                    job_ids=[result.job_id],
                )
            ]
        ),
        st.integers(1, 3),
        RESULTS,
    ),
)
of_jobs = st.one_of(
    commands(UpdateJob, job_id=JOB_ID, node_pool_id=st.none(), pipeline_template_id=st.none()),
    commands(ConfigureJob, job_id=JOB_ID, kept_secrets=st.just(())),
    JOB_ID.flatmap(
        lambda job_id: commands(
            AddToQuarantine,
            job_id=st.just(job_id),
            first_id=st.integers(0, 2).map(lambda number: _first_entry(job_id) + number),
            now=AT_START,
        )
    ),
    commands(RemoveFromQuarantine, job_id=JOB_ID),
    commands(RecordExpiry, job_id=JOB_ID),
    commands(RecordRecovery, job_id=JOB_ID, now=AT_START),
)
of_nodes = st.one_of(
    commands(ConnectNode, node_id=NODE_ID),
    commands(MarkNodeOffline, node_id=NODE_ID),
    commands(UpdateNode, node_id=NODE_ID, pool_id=st.none()),
    _of(QuarantineNode, ReleaseNode, node_id=NODE_ID),
)
of_users = st.one_of(
    commands(AdmitMember, project_id=st.integers(1, 3), user_id=USER_ID),
    st.just(CreateProject(3, "Project 3", 1, (("p3", "slug-3"),), b"sealed")),
)
ends = st.one_of(
    commands(DeleteBuild, build_id=BUILD_ID),
    commands(DeleteBuild, build_id=BUILD_ID, reason=st.just("retention")),
    commands(DeleteJob, job_id=JOB_ID),
    commands(DeleteNode, node_id=NODE_ID),
    commands(DeleteUser, user_id=USER_ID, admin_id=st.just(ROOT)),
    st.sampled_from([CloseProject(PROJECT), DeleteProject(PROJECT, JOBS)]),
)
kinds = [of_builds] * 5 + [reports] * 2 + [of_triage] * 3 + [of_jobs] * 3 + [of_nodes, of_users, ends]
histories = st.lists(st.integers(0, len(kinds) - 1).flatmap(kinds.__getitem__), min_size=STEPS, max_size=STEPS)


class Subject(NamedTuple):
    path: str
    key: str = ""
    """The data key of what it shows; empty for what no erasure reaches."""


BUILD_KEYS = {build: build_key(PROJECT, JOB_OF[build], build) for build in BUILDS}
SUBJECTS = (
    *(Subject(f"/builds/{build}", key) for build, key in BUILD_KEYS.items()),
    *(Subject(f"/report/{build}", key) for build, key in BUILD_KEYS.items()),
    *(Subject(f"/tests?build_id={build}&all_attempts=true", key) for build, key in BUILD_KEYS.items()),
    *(
        Subject(path, job_key(PROJECT, job))
        for job in JOBS
        for path in (f"/jobs/{job}", f"/jobs/{job}/configuration", f"/quarantine?job_id={job}")
    ),
    *(Subject(f"/builds?limit=3&{more}") for more in ("page=1", "page=2", "before=4", f"job_id={JOBS[0]}")),
    *(Subject(f"/builds?status={status}") for status in ("queued", "running", "passed", "failed", "aborted")),
    *(Subject(f"/nodes/{node}", f"node-{node}") for node in NODES),
    *(Subject(f"/users/{user}/permissions") for user in (*USERS, ROOT)),
)
GAUGES, BLANK = {"cpu_pct": None, "uptime_s": None}, {"branch": "", "commit_sha": None, "detail": None}


@dataclass
class History:
    """A server in this process whose read models are moved by one event at a time, and what it showed at each."""

    services: Services
    client: httpx.AsyncClient
    engine: Engine
    handler: Handler
    position: int = 0
    recordings: Iterator[int] = field(default_factory=count)
    shown: dict[int, dict[Subject, Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    async def execute(self, command: Command) -> None:
        if isinstance(command, Recording):
            number = RECORDINGS * command.build_id + next(self.recordings)
            command = replace(command, number=number)
        try:
            await self.handler.execute(command, CALLER)
        except Rejection:
            return

    async def watch(self) -> None:
        """Moves on, one event at a time, and notes what is shown."""
        while events := await self.services.log.read(self.position, 1):
            self.position = await self.engine.apply(events, self.position)
            self.gone |= {name for recorded in events if (name := recorded.event.erases) is not None}
            async with self.services.pool.connection() as connection:
                builds = {number for (number,) in await query(connection, f"SELECT id FROM {BuildRow.table}")}
            hidden = {key for build, key in BUILD_KEYS.items() if build not in builds}
            self.shown[self.position] = {
                subject: None if subject.key in hidden else await self.ask(subject) for subject in SUBJECTS
            }

    async def ask(self, subject: Subject, **more: Any) -> Any:
        """The body; None where there is nothing, and "gone"."""
        answer = await self.client.get(f"/api/v3{subject.path}", params=httpx.URL(subject.path).params.merge(more))
        assert answer.status_code in (200, 404, 410) or (not more and "Not shown yet" in answer.text), answer.text
        if answer.status_code != 200:
            return "gone" if answer.status_code == 410 else None
        for name in ("Testhide-As-Of", "Testhide-Position") if more else ():
            assert answer.headers[name] == str(more["as_of"])
        return answer.json()

    def is_gone(self, key: str) -> bool:
        return not self.gone.isdisjoint(lineage(key))

    def was(self, subject: Subject, position: int) -> Any:
        shown = self.shown[position][subject]
        if shown is None:
            return None
        if subject.path.startswith("/builds?"):
            erased = [item["id"] for item in shown["results"] if self.is_gone(BUILD_KEYS[item["id"]])]
            results = [item | BLANK if item["id"] in erased else item for item in shown["results"]]
            return shown | {"results": results, "erased": erased}
        people = [user for user in USERS if self.is_gone(f"user-{user}") and f"user{user}@example.com" in str(shown)]
        if self.is_gone(subject.key) or (people and not subject.path.startswith(("/builds", "/tests"))):
            return "gone"
        for user in people:
            shown = json.loads(json.dumps(shown).replace(f"user{user}@example.com", "deleted user"))
        return shown | GAUGES if subject.path.startswith("/nodes") else shown

    def turns(self, subject: Subject) -> list[int]:
        """The first and the last position of everything that the resource ever was."""
        positions = sorted(self.shown)
        same = [self.shown[a][subject] == self.shown[b][subject] for a, b in pairwise(positions)]
        return [p for n, p in enumerate(positions) if n in (0, len(positions) - 1) or not (same[n - 1] and same[n])]


@asynccontextmanager
async def history_of(parts: Core, folder: Path) -> AsyncIterator[History]:
    async with parts.pool.connection() as connection:
        for table in ("stored_events", "stored_events_keys"):
            await connection.execute(f"DELETE FROM {table}".encode())
        await connection.execute("SELECT setval('stored_events_notification_id_seq', 1, false)")
        await begin_read_models(connection)
    options = Settings(database_url=parts.conninfo, redis_url="unix:/no", secret_key=b"s" * 32, data_dir=str(folder))
    app = create_app(api_services(options), VERSION)
    async with app.lifespan(), await AsyncConnection.connect(parts.conninfo, autocommit=True) as connection:
        services: Services = app.state.services
        transport = httpx.ASGITransport(app=cast(Any, app))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            client.headers["Authorization"] = f"Bearer {session_token(services.secrets, ROOT, 'root', utcnow())}"
            seconds = count()
            begin = datetime(2026, 5, 20, tzinfo=UTC)
            handler = Handler(services.log, lambda: begin + timedelta(seconds=next(seconds)))
            history = History(services, client, Engine(connection, PROJECTIONS, announce=True), handler)
            await history.execute(RegisterUser(ROOT, "root@example.com", "admin", "hash", "email-root"))
            await history.execute(OpenSession("root", ROOT, utcnow() + timedelta(days=1)))
            for command in START:
                await history.execute(command)
            history.position = await history.engine.apply(await services.log.read(0, 1_000), 0)
            yield history


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(commands=histories)
async def test_as_of_is_what_was_shown_then_or_gone_since(parts: Core, tmp_path: Path, commands: list[Command]) -> None:
    async with history_of(parts, tmp_path) as history:
        for command in commands:
            await history.execute(command)
            await history.watch()
        for subject in SUBJECTS:
            for position in history.turns(subject):
                assert await history.ask(subject, as_of=position) == history.was(subject, position), (
                    subject.path,
                    position,
                )
