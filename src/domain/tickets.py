"""Tickets: the issues that Jira integrations create, one for each cause of failures in a project.

A cause is the signature of failures. If a build has too many new causes, one ticket stands for all of them, and its
cause is the name of the build: `build-7`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import ClassVar

import msgspec

from domain.core.columns import Int32s
from domain.core.data_keys import project_key
from domain.core.events import Category, Event

TICKET_CLAIM_LIFETIME = timedelta(minutes=2)
"""Time for which a process that is about to create a ticket keeps other processes from creating it. The time covers the
creation of one issue: the call of Jira, which ends within 10 s, and the time until Jira's search finds the new issue.
"""
COMMENT_INTERVAL = timedelta(days=1)
"""A failure that keeps coming back in a job gets another comment when the newest text of its ticket is this old."""
MAX_CASES = 1_000
"""Largest number of tests that a ticket remembers. When all remembered tests pass, the ticket's failure has stopped."""


class TicketEvent(Event, frozen=True):
    jira_id: int
    project_id: int
    cause: str
    job_id: int
    build_id: int

    @property
    def stream(self) -> str:
        return f"jira-issue-{ticket_id(self.jira_id, self.project_id, self.cause)}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class TicketClaimed(TicketEvent, frozen=True):
    """A process is about to create the ticket. No other process creates it within TICKET_CLAIM_LIFETIME."""

    name: ClassVar[str] = "jira_issue.claimed"


class TicketCreated(TicketEvent, frozen=True):
    name: ClassVar[str] = "jira_issue.created"
    sealed: ClassVar[tuple[str, ...]] = ("issue_key", "issue_url", "branch")
    case_ids: Int32s
    """Ids of the failing test cases, at most MAX_CASES of them."""
    issue_key: str = ""
    issue_url: str = ""
    branch: str = ""
    found: bool = False
    """Whether Jira already had an issue with the label of this ticket, so that none was created."""


class TicketRecurred(TicketEvent, frozen=True):
    """The failure came back, and the ticket got a comment."""

    name: ClassVar[str] = "jira_issue.recurred"
    sealed: ClassVar[tuple[str, ...]] = ("branch",)
    case_ids: Int32s
    branch: str = ""


class TicketStopped(TicketEvent, frozen=True):
    """A later build of the job passed the tests, and the ticket got a comment."""

    name: ClassVar[str] = "jira_issue.stopped"


class Failing(msgspec.Struct, frozen=True):
    """The last failure that a ticket has recorded for a job."""

    build_id: int
    branch: str
    case_ids: tuple[int, ...]


class TicketState(msgspec.Struct, frozen=True):
    claimed_at: datetime | None = None
    key: str = ""
    url: str = ""
    created_in: int | None = None
    """Id of the build for whose failures the ticket was created; None before its creation."""
    failing_jobs: Mapping[int, Failing] = {}
    """Job id -> the job's last failure, for the jobs in which the failure has not stopped."""
    stopped_jobs: Mapping[int, int] = {}
    """Job id -> id of the build whose passed tests showed that the failure has stopped."""
    written_at: datetime | None = None
    """Time at which the ticket last got a text about a failure: its description or a comment."""

    def is_claimed(self, now: datetime) -> bool:
        return self.claimed_at is not None and now - self.claimed_at < TICKET_CLAIM_LIFETIME

    def must_recur(self, job_id: int, build_id: int, now: datetime) -> bool:
        """Returns whether a failure in this build needs a comment. It needs none if the ticket has recorded this build
        or a later build of the job. Otherwise it needs a comment if the failure is new in the job, or if the newest
        text of the ticket is at least COMMENT_INTERVAL old.
        """
        failing = self.failing_jobs.get(job_id)
        if build_id <= max(self.stopped_jobs.get(job_id, 0), 0 if failing is None else failing.build_id):
            return False
        return failing is None or self.written_at is None or now - self.written_at >= COMMENT_INTERVAL


def ticket_id(jira_id: int, project_id: int, cause: str) -> str:
    return f"{jira_id}.{project_id}.{cause.replace('-', '.')}"


def evolve(state: TicketState, event: Event) -> TicketState:
    match event:
        case TicketClaimed():
            return msgspec.structs.replace(state, claimed_at=event.at)
        case TicketCreated() | TicketRecurred():
            failing = Failing(event.build_id, event.branch, tuple(event.case_ids))
            state = msgspec.structs.replace(
                state, failing_jobs={**state.failing_jobs, event.job_id: failing}, written_at=event.at
            )
            if isinstance(event, TicketCreated):
                return msgspec.structs.replace(
                    state, key=event.issue_key, url=event.issue_url, created_in=event.build_id
                )
            return state
        case TicketStopped():
            return msgspec.structs.replace(
                state,
                failing_jobs={job_id: one for job_id, one in state.failing_jobs.items() if job_id != event.job_id},
                stopped_jobs={**state.stopped_jobs, event.job_id: event.build_id},
            )
        case _:
            return state


TICKET = Category("jira-issue", TicketState(), evolve)
EVENTS = (TicketClaimed, TicketCreated, TicketRecurred, TicketStopped)
