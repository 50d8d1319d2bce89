"""Known issues: failures that are understood, and by what they are known again.

Each has one way that it was given: a pattern (RE2) over message and trace, a signature, or a reporter's fail_id. By
linking results it learns more: the fail_ids and signatures of those.
"""

from typing import ClassVar, Literal

import msgspec

from domain.base import Category, Event
from domain.triage import Classification

Kind = Literal["pattern", "signature", "fail_id"]
Clearable = Literal["defect_key", "defect_url"]

MAX_FAIL_ID = 200
"""Characters; they are 32 as reporters write them."""


class KnownIssueEvent(Event, frozen=True):
    known_issue_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"known_issue-{self.known_issue_id}"


class KnownIssueCreated(KnownIssueEvent, frozen=True):
    name: ClassVar[str] = "known_issue.created"
    title: str
    classification: Classification
    kind: Kind
    value: str
    """The pattern, signature or fail_id."""
    defect_key: str | None = None
    defect_url: str | None = None


class KnownIssueUpdated(KnownIssueEvent, frozen=True):
    """Only what changed; None is unchanged. `cleared` names the fields that are set back to None."""

    name: ClassVar[str] = "known_issue.updated"
    title: str | None = None
    classification: Classification | None = None
    kind: Kind | None = None
    value: str | None = None
    defect_key: str | None = None
    defect_url: str | None = None
    cleared: tuple[Clearable, ...] = ()


UPDATABLE = ("title", "classification", "kind", "value", "defect_key", "defect_url")


class KnownIssueTaught(KnownIssueEvent, frozen=True):
    """A failure that a person linked: those that are identical are this issue too, from now on."""

    name: ClassVar[str] = "known_issue.taught"
    result_id: int
    fail_id: str = ""
    signature: str = ""


class KnownIssueDeleted(KnownIssueEvent, frozen=True):
    """Knows nothing again; what it has classified stays."""

    name: ClassVar[str] = "known_issue.deleted"


class KnownIssue(msgspec.Struct, frozen=True):
    known_issue_id: int
    project_id: int
    title: str
    classification: Classification
    kind: Kind
    value: str
    defect_key: str | None
    defect_url: str | None
    fail_ids: frozenset[str] = frozenset()
    """Those that it was taught."""
    signatures: frozenset[str] = frozenset()
    deleted: bool = False

    def knows(self, kind: Kind, value: str) -> bool:
        taught = {"fail_id": self.fail_ids, "signature": self.signatures}.get(kind, frozenset())
        return (self.kind, self.value) == (kind, value) or value in taught


def changes(event: KnownIssueUpdated) -> dict[str, str | None]:
    given = {field: value for field in UPDATABLE if (value := getattr(event, field)) is not None}
    return given | dict.fromkeys(event.cleared)


def evolve(state: KnownIssue | None, event: Event) -> KnownIssue | None:
    match event:
        case KnownIssueCreated():
            return KnownIssue(
                event.known_issue_id,
                event.project_id,
                event.title,
                event.classification,
                event.kind,
                event.value,
                event.defect_key,
                event.defect_url,
            )
        case KnownIssueUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes(event))
        case KnownIssueTaught() if state is not None:
            return msgspec.structs.replace(
                state,
                fail_ids=state.fail_ids | ({event.fail_id} - {""}),
                signatures=state.signatures | ({event.signature} - {""}),
            )
        case KnownIssueDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


KNOWN_ISSUE = Category[KnownIssue | None]("known_issue", None, evolve)
EVENTS = (KnownIssueCreated, KnownIssueUpdated, KnownIssueTaught, KnownIssueDeleted)
