"""Tickets of the failures of finished builds, at a tracker in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import Command
from commands.jira import CreateJiraIntegration, UpdateJiraIntegration
from commands.jobs import ConfigureJob
from domain.builds import BUILD, AnyBuild, BuildAssigned, BuildFinished, BuildStarted, Queued, Running, Verdict
from domain.core.events import Damaged, Event
from domain.jira import JIRA, JiraIntegration
from domain.matrix import Matrix
from domain.tickets import COMMENT_INTERVAL, TICKET_CLAIM_LIFETIME, TicketCreated
from domain.triggers import BuildTrigger
from integrations.blobs import open_blobs
from integrations.ticket_ports import NewIntegration, NewTicket, Ticket, TicketFailure, TicketsUnavailable, TicketText
from projections import results_queries
from store.clock import utcnow
from store.tables.build_logs import BuildLogs
from store.tables.shared_caches import SharedCaches
from tests.workers.test_known_issues import ANN, House, house  # noqa: F401
from workers.reactions.reaction import Tools
from workers.reactions.registry import TICKET_MAX_AGE, select_builds_with_tickets
from workers.tickets import CLAIM_POLL_S, MAX_TICKETS, TicketsDelayed, TicketWriter


@dataclass(frozen=True)
class RunBuild(Command, of=BUILD):
    """Lets a node start a build."""

    build_id: int

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        assert isinstance(build, Queued)
        yield BuildAssigned(**build.ids, node_id=1, attempt=1)
        yield BuildStarted(**build.ids, node_id=1, attempt=1)


@dataclass(frozen=True)
class EndBuild(Command, of=BUILD):
    build_id: int
    status: Verdict

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        assert isinstance(build, Running)
        yield BuildFinished(**build.ids, status=self.status, node_id=1)


PASSED = ""
RESET = '<failure message="ECONNRESET">at connect</failure>'


def failure(text: str) -> str:
    return f'<failure message="{text}">at {text}</failure>'


@dataclass
class Tracker:
    """Implements `TicketHosts` and `TicketHost` in memory."""

    tickets: dict[str, NewTicket] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    failure: TicketFailure | None = None
    """Failure of all calls."""
    loses_answers: bool = False
    """Whether new tickets are created without an answer."""

    async def check(self, integration: NewIntegration | None = None, *, is_admin: bool = False) -> None:
        raise NotImplementedError

    def open(self, integration: JiraIntegration) -> "Tracker":
        return self

    async def find(self, label: str) -> Ticket | None:
        if self.failure:
            raise self.failure
        keys = [key for key, ticket in self.tickets.items() if label in ticket.labels]
        return _ticket(keys[0]) if keys else None

    async def create(self, ticket: NewTicket) -> Ticket:
        key = f"BACK-{len(self.tickets) + 1}"
        self.tickets[key] = ticket
        if self.loses_answers:
            raise TicketsUnavailable("jira.acme.com gives no answer.")
        return _ticket(key)

    async def comment(self, key: str, text: TicketText) -> None:
        self.comments.append(f"{key}: {text[0].text}")  # type: ignore[union-attr]

    async def reopen(self, key: str) -> bool:
        self.done.discard(key)
        return True


def _ticket(key: str) -> Ticket:
    return Ticket(key, f"https://jira.acme.com/browse/{key}")


class Office:
    """A house with a Jira integration."""

    def __init__(self, house: House) -> None:  # noqa: F811
        self.house, self.tracker, self.late = house, Tracker(), timedelta()
        parts = house.parts
        self.writer = TicketWriter(
            parts.pool, parts.log, house.handler, self.tracker, self._show, "https://ci.acme.com", self.now
        )

    def now(self) -> datetime:
        return utcnow() + self.late

    async def _show(self, position: int) -> bool:
        await self.house.shown()
        return True

    async def connect(self) -> None:
        texts = ("ACME", "https://jira.acme.com", "u@acme.com")
        await self.house.does(CreateJiraIntegration(1, 1, "data_center", *texts, b"t", "BACK", "Bug", True))
        await self.house.shown()

    async def build(self, *contents: str, write: bool = True, trigger: BuildTrigger | None = None) -> BuildFinished:
        await self.house.ran(*contents, trigger=trigger)
        status: Verdict = "failed" if any(contents) else "passed"
        receipt = await self.house.handler.execute(FinishExternalBuild(self.house.builds, status), ANN)
        event = receipt.events[-1].event
        assert isinstance(event, BuildFinished)
        if write:
            await self.writer.write(event)
        return event

    async def group(self, *reports: Sequence[str]) -> list[BuildFinished]:
        """Runs a group of one build for each report, and writes no tickets."""
        finished = []
        ids = range(self.house.builds + 1, self.house.builds + 1 + len(reports))
        matrix = Matrix({"number": [str(number) for number, _ in enumerate(reports)]})
        await self.house.does(ConfigureJob(1, "make", matrix=matrix), StartBuild(ids[0], 1, more_ids=ids[1:]))
        for build_id, contents in zip(ids, reports, strict=True):
            self.house.builds = build_id
            await self.house.does(RunBuild(build_id))
            await self.house.report(*contents)
            command = EndBuild(build_id, "failed" if any(contents) else "passed")
            event = (await self.house.handler.execute(command, ANN)).events[-1].event
            assert isinstance(event, BuildFinished)
            finished.append(event)
        return finished

    async def defects(self, build_id: int | None = None) -> list[str | None]:
        """Defects of the results of a build, by default of the last one."""
        await self.house.shown()
        async with self.house.parts.pool.connection() as connection:
            ranges = await results_queries.fetch_reports(connection, build_id or self.house.builds)
            page = await results_queries.fetch_page(connection, ranges, results_queries.ResultFilters(), 100, 0)
        return [result.triage.defect_key for result in page]

    async def error(self) -> str:
        integration = await self.house.parts.log.load_state(JIRA.at(1))
        assert integration is not None
        return integration.error


@pytest.fixture
async def office(house: House) -> Office:  # noqa: F811
    made = Office(house)
    await made.connect()
    return made


async def test_thirty_tests_with_one_cause_are_one_ticket(office: Office) -> None:
    event = await office.build(*[RESET] * 30)
    (ticket,) = office.tracker.tickets.values()
    assert ticket.summary == "ECONNRESET: c.n0 and 29 more tests"
    assert "and 20 more" in str(ticket.text)
    assert "https://ci.acme.com/api/v3/builds/1" in str(ticket.text)
    assert "at connect" in str(ticket.text)
    assert ticket.labels[0].startswith("testhide-1-")
    assert await office.defects() == ["BACK-1"] * 30
    await office.writer.write(event)  # as a second try does
    await office.build(*[RESET] * 30)
    assert (len(office.tracker.tickets), office.tracker.comments) == (1, [])
    assert await office.defects() == ["BACK-1"] * 30


async def test_only_new_failures_become_tickets(office: Office) -> None:
    await office.house.does(UpdateJiraIntegration(1, auto_create=False))
    await office.house.shown()
    await office.build(RESET, PASSED)
    await office.house.does(UpdateJiraIntegration(1, auto_create=True))
    await office.house.shown()
    await office.build(RESET, failure("other"))
    assert [ticket.summary for ticket in office.tracker.tickets.values()] == ["other: c.n1"]
    await office.build(PASSED, PASSED)
    await office.build(RESET, PASSED)
    assert len(office.tracker.tickets) == 2


async def test_builds_of_forks_write_nothing(office: Office) -> None:
    fork = BuildTrigger("pull_request", 3, 7, fork=True)
    await office.build(RESET, failure("stranger's"), trigger=fork)
    assert office.tracker.tickets == {}
    await office.build(RESET, PASSED)
    assert [ticket.summary for ticket in office.tracker.tickets.values()] == ["ECONNRESET: c.n0"]
    office.late = COMMENT_INTERVAL
    await office.build(PASSED, PASSED, trigger=fork)
    await office.build(RESET, PASSED, trigger=fork)
    assert office.tracker.comments == []


async def test_a_ticket_says_when_its_failure_stops_and_comes_back(office: Office) -> None:
    await office.build(RESET, RESET)
    await office.build(RESET, PASSED)
    await office.build(PASSED)
    assert office.tracker.comments == []  # one test did not run
    await office.build(PASSED, PASSED)
    await office.build(PASSED, PASSED)
    assert office.tracker.comments == ["BACK-1: Build 4 of Smoke passed all 2 tests of this failure"]
    office.tracker.done.add("BACK-1")
    await office.build(RESET, PASSED)
    assert office.tracker.comments[1:] == ["BACK-1: 1 test failed again in build 6 of Smoke"]
    assert office.tracker.done == set()
    office.late = COMMENT_INTERVAL
    await office.build(RESET, PASSED)
    assert len(office.tracker.comments) == 3


async def test_many_causes_are_a_bounded_number_of_tickets(office: Office) -> None:
    words = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(MAX_TICKETS + 15)]
    event = await office.build(*map(failure, words))
    assert len(office.tracker.tickets) == MAX_TICKETS + 1
    rest = office.tracker.tickets[f"BACK-{MAX_TICKETS + 1}"]
    assert rest.summary == "15 more causes of failures in Smoke, build 1"
    assert "and 5 more" in str(rest.text)
    assert None not in await office.defects()
    await office.writer.write(event)
    assert len(office.tracker.tickets) == MAX_TICKETS + 1


async def test_builds_that_need_no_tickets_cost_no_try(office: Office, tmp_path: Path) -> None:
    parts = office.house.parts
    tools = Tools(
        BuildLogs(parts.pool),
        SharedCaches(parts.pool),
        open_blobs(tmp_path.as_uri()),
        parts.log,
        parts.secrets,
        tickets=office.writer,
    )
    await office.build(RESET, write=False)
    (finished,) = await parts.log.read(0, 1_000, [BuildFinished.name])
    long_ago = finished.event.at - TICKET_MAX_AGE
    old = structs.replace(finished, event=structs.replace(finished.event, at=long_ago))
    damaged = structs.replace(finished, event=Damaged(BuildFinished.name, "its MAC is wrong"))
    assert await select_builds_with_tickets([old, finished, damaged], tools) == [finished, damaged]
    await office.house.does(UpdateJiraIntegration(1, auto_create=False))
    await office.house.shown()
    assert await select_builds_with_tickets([old, finished, damaged], tools) == [damaged]

    await office.house.does(UpdateJiraIntegration(1, auto_create=True))
    assert await select_builds_with_tickets([finished], tools) == [finished], "the read model was behind"


async def test_a_ticket_whose_answer_was_lost_is_found(office: Office) -> None:
    office.tracker.loses_answers = True
    event = await office.build(RESET, write=False)
    with pytest.raises(TicketsDelayed):
        await office.writer.write(event)
    office.tracker.loses_answers = False
    assert await office.error() == "jira.acme.com gives no answer."
    office.late = TICKET_CLAIM_LIFETIME
    await office.writer.write(event)
    assert len(office.tracker.tickets) == 1
    assert await office.defects() == ["BACK-1"]
    assert await office.error() == ""
    created = [item.event for item in await office.house.parts.log.read(0, 1_000, [TicketCreated.name])]
    assert [event.found for event in created if isinstance(event, TicketCreated)] == [True]


async def test_projects_that_share_a_project_of_jira_find_no_tickets_of_each_other(office: Office) -> None:
    office.tracker.loses_answers = True
    event = await office.build(RESET, write=False)
    with pytest.raises(TicketsDelayed):
        await office.writer.write(event)
    office.tracker.loses_answers = False
    ticket = office.tracker.tickets["BACK-1"]
    signature = ticket.labels[0].rpartition("-")[2]
    office.tracker.tickets["BACK-1"] = replace(ticket, labels=[f"testhide-2-{signature}", f"testhide-{signature}"])
    office.late = TICKET_CLAIM_LIFETIME
    await office.writer.write(event)
    assert await office.defects() == ["BACK-2"]


async def test_nobody_else_creates_a_claimed_ticket(office: Office) -> None:
    office.tracker.loses_answers = True
    event = await office.build(RESET, write=False)
    with pytest.raises(TicketsDelayed):
        await office.writer.write(event)
    office.tracker.tickets.clear()  # the index of a search may lag behind
    with pytest.raises(TicketsDelayed, match="is being created"):
        await office.writer.write(event)
    assert office.tracker.tickets == {}


async def test_failures_are_linked_to_a_ticket_that_an_earlier_build_is_creating(office: Office) -> None:
    office.tracker.loses_answers = True
    first = await office.build(RESET, write=False)
    with pytest.raises(TicketsDelayed):
        await office.writer.write(first)
    office.tracker.loses_answers = False
    second = await office.build(RESET, write=False)
    with pytest.raises(TicketsDelayed, match="is being created"):
        await office.writer.write(second)
    office.late = TICKET_CLAIM_LIFETIME
    await office.writer.write(first)
    await office.writer.write(second)
    assert len(office.tracker.tickets) == 1
    assert await office.defects() == ["BACK-1"]


async def test_the_builds_of_a_matrix_share_a_ticket_in_whatever_order_they_are_handled(office: Office) -> None:
    first, second, passed = await office.group([RESET], [RESET], [PASSED])
    for event in (second, passed, first, second):
        await office.writer.write(event)
    assert await office.defects(1) == await office.defects(2) == ["BACK-1"]
    assert (len(office.tracker.tickets), office.tracker.comments) == (1, [])
    for event in await office.group([RESET], [PASSED], [PASSED]):
        await office.writer.write(event)
    assert office.tracker.comments == [], "it passed only with other values of the matrix"
    for event in await office.group([PASSED], [PASSED], [PASSED]):
        await office.writer.write(event)
    assert office.tracker.comments == ["BACK-1: Build 7 of Smoke passed the test of this failure"]


async def test_the_builds_of_a_matrix_share_a_bounded_number_of_tickets(office: Office) -> None:
    words = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(MAX_TICKETS + 5)]
    for event in await office.group([*map(failure, words)], [*map(failure, reversed(words))]):
        await office.writer.write(event)
    assert len(office.tracker.tickets) == MAX_TICKETS + 1
    assert None not in [*await office.defects(1), *await office.defects(2)]


async def test_a_wait_for_another_build_is_no_failure_of_the_tracker(office: Office) -> None:
    office.tracker.loses_answers = True
    first, second = await office.group([RESET], [RESET])
    with pytest.raises(TicketsDelayed):
        await office.writer.write(first)
    office.tracker.loses_answers = False
    await office.build(failure("other"))
    assert await office.error() == ""
    with pytest.raises(TicketsDelayed, match="is being created") as delayed:
        await office.writer.write(second)
    assert delayed.value.retry_after_s == CLAIM_POLL_S
    assert await office.error() == ""


async def test_a_failing_tracker_is_shown(office: Office) -> None:
    office.tracker.failure = TicketsUnavailable("jira.acme.com takes no more requests.", 30)
    event = await office.build(RESET, write=False)
    with pytest.raises(TicketsDelayed, match="no more requests") as delayed:
        await office.writer.write(event)
    assert delayed.value.retry_after_s == 30
    assert await office.error() == "jira.acme.com takes no more requests."
    office.tracker.failure = None
    await office.writer.write(event)
    assert await office.error() == ""
