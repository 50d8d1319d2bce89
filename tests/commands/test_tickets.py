"""Decisions about tickets of failures."""

from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import pytest

from commands.tickets import (
    ClaimTicket,
    LinkTicket,
    RecordRecurrence,
    RecordStop,
    RecordTicket,
)
from commands.triage import TriagedResult
from domain import tickets
from domain.builds import BuildQueued
from domain.core.columns import Int32s
from domain.core.errors import Conflict
from domain.core.events import Event
from domain.jobs import JobCreated
from domain.tickets import (
    COMMENT_INTERVAL,
    TICKET,
    TICKET_CLAIM_LIFETIME,
    TicketClaimed,
    TicketCreated,
    TicketRecurred,
    TicketStopped,
)
from domain.triage import DefectLinked
from tests.support.spec import folds, given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
CASES = Int32s([5, 6])


def about(build_id: int = 7, job_id: int = 4) -> dict[str, Any]:
    return {"jira_id": 1, "project_id": 3, "cause": "abc", "job_id": job_id, "build_id": build_id}


CLAIMED = TicketClaimed(at=NOW, **about())
TEXTS: dict[str, Any] = {"issue_key": "BACK-1", "issue_url": "https://jira.acme.com/browse/BACK-1", "branch": "main"}
CREATED = TicketCreated(at=NOW, **about(), **TEXTS, case_ids=CASES)


def test_one_claim_at_a_time() -> None:
    given().when(ClaimTicket(**about(), now=NOW)).then(TicketClaimed(**about()))
    soon = NOW + TICKET_CLAIM_LIFETIME / 2
    for history in ([CLAIMED], [CLAIMED, CREATED]):
        with pytest.raises(Conflict, match="being created"):
            given(*history).when(ClaimTicket(**about(8), now=soon))
    given(CLAIMED).when(ClaimTicket(**about(8), now=NOW + TICKET_CLAIM_LIFETIME)).then(TicketClaimed(**about(8)))


def test_a_ticket_is_created_once() -> None:
    record = RecordTicket(**about(), **TEXTS, case_ids=CASES)
    given(CLAIMED).when(record).then(TicketCreated(**about(), **TEXTS, case_ids=CASES))
    given(CLAIMED, CREATED).when(record).then_nothing()


def recurrence(now: datetime, build_id: int, job_id: int = 4) -> RecordRecurrence:
    return RecordRecurrence(**about(build_id, job_id), branch="main", case_ids=CASES, now=now)


def test_a_failure_that_keeps_coming_back_is_written_once_a_day() -> None:
    soon, next_day = NOW + timedelta(hours=2), NOW + COMMENT_INTERVAL
    given(CREATED).when(recurrence(soon, 8)).then_nothing()
    recurred = TicketRecurred(**about(8), branch="main", case_ids=CASES)
    given(CREATED).when(recurrence(next_day, 8)).then(recurred)
    given(CREATED).when(recurrence(next_day, 7)).then_nothing()
    in_other_job = TicketRecurred(**about(9, 5), branch="main", case_ids=CASES)
    given(CREATED).when(recurrence(soon, 9, 5)).then(in_other_job)


def test_a_failure_stops_and_comes_back() -> None:
    stopped = TicketStopped(at=NOW, **about(9))
    given(CREATED).when(RecordStop(**about(9))).then(TicketStopped(**about(9)))
    given(CREATED).when(RecordStop(**about(6))).then_nothing()
    given(CREATED, stopped).when(RecordStop(**about(10))).then_nothing()
    given(CREATED, stopped).when(recurrence(NOW, 8)).then_nothing()
    given(CREATED, stopped).when(recurrence(NOW, 10)).then(TicketRecurred(**about(10), branch="main", case_ids=CASES))


def test_a_link_of_a_person_stays() -> None:
    ids: dict[str, Any] = {"build_id": 7, "job_id": 4, "project_id": 3}
    results = tuple(TriagedResult(result_id, **ids, status="failed") for result_id in (21, 22))
    world: list[Event] = [BuildQueued(**ids, job_title="Nightly"), JobCreated(job_id=4, project_id=3, title="Nightly")]
    linked = DefectLinked(result_id=22, **ids, defect_key="OLD-1", defect_url="https://x.example", set_by=9)
    link = LinkTicket(results, "BACK-1", "https://jira.acme.com/browse/BACK-1")
    given(*world, linked).when(link).then(
        DefectLinked(result_id=21, **ids, defect_key="BACK-1", defect_url="https://jira.acme.com/browse/BACK-1")
    )
    given().when(link).then_nothing()


@hypothesis.given(histories(*tickets.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(TICKET, history)
