"""Commands on known issues: create, update, delete, record a search."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from commands.reports.patterns import must_be_a_pattern
from domain.core.errors import NotFound
from domain.core.events import AnyStream, Event
from domain.known_issues import (
    KNOWN_ISSUE,
    Clearable,
    Kind,
    KnownIssue,
    KnownIssueCreated,
    KnownIssueDeleted,
    KnownIssueSearched,
    KnownIssueUpdated,
)
from domain.projects import PROJECT, Project
from domain.triage import Classification


@dataclass(frozen=True)
class CreateKnownIssue(Command):
    known_issue_id: int
    project_id: int
    title: str
    classification: Classification
    kind: Kind
    value: str
    defect_key: str | None = None
    defect_url: str | None = None

    def reads(self) -> Sequence[AnyStream]:
        return KNOWN_ISSUE.at(self.known_issue_id), PROJECT.at(self.project_id)

    def decide(self, issue: KnownIssue | None, project: Project | None) -> Iterable[Event]:
        if issue is not None:
            return
        must_exist(project, f"project {self.project_id}")
        if self.kind == "pattern":
            must_be_a_pattern("pattern", self.value)
        yield self.event(KnownIssueCreated)


@dataclass(frozen=True)
class UpdateKnownIssue(Command, of=KNOWN_ISSUE):
    """Changes the given fields. A field that is None stays unchanged, or becomes None if `cleared` names it."""

    known_issue_id: int
    title: str | None = None
    classification: Classification | None = None
    match: tuple[Kind, str] | None = None
    """Kind and value of the new match rule; None leaves the match rule unchanged."""
    defect_key: str | None = None
    defect_url: str | None = None
    cleared: tuple[Clearable, ...] = ()

    def decide(self, issue: KnownIssue | None) -> Iterable[Event]:
        issue = must_exist(issue, f"known issue {self.known_issue_id}")
        kind, value = self.match or (None, None)
        if kind == "pattern" and value is not None and value != issue.value:
            must_be_a_pattern("pattern", value)
        yield from self.update(KnownIssueUpdated, issue, project_id=issue.project_id, kind=kind, value=value)


@dataclass(frozen=True)
class DeleteKnownIssue(Command, of=KNOWN_ISSUE):
    known_issue_id: int

    def decide(self, issue: KnownIssue | None) -> Iterable[Event]:
        if issue is None:
            raise NotFound(f"There is no known issue {self.known_issue_id}.")
        if not issue.deleted:
            yield self.event(KnownIssueDeleted, issue)


@dataclass(frozen=True)
class NoteSearch(Command, of=KNOWN_ISSUE):
    """Records which older failures a search has found for a known issue. The search went from the newest result down to
    the result with the id `down_to`.

    Records nothing if the known issue has changed since the search began, or if another search has already gone as far
    down.
    """

    known_issue_id: int
    edition: int
    down_to: int
    found: Sequence[tuple[int, int]]
    """Result id and job id of each match."""

    def decide(self, issue: KnownIssue | None) -> Iterable[Event]:
        if issue is None or issue.deleted or issue.edition != self.edition:
            return
        edition, down_to = issue.searched
        if edition == self.edition and down_to <= self.down_to:
            return
        yield self.event(
            KnownIssueSearched,
            issue,
            result_ids=[result_id for result_id, _ in self.found],
            job_ids=[job_id for _, job_id in self.found],
        )
