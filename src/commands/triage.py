"""Commands on failed results: classify, link a defect or a known issue, set a resolution."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from commands.handler import Command
from domain.builds import BUILD, AnyBuild, DeletedBuild
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job
from domain.known_issues import KNOWN_ISSUE, MAX_FAIL_ID, KnownIssue, KnownIssueFailureAdded
from domain.triage import (
    TRIAGE,
    WEIGHT,
    Classification,
    DefectLinked,
    KnownIssueLinked,
    ResolutionSet,
    ResultClassified,
    Source,
    Triage,
)

MAX_TAUGHT = 1_000
"""Largest number of fail_ids, and of signatures, that linked results add to one known issue. To match more, the issue
needs a pattern.
"""


class TriagedResult(msgspec.Struct, frozen=True):
    """A result as it was recorded. A recorded result never changes, so the caller may read it from the read model."""

    result_id: int
    build_id: int
    job_id: int
    project_id: int
    status: str
    fail_id: str = ""
    signature: str = ""
    by_rule: Classification | None = None
    rule: int | None = None
    """Id of the known issue whose rule classified the result when it was recorded."""
    by_statistics: bool = False
    """Whether `by_rule` comes from statistics."""


@dataclass(frozen=True)
class _OfResult(Command):
    result: TriagedResult

    def reads(self) -> Sequence[AnyStream]:
        """Returns the streams of the result's triage, its build and its job. Deleting the build or the job deletes the
        triage as well.
        """
        result = self.result
        return TRIAGE.at(result.result_id), BUILD.at(result.build_id), JOB.at(result.job_id)

    def must_be_a_failure(self, build: AnyBuild | None, job: Job | None, what: str) -> None:
        """Raises NotFound if the result's build or job was deleted, and Conflict if the result is no failure. The
        message of the Conflict ends with `what`: "only a failed one `what`".
        """
        result = self.result
        if build is None or isinstance(build, DeletedBuild) or job is None or job.deleted:
            raise NotFound(f"There is no test result {result.result_id}.")
        if result.status != "failed":
            raise Conflict(f"Test result {result.result_id} is {result.status}; only a failed one {what}.")


@dataclass(frozen=True)
class ClassifyResult(_OfResult):
    """Classifies a failed result. Does nothing if a source with more weight has already classified it."""

    classification: Classification
    set_by_kind: Source = "user"
    set_by: int | None = None

    def decide(self, triage: Triage, build: AnyBuild | None, job: Job | None) -> Iterable[Event]:
        self.must_be_a_failure(build, job, "can be classified")
        before, kind, by = triage.classification, triage.set_by_kind, triage.set_by
        if before is None and self.result.by_rule is not None:
            before, kind, by = self.result.by_rule, "statistics" if self.result.by_statistics else "rule", None
        if WEIGHT[self.set_by_kind] < WEIGHT[kind]:
            return
        if triage.is_by_link or (before, kind, by) != (self.classification, self.set_by_kind, self.set_by):
            yield self.event(ResultClassified, self.result, replaced=before, replaced_kind=kind)


@dataclass(frozen=True)
class LinkDefect(_OfResult):
    defect_key: str
    defect_url: str
    set_by: int | None = None

    def decide(self, triage: Triage, build: AnyBuild | None, job: Job | None) -> Iterable[Event]:
        self.must_be_a_failure(build, job, "can be linked to a defect")
        if (triage.defect_key, triage.defect_url) != (self.defect_key, self.defect_url):
            replaced = {"replaced_key": triage.defect_key, "replaced_url": triage.defect_url}
            yield self.event(DefectLinked, self.result, **replaced)


@dataclass(frozen=True)
class SetResolution(_OfResult):
    resolution: str
    set_by: int | None = None

    def decide(self, triage: Triage, build: AnyBuild | None, job: Job | None) -> Iterable[Event]:
        self.must_be_a_failure(build, job, "can be resolved")
        if (triage.resolution, triage.resolution_by) != (self.resolution, self.set_by):
            yield self.event(ResolutionSet, self.result, replaced=triage.resolution)


@dataclass(frozen=True)
class LinkKnownIssue(_OfResult):
    """Links a result to a known issue. From then on, the known issue also matches failures with the fail_id or
    signature of this result.
    """

    known_issue_id: int
    set_by: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return *super().reads(), KNOWN_ISSUE.at(self.known_issue_id)

    def decide(
        self, triage: Triage, build: AnyBuild | None, job: Job | None, issue: KnownIssue | None
    ) -> Iterable[Event]:
        result = self.result
        self.must_be_a_failure(build, job, "can be linked to a known issue")
        # An issue of another project gets the same answer as an unknown one: callers may not learn that it exists.
        if issue is None or issue.deleted or issue.project_id != result.project_id:
            raise NotFound(f"There is no known issue {self.known_issue_id}.")
        if triage.known_issue_id != self.known_issue_id:
            replaced = result.rule if triage.known_issue_id is None else triage.known_issue_id
            yield self.event(KnownIssueLinked, issue, result, replaced=replaced)
        fail_id = result.fail_id if len(result.fail_id) <= MAX_FAIL_ID else ""
        taught: dict[str, Any] = {
            "fail_id": "" if issue.knows("fail_id", fail_id) else fail_id,
            "signature": "" if issue.knows("signature", result.signature) else result.signature,
        }
        if any(taught.values()):
            if max(len(issue.fail_ids), len(issue.signatures)) >= MAX_TAUGHT:
                raise Conflict(
                    f"Known issue {self.known_issue_id} has learnt {MAX_TAUGHT:,} failures already;"
                    f" give it a pattern by PUT /api/v3/known-issues/{self.known_issue_id}."
                )
            yield self.event(KnownIssueFailureAdded, issue, result_id=result.result_id, **taught)
