"""Known issues: failures that are understood, and by what they are known again.

Each has one way that it was given: a pattern (RE2) over message and trace, a signature, or a reporter's fail_id. By
linking results it learns more: the fail_ids and signatures of those.

Failures that were recorded before are searched through once for each edition: what the issue is known by, and as what
it classifies.
"""

from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event
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

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


TEXTS = ("title", "value", "defect_key", "defect_url")


class KnownIssueCreated(KnownIssueEvent, frozen=True):
    name: ClassVar[str] = "known_issue.created"
    sealed: ClassVar[tuple[str, ...]] = TEXTS
    classification: Classification
    kind: Kind
    title: str = ""
    value: str = ""
    """The pattern, signature or fail_id."""
    defect_key: str | None = None
    defect_url: str | None = None


class KnownIssueUpdated(KnownIssueEvent, frozen=True):
    """Only what changed; None is unchanged. `cleared` names the fields that are set back to None."""

    name: ClassVar[str] = "known_issue.updated"
    sealed: ClassVar[tuple[str, ...]] = TEXTS
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
    sealed: ClassVar[tuple[str, ...]] = ("fail_id", "signature")
    result_id: int
    fail_id: str = ""
    signature: str = ""


class KnownIssueSearched(KnownIssueEvent, frozen=True):
    """Of failures of the past, from the newest down to result `down_to`, these are the issue too. A classification that
    a result has got meanwhile stays.
    """

    name: ClassVar[str] = "known_issue.searched"
    edition: int
    down_to: int
    """0 when the search is over."""
    classification: Classification
    result_ids: list[int] = []
    job_ids: list[int] = []
    """Of the results, in the same order."""


class KnownIssueDeleted(KnownIssueEvent, frozen=True):
    """Knows nothing again; what it has classified stays."""

    name: ClassVar[str] = "known_issue.deleted"


class MatchRule(msgspec.Struct, frozen=True):
    """A value by which a known issue matches failures, and what it classifies them as."""

    known_issue_id: int
    classification: Classification
    kind: Kind
    value: str


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
    edition: int = 1
    searched: tuple[int, int] = (0, 0)
    """The edition that was last searched for, and down to which result."""
    deleted: bool = False

    @property
    def match_rules(self) -> list[MatchRule]:
        """The rules that it was given and taught."""
        values: list[tuple[Kind, str]] = [
            (self.kind, self.value),
            *(("fail_id", fail_id) for fail_id in self.fail_ids),
            *(("signature", signature) for signature in self.signatures),
        ]
        return [MatchRule(self.known_issue_id, self.classification, kind, value) for kind, value in values if value]

    def knows(self, kind: Kind, value: str) -> bool:
        taught = {"fail_id": self.fail_ids, "signature": self.signatures}.get(kind, frozenset())
        return (self.kind, self.value) == (kind, value) or value in taught


def changes(event: KnownIssueUpdated) -> dict[str, str | None]:
    given = {field: value for field in UPDATABLE if (value := getattr(event, field)) is not None}
    return given | dict.fromkeys(event.cleared)


def edition_after(edition: int, event: KnownIssueUpdated) -> int:
    return edition + any(value is not None for value in (event.classification, event.kind, event.value))


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
            edition = edition_after(state.edition, event)
            return msgspec.structs.replace(state, **changes(event), edition=edition)
        case KnownIssueSearched() if state is not None:
            return msgspec.structs.replace(state, searched=(event.edition, event.down_to))
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
EVENTS = (KnownIssueCreated, KnownIssueUpdated, KnownIssueTaught, KnownIssueSearched, KnownIssueDeleted)
