"""Asks the assistant, and records how it answered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from commands.handler import Command, must_exist
from domain.assistant.answers import Answer, BuildChoice, Kind
from domain.builds import BUILD, AnyBuild, DeletedBuild
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.inquiries import (
    INQUIRY,
    MAX_STEPS,
    Inquiry,
    InquiryAnswered,
    InquiryAsked,
    InquiryCancelled,
    InquiryFailed,
    InquiryStepTaken,
)
from domain.projects import PROJECT, Project


@dataclass(frozen=True)
class AskInquiry(Command):
    """Records a question to the assistant. A worker answers it later."""

    inquiry_id: str
    """Id that nobody can guess."""
    kind: Kind
    user_id: int
    project_id: int | None = None
    job_id: int | None = None
    build_id: int | None = None
    result_id: int | None = None
    session_id: str = ""
    message: str = ""
    include_logs: bool = True
    max_tests: int = 20
    days: int = 7
    model: str | None = None
    build_choice: BuildChoice = ""

    def reads(self) -> Sequence[AnyStream]:
        return INQUIRY.at(self.inquiry_id), PROJECT.at(self.project_id or 0), BUILD.at(self.build_id or 0)

    def decide(self, inquiry: Inquiry | None, project: Project | None, build: AnyBuild | None) -> Iterable[Event]:
        if inquiry is not None:
            return
        if self.project_id is not None:
            must_exist(project, f"project {self.project_id}")
        if self.build_id is not None and (build is None or isinstance(build, DeletedBuild)):
            raise NotFound(f"There is no build {self.build_id}.")
        yield self.event(InquiryAsked)


@dataclass(frozen=True)
class AskAndAnswerInquiry(AskInquiry):
    """Records a question together with its answer, which was found without a worker."""

    answer: Answer = field(default_factory=Answer)
    evidence: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def decide(self, inquiry: Inquiry | None, project: Project | None, build: AnyBuild | None) -> Iterable[Event]:
        for event in super().decide(inquiry, project, build):
            yield event
            yield self.event(InquiryAnswered, model="")


@dataclass(frozen=True)
class TakeInquiryStep(Command, of=INQUIRY):
    """Records a look-up of the assistant. Ignores an inquiry that has ended, a step that was recorded before, and steps
    after MAX_STEPS.
    """

    inquiry_id: str
    number: int
    lookup: str
    text: str = ""

    def decide(self, inquiry: Inquiry | None) -> Iterable[Event]:
        if inquiry is not None and inquiry.end is None and len(inquiry.steps) < self.number <= MAX_STEPS:
            yield self.event(InquiryStepTaken, inquiry.subject)


@dataclass(frozen=True)
class AnswerInquiry(Command, of=INQUIRY):
    """Records the answer. Ignores an inquiry that has ended."""

    inquiry_id: str
    answer: Answer
    evidence: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    provider: str = "builtin"
    model: str = ""
    prompt: str = ""
    tokens: int = 0
    fell_back: str = ""

    def decide(self, inquiry: Inquiry | None) -> Iterable[Event]:
        if inquiry is not None and inquiry.end is None:
            yield self.event(InquiryAnswered, inquiry.subject)


@dataclass(frozen=True)
class FailInquiry(Command, of=INQUIRY):
    """Records why there is no answer. Ignores an inquiry that has ended."""

    inquiry_id: str
    error: str

    def decide(self, inquiry: Inquiry | None) -> Iterable[Event]:
        if inquiry is not None and inquiry.end is None:
            yield self.event(InquiryFailed, inquiry.subject)


@dataclass(frozen=True)
class CancelInquiry(Command, of=INQUIRY):
    """Cancels an inquiry that has not ended."""

    inquiry_id: str

    def decide(self, inquiry: Inquiry | None) -> Iterable[Event]:
        if inquiry is None:
            raise NotFound(f"There is no AI job {self.inquiry_id}.")
        if inquiry.end is not None:
            raise Conflict(
                f"AI job {self.inquiry_id} has ended; only a job that is queued or running can be cancelled."
            )
        yield self.event(InquiryCancelled, inquiry.subject)
