"""Known issues: failures that people have understood, with the rules that recognise and classify such failures.

A known issue has one rule that a user entered: a pattern (RE2) for message and trace, a signature, or the fail_id that
a reporter gives to a failure. When a user links a result to the issue, the fail_id and the signature of the result
become further rules.

When the user's rule or the classification changes, the issue gets a new edition. The server searches older failures
once for each edition.
"""

from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event, changes_of, copy_fields
from domain.triage import CERTAIN, Classification

Kind = Literal["pattern", "signature", "fail_id"]
Clearable = Literal["defect_key", "defect_url"]

MAX_FAIL_ID = 200
"""Largest number of characters of a fail_id. Reporters write 32."""


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
    """The issue was changed. Fields that are not None have their new values; fields in `cleared` were set to None."""

    name: ClassVar[str] = "known_issue.updated"
    sealed: ClassVar[tuple[str, ...]] = TEXTS
    title: str | None = None
    classification: Classification | None = None
    kind: Kind | None = None
    value: str | None = None
    defect_key: str | None = None
    defect_url: str | None = None
    cleared: tuple[Clearable, ...] = ()


class KnownIssueFailureAdded(KnownIssueEvent, frozen=True):
    """A user linked a failed result to the issue. From now on the issue also matches failures with the same fail_id or
    signature.
    """

    name: ClassVar[str] = "known_issue.taught"
    sealed: ClassVar[tuple[str, ...]] = ("fail_id", "signature")
    result_id: int
    fail_id: str = ""
    signature: str = ""


class KnownIssueSearched(KnownIssueEvent, frozen=True):
    """The server searched a part of the older failures for the issue, and found `result_ids` in this part. The search
    begins with the newest result and has reached the result `down_to`.

    The issue classifies these results, except those that were classified in the meantime.
    """

    name: ClassVar[str] = "known_issue.searched"
    edition: int
    down_to: int
    """The id of the oldest result that was searched; 0 when the search is complete."""
    classification: Classification
    result_ids: list[int] = []
    job_ids: list[int] = []
    """Ids of the jobs of the results, in the order of `result_ids`."""


class KnownIssueDeleted(KnownIssueEvent, frozen=True):
    """The issue was deleted and matches nothing any more. Results that it has classified keep their classifications."""

    name: ClassVar[str] = "known_issue.deleted"


class MatchRule(msgspec.Struct, frozen=True):
    """A rule by which failures are classified: the fail_id, signature or pattern that recognises them, and their
    classification. It is a rule of a known issue, a classification rule of the project, or a rule that follows from
    statistics of how people have classified the project's failures.
    """

    known_issue_id: int
    """Id of the known issue that the rule belongs to; 0 if it belongs to none."""
    classification: Classification
    kind: Kind
    value: str
    rule: int = 0
    """Number of the rule in the project's list of classification rules, from 1; 0 if it is not in the list."""
    version: int = 0
    """Version of the project's list of classification rules; 0 if the rule is not in the list."""
    confidence: int = CERTAIN
    """Confidence in percent."""

    @property
    def is_statistical(self) -> bool:
        return not self.known_issue_id and not self.rule


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
    """The fail_ids of linked results."""
    signatures: frozenset[str] = frozenset()
    edition: int = 1
    searched: tuple[int, int] = (0, 0)
    """(edition of the last search, id of the oldest result that it has reached). The id is 0 when the search is
    complete.
    """
    deleted: bool = False

    @property
    def match_rules(self) -> list[MatchRule]:
        """The rule that a user entered, followed by a rule for each fail_id and each signature of linked results."""
        values: list[tuple[Kind, str]] = [
            (self.kind, self.value),
            *(("fail_id", fail_id) for fail_id in self.fail_ids),
            *(("signature", signature) for signature in self.signatures),
        ]
        return [MatchRule(self.known_issue_id, self.classification, kind, value) for kind, value in values if value]

    def knows(self, kind: Kind, value: str) -> bool:
        taught = {"fail_id": self.fail_ids, "signature": self.signatures}.get(kind, frozenset())
        return (self.kind, self.value) == (kind, value) or value in taught


def edition_after(edition: int, event: KnownIssueUpdated) -> int:
    return edition + any(value is not None for value in (event.classification, event.kind, event.value))


def evolve(state: KnownIssue | None, event: Event) -> KnownIssue | None:
    match event:
        case KnownIssueCreated():
            return copy_fields(KnownIssue, event)
        case KnownIssueUpdated() if state is not None:
            edition = edition_after(state.edition, event)
            return msgspec.structs.replace(state, **changes_of(event), edition=edition)
        case KnownIssueSearched() if state is not None:
            return msgspec.structs.replace(state, searched=(event.edition, event.down_to))
        case KnownIssueFailureAdded() if state is not None:
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
EVENTS = (KnownIssueCreated, KnownIssueUpdated, KnownIssueFailureAdded, KnownIssueSearched, KnownIssueDeleted)
