"""Commands on tickets: claim a ticket, so that only one process creates it; record its creation and its comments, and
link results to it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from commands.handler import Command
from commands.triage import TriagedResult
from domain.builds import BUILD, AnyBuild, DeletedBuild
from domain.core.columns import Int32s
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job
from domain.tickets import (
    TICKET,
    TicketClaimed,
    TicketCreated,
    TicketRecurred,
    TicketState,
    TicketStopped,
    ticket_id,
)
from domain.triage import TRIAGE, DefectLinked, Triage


@dataclass(frozen=True)
class _OfTicket(Command):
    jira_id: int
    project_id: int
    cause: str
    job_id: int
    build_id: int

    def reads(self) -> Sequence[AnyStream]:
        return (TICKET.at(ticket_id(self.jira_id, self.project_id, self.cause)),)


@dataclass(frozen=True)
class ClaimTicket(_OfTicket):
    """Records that this process is about to create a ticket, so that no other process does. Raises Conflict if the
    ticket exists, or if another process is creating it.
    """

    now: datetime

    def decide(self, ticket: TicketState) -> Iterable[Event]:
        if ticket.key or ticket.is_claimed(self.now):
            raise Conflict(f"The ticket {self.cause} of Jira integration {self.jira_id} is being created.")
        yield self.event(TicketClaimed)


@dataclass(frozen=True)
class RecordTicket(_OfTicket):
    issue_key: str
    issue_url: str
    branch: str
    case_ids: Int32s
    found: bool = False

    def decide(self, ticket: TicketState) -> Iterable[Event]:
        if not ticket.key:
            yield self.event(TicketCreated)


@dataclass(frozen=True)
class RecordRecurrence(_OfTicket):
    branch: str
    case_ids: Int32s
    now: datetime

    def decide(self, ticket: TicketState) -> Iterable[Event]:
        if ticket.key and ticket.must_recur(self.job_id, self.build_id, self.now):
            yield self.event(TicketRecurred)


@dataclass(frozen=True)
class RecordStop(_OfTicket):
    def decide(self, ticket: TicketState) -> Iterable[Event]:
        failing = ticket.failing_jobs.get(self.job_id)
        if failing is not None and failing.build_id < self.build_id:
            yield self.event(TicketStopped)


@dataclass(frozen=True)
class LinkTicket(Command):
    """Links results of one build to a ticket. Leaves out results that are linked to a defect already."""

    results: tuple[TriagedResult, ...]
    defect_key: str
    defect_url: str

    def reads(self) -> Sequence[AnyStream]:
        first = self.results[0]
        triages = (TRIAGE.at(result.result_id) for result in self.results)
        return BUILD.at(first.build_id), JOB.at(first.job_id), *triages

    def decide(self, build: AnyBuild | None, job: Job | None, *triages: Triage) -> Iterable[Event]:
        if build is None or isinstance(build, DeletedBuild) or job is None or job.deleted:
            return
        for result, triage in zip(self.results, triages, strict=True):
            if not triage.defect_key:
                yield self.event(DefectLinked, result, set_by=None)
