"""Inquiries: questions to the assistant, and jobs in which it analyses a project. A worker answers them.

Each inquiry has its own stream. The texts are sealed under the data key of the build that the question is about; or of
the project, if it is about no build; or of the user, if it is about no project. A conversation is the inquiries of a
user with the same session id.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal, get_args

import msgspec

from domain.assistant.answers import Answer, BuildChoice, Kind
from domain.core.data_keys import build_key, project_key, user_key
from domain.core.events import Category, Event, copy_fields

JobType = Literal["project_audit", "failure_cluster", "regression_scan"]
"""Type of an AI job: an inquiry that analyses a project, which takes longer than a question."""
JOB_ID_PREFIX = "aijob-"
SESSION_ID_PREFIX = "sess-"
JOB_TYPES: tuple[JobType, ...] = get_args(JobType)
ANSWERING = "answer_an_inquiry"
"""Name of the reaction that answers a question. It is stored, so it must not change."""
ANALYZING = "analyze_a_project"
"""Name of the reaction that carries out an AI job. It is stored, so it must not change."""
MAX_STEPS = 50
"""Largest number of steps of an inquiry that are recorded."""


class InquirySubject(msgspec.Struct, frozen=True):
    """User, project, build and the like that an inquiry is about. All events of the inquiry repeat these ids, since the
    data key depends on them.
    """

    inquiry_id: str
    user_id: int
    project_id: int | None = None
    job_id: int | None = None
    build_id: int | None = None


class InquiryEvent(Event, frozen=True):
    inquiry_id: str
    user_id: int
    project_id: int | None = None
    job_id: int | None = None
    """Job of the build; None if the inquiry is about no build."""
    build_id: int | None = None

    @property
    def stream(self) -> str:
        return f"inquiry-{self.inquiry_id}"

    @property
    def data_key(self) -> str | None:
        if self.project_id is None:
            return user_key(self.user_id)
        if self.job_id is None or self.build_id is None:
            return project_key(self.project_id)
        return build_key(self.project_id, self.job_id, self.build_id)

    @property
    def notifies(self) -> str:
        return inquiry_notification(self.inquiry_id)


class InquiryAsked(InquiryEvent, frozen=True, kw_only=True):
    name: ClassVar[str] = "inquiry.asked"
    sealed: ClassVar[tuple[str, ...]] = ("message",)
    kind: Kind
    result_id: int | None = None
    """Result of a test that the question is about; None for none."""
    session_id: str = ""
    """Conversation of a chat; empty for an inquiry of another kind."""
    message: str = ""
    include_logs: bool = True
    max_tests: int = 20
    days: int = 7
    model: str | None = None
    """Model that is to answer; None for the configured one."""
    build_choice: BuildChoice = ""
    """How the assistant chose the build; also empty in older events."""


class InquiryStepTaken(InquiryEvent, frozen=True, kw_only=True):
    """The assistant has looked something up. `number` begins at 1."""

    name: ClassVar[str] = "inquiry.step"
    sealed: ClassVar[tuple[str, ...]] = ("text",)
    number: int
    lookup: str
    """Kind of the look-up, such as `flaky_tests`."""
    text: str = ""
    """A sentence that says what was looked at, and what was found."""


class InquiryAnswered(InquiryEvent, frozen=True):
    name: ClassVar[str] = "inquiry.answered"
    sealed: ClassVar[tuple[str, ...]] = ("answer", "evidence", "result", "prompt", "fell_back")
    answer: Answer = Answer()
    evidence: dict[str, Any] = {}
    """`domain.assistant.evidence.Evidence`, as JSON: all that the answer is based on, so it can be evaluated again."""
    result: dict[str, Any] = {}
    """Findings of an AI job, as its answer shows them; empty for a question."""
    provider: str = "builtin"
    """Kind of the server whose model answered; `builtin` if rules and statistics answered."""
    model: str = ""
    """Name of the model; empty if none was asked."""
    prompt: str = ""
    """Text that was sent to the model; empty if none was asked."""
    tokens: int = 0
    """Tokens of the prompt and of the model's reply."""
    fell_back: str = ""
    """A sentence that says why rules answered and not the configured model; empty if the model answered, or if no model
    is configured.
    """


class InquiryFailed(InquiryEvent, frozen=True):
    name: ClassVar[str] = "inquiry.failed"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""
    """A sentence that says why there is no answer."""


class InquiryCancelled(InquiryEvent, frozen=True):
    name: ClassVar[str] = "inquiry.cancelled"


InquiryEnd = InquiryAnswered | InquiryFailed | InquiryCancelled


class Inquiry(msgspec.Struct, frozen=True):
    inquiry_id: str
    user_id: int
    kind: Kind
    asked_at: datetime
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
    steps: tuple[InquiryStepTaken, ...] = ()
    end: InquiryEnd | None = None
    """The event that ended the inquiry, by an answer, a failure or a cancellation; None while the inquiry is open."""

    @property
    def subject(self) -> InquirySubject:
        return copy_fields(InquirySubject, self)


def evolve(state: Inquiry | None, event: Event) -> Inquiry | None:
    match event:
        case InquiryAsked():
            return copy_fields(Inquiry, event, asked_at=event.at)
        case InquiryStepTaken() if state is not None:
            return msgspec.structs.replace(state, steps=(*state.steps, event))
        case InquiryAnswered() | InquiryFailed() | InquiryCancelled() if state is not None:
            return msgspec.structs.replace(state, end=event)
        case _:
            return state


def find_job_type(kind: Kind) -> JobType | None:
    """Returns the type of the AI job; None if the inquiry is a question."""
    match kind:
        case "project_audit" | "failure_cluster" | "regression_scan":
            return kind
        case _:
            return None


def inquiry_notification(inquiry_id: str) -> str:
    """Returns the payload that wakes the API requests which wait for a step or the end of an inquiry."""
    return f"inquiry:{inquiry_id}"


INQUIRY = Category[Inquiry | None]("inquiry", None, evolve)
EVENTS = (InquiryAsked, InquiryStepTaken, InquiryAnswered, InquiryFailed, InquiryCancelled)
