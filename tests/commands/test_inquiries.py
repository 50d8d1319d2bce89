"""Decisions about inquiries."""

from typing import Any

import hypothesis
import pytest

from commands.inquiries import (
    AnswerInquiry,
    AskAndAnswerInquiry,
    AskInquiry,
    CancelInquiry,
    FailInquiry,
    TakeInquiryStep,
)
from domain import builds, inquiries, projects
from domain.assistant.answers import Answer, AnswerClaim
from domain.builds import BuildDeleted, BuildQueued
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.inquiries import (
    INQUIRY,
    InquiryAnswered,
    InquiryAsked,
    InquiryCancelled,
    InquiryFailed,
    InquiryStepTaken,
)
from domain.projects import ProjectClosed, ProjectCreated, ProjectDeleted
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=3, title="Shop")
BUILD = BuildQueued(build_id=9, job_id=5, project_id=3)
ABOUT: dict[str, Any] = {"user_id": 7, "project_id": 3, "job_id": 5, "build_id": 9}
ASKED = InquiryAsked(inquiry_id="chat-a", kind="chat", message="Why?", session_id="sess-b", **ABOUT)
ASK = AskInquiry("chat-a", "chat", message="Why?", session_id="sess-b", **ABOUT)
ANSWER = Answer((AnswerClaim("Build 9 failed.", ("build:9",)),))
ANSWERED = InquiryAnswered(inquiry_id="chat-a", answer=ANSWER, **ABOUT)
ENDS = (ANSWERED, InquiryFailed(inquiry_id="chat-a", **ABOUT), InquiryCancelled(inquiry_id="chat-a", **ABOUT))


def test_ask() -> None:
    given(PROJECT, BUILD).when(ASK).then(ASKED)
    given(PROJECT, BUILD, ASKED).when(ASK).then_nothing()
    given().when(AskInquiry("chat-c", "chat", 7)).then(InquiryAsked(inquiry_id="chat-c", kind="chat", user_id=7))


def test_what_is_deleted_cannot_be_asked_about() -> None:
    with pytest.raises(NotFound, match="no build 9"):
        given(PROJECT).when(ASK)
    with pytest.raises(NotFound, match="no build 9"):
        given(PROJECT, BUILD, BuildDeleted(build_id=9, job_id=5, project_id=3)).when(ASK)
    with pytest.raises(NotFound, match="no project 3"):
        given(BUILD).when(ASK)
    with pytest.raises(NotFound, match="no project 3"):
        given(PROJECT, ProjectClosed(project_id=3), ProjectDeleted(project_id=3)).when(ASK)


def test_an_answer_that_is_known_is_recorded_with_the_question() -> None:
    both = AskAndAnswerInquiry("chat-a", "chat", message="Why?", session_id="sess-b", answer=ANSWER, **ABOUT)
    given(PROJECT, BUILD).when(both).then(ASKED, ANSWERED)
    given(PROJECT, BUILD, ASKED, ANSWERED).when(both).then_nothing()


def test_an_inquiry_ends_once() -> None:
    given(ASKED).when(AnswerInquiry("chat-a", ANSWER)).then(ANSWERED)
    given(ASKED).when(FailInquiry("chat-a", "")).then(ENDS[1])
    given(ASKED).when(CancelInquiry("chat-a")).then(ENDS[2])
    for end in ENDS:
        given(ASKED, end).when(AnswerInquiry("chat-a", ANSWER)).then_nothing()
        given(ASKED, end).when(FailInquiry("chat-a", "late")).then_nothing()
        given(ASKED, end).when(TakeInquiryStep("chat-a", 1, "history")).then_nothing()
        with pytest.raises(Conflict, match="has ended"):
            given(ASKED, end).when(CancelInquiry("chat-a"))
    with pytest.raises(NotFound, match="no AI job chat-a"):
        given().when(CancelInquiry("chat-a"))


def test_steps_are_recorded_once_and_their_number_is_limited() -> None:
    step = InquiryStepTaken(inquiry_id="chat-a", number=1, lookup="history", text="Looked at 9 runs.", **ABOUT)
    take = TakeInquiryStep("chat-a", 1, "history", "Looked at 9 runs.")
    given(ASKED).when(take).then(step)
    given(ASKED, step).when(take).then_nothing()
    given(ASKED).when(TakeInquiryStep("chat-a", inquiries.MAX_STEPS + 1, "history")).then_nothing()


def test_texts_are_sealed_under_the_key_of_what_they_are_about() -> None:
    assert ASKED.data_key == "project-3/job-5/build-9"
    assert InquiryAsked(inquiry_id="a", kind="chat", user_id=7, project_id=3).data_key == "project-3"
    assert InquiryAsked(inquiry_id="a", kind="chat", user_id=7).data_key == "user-7"


@hypothesis.given(histories(*inquiries.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(INQUIRY, history)


@hypothesis.given(commands(AskInquiry), histories(*projects.EVENTS, *builds.EVENTS, *inquiries.EVENTS))
def test_decided_once(made: AskInquiry, history: list[Event]) -> None:
    is_decided_once(made, history)
