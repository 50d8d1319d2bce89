"""Tickets whose failures have not stopped, as rows."""

from datetime import UTC, datetime
from typing import Any

import hypothesis

from domain import tickets
from domain.core.columns import Int32s
from domain.core.events import Event
from domain.jira import JiraIntegrationDeleted
from domain.tickets import TicketCreated, TicketRecurred, TicketStopped
from projections.tickets import PROJECTION, FailingTicketRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)


def about(job_id: int, build_id: int) -> dict[str, Any]:
    return {"jira_id": 1, "project_id": 3, "cause": "build-7", "job_id": job_id, "build_id": build_id}


def test_a_ticket_has_a_row_for_each_job_that_fails() -> None:
    history = [
        TicketCreated(at=NOW, **about(4, 7), case_ids=Int32s([5]), issue_key="BACK-1"),
        TicketRecurred(at=LATER, **about(5, 8), case_ids=Int32s([5])),
    ]
    first = FailingTicketRow("1.3.build.7", 4, 1, 3, "build-7", 7, NOW)
    second = FailingTicketRow("1.3.build.7", 5, 1, 3, "build-7", 8, LATER)
    assert given(*history).when(PROJECTION).all(FailingTicketRow) == [first, second]
    stopped = TicketStopped(at=LATER, **about(4, 9))
    assert given(*history, stopped).when(PROJECTION).all(FailingTicketRow) == [second]
    deleted = JiraIntegrationDeleted(jira_id=1, project_id=None)
    assert given(*history, deleted).when(PROJECTION).all(FailingTicketRow) == []


@hypothesis.given(histories(*tickets.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
