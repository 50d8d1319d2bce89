"""Inquiries as rows."""

from datetime import UTC, datetime
from typing import Any

import hypothesis
import pytest

from domain import builds, inquiries, projects
from domain.builds import BuildDeleted
from domain.core.events import Event
from domain.inquiries import (
    InquiryAnswered,
    InquiryAsked,
    InquiryCancelled,
    InquiryFailed,
    InquiryStepTaken,
)
from domain.jobs import JobDeleted
from domain.projects import ProjectDeleted
from domain.users import UserDeleted
from projections.inquiries import PROJECTION, InquiryRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
ABOUT: dict[str, Any] = {"inquiry_id": "chat-a", "user_id": 7, "project_id": 3, "job_id": 5, "build_id": 9}
ASKED = InquiryAsked(at=NOW, kind="chat", session_id="sess-b", **ABOUT)


def test_an_inquiry_is_answered() -> None:
    row = given(ASKED).when(PROJECTION).one(InquiryRow)
    assert (row.status, row.session_id, row.asked_at, row.ended_at) == ("queued", "sess-b", NOW, None)
    step = InquiryStepTaken(at=NOW, number=1, lookup="history", **ABOUT)
    assert given(ASKED, step).when(PROJECTION).one(InquiryRow).status == "running"
    answered = InquiryAnswered(at=LATER, provider="openai", model="small", tokens=70, **ABOUT)
    row = given(ASKED, step, answered).when(PROJECTION).one(InquiryRow)
    assert (row.status, row.ended_at, row.provider, row.model, row.tokens) == ("complete", LATER, "openai", "small", 70)


def test_an_inquiry_fails_or_is_cancelled() -> None:
    failed, cancelled = InquiryFailed(at=LATER, **ABOUT), InquiryCancelled(at=LATER, **ABOUT)
    assert given(ASKED, failed).when(PROJECTION).one(InquiryRow).status == "failed"
    assert given(ASKED, cancelled).when(PROJECTION).one(InquiryRow).status == "cancelled"


@pytest.mark.parametrize(
    "deletion",
    [
        BuildDeleted(build_id=9, job_id=5, project_id=3),
        JobDeleted(job_id=5, project_id=3),
        ProjectDeleted(project_id=3),
        UserDeleted(user_id=7),
    ],
    ids=lambda event: event.name,
)
def test_an_inquiry_goes_with_what_it_is_about(deletion: Event) -> None:
    late = InquiryAnswered(at=LATER, **ABOUT)
    assert given(ASKED, deletion).when(PROJECTION).all(InquiryRow) == []
    assert given(ASKED, deletion, late).when(PROJECTION).all(InquiryRow) == []


@hypothesis.given(histories(*projects.EVENTS, *builds.EVENTS, *inquiries.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
