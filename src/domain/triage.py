"""Triage: who or what says why a result failed. Users, rules, AI and statistics classify failed results.

    source        may override classifications by
    user          user, rule, ai, statistics
    rule          rule, ai, statistics
    ai            ai, statistics
    statistics

Rules and statistics classify results while their report is recorded, before anybody can see the results. So one event
in the results stream contains all these classifications of a report.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple, get_args

import msgspec

from domain.core.data_keys import build_key
from domain.core.events import Category, Event
from domain.results import results_stream

Classification = Literal["product_bug", "infra", "flaky", "test_bug", "no_defect"]
Source = Literal["user", "rule", "ai", "statistics"]

CERTAIN = 100
"""Confidence, in percent, of known issues and rules: they match or do not match."""
CLASSIFICATIONS: tuple[Classification, ...] = get_args(Classification)
WEIGHT: dict[Source | None, int] = {None: 0, "statistics": 1, "ai": 2, "rule": 3, "user": 4}


class ResultsClassifiedByRules(Event, frozen=True):
    """Known issues, classification rules or statistics classified failures of a report. The columns have one item for
    each of these failures. Older events lack the columns after `classifications`. In them, known issues classified all
    failures, and it is not known which part of the text matched.
    """

    name: ClassVar[str] = "results.classified_by_rules"
    build_id: int
    job_id: int
    project_id: int
    result_ids: list[int]
    known_issue_ids: list[int]
    """Ids of the known issues that matched; 0 where a classification rule or the statistics classified the failure."""
    classifications: bytes
    """One byte a row: the index in CLASSIFICATIONS."""
    rules: list[int] = []
    """Numbers of the classification rules in their list, from 1; 0 where no classification rule classified the failure.
    """
    rules_version: int = 0
    """Version of the list of classification rules; 0 if no classification rule matched."""
    starts: list[int] = []
    ends: list[int] = []
    """End of the part of the failure's text that the pattern matched. The text is message, line break and trace in
    UTF-8. Beginning and end are 0 where a signature or a fail_id matched.
    """
    confidences: bytes = b""
    """One byte a row: the confidence in percent. Empty if it is 100 for all, since known issues and rules decided."""

    @property
    def stream(self) -> str:
        return results_stream(self.build_id)

    @property
    def rows(self) -> Iterator["RuleClassification"]:
        """Yields the classified failures. Columns that an older event lacks have their defaults."""
        none = [0] * len(self.result_ids)
        certain = self.confidences or bytes([CERTAIN]) * len(self.result_ids)
        columns = (self.rules or none, self.starts or none, self.ends or none, certain)
        known = zip(self.result_ids, self.known_issue_ids, self.classifications, *columns, strict=False)
        for result_id, known_issue_id, classification, rule, start, end, confidence in known:
            version = self.rules_version if rule else 0
            yield RuleClassification(result_id, known_issue_id, classification, rule, version, start, end, confidence)


class RuleClassification(NamedTuple):
    """The classification of one failure: one row of a `ResultsClassifiedByRules`."""

    result_id: int
    known_issue_id: int
    classification: int
    rule: int
    rules_version: int
    start: int
    end: int
    confidence: int

    @property
    def is_statistical(self) -> bool:
        return not self.known_issue_id and not self.rule


class ResultEvent(Event, frozen=True):
    """Base of the events about one result. Fields whose names begin with `replaced` contain the values before the
    event.
    """

    result_id: int
    build_id: int
    job_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"result-{self.result_id}"

    @property
    def data_key(self) -> str | None:
        return build_key(self.project_id, self.job_id, self.build_id)


class ResultClassified(ResultEvent, frozen=True):
    name: ClassVar[str] = "result.classified"
    sealed: ClassVar[tuple[str, ...]] = ("signature",)
    classification: Classification
    set_by_kind: Source
    set_by: int | None = None
    """The id of the user; None for other sources."""
    replaced: Classification | None = None
    replaced_kind: Source | None = None
    signature: str = ""
    """Signature of the failure; empty in older events. Later failures with this signature may be classified as people
    have mostly classified the earlier ones.
    """


class DefectLinked(ResultEvent, frozen=True):
    name: ClassVar[str] = "result.defect_linked"
    sealed: ClassVar[tuple[str, ...]] = ("defect_key", "defect_url", "replaced_key", "replaced_url")
    defect_key: str = ""
    defect_url: str = ""
    set_by: int | None = None
    replaced_key: str = ""
    replaced_url: str = ""


class ResolutionSet(ResultEvent, frozen=True):
    name: ClassVar[str] = "result.resolution_set"
    sealed: ClassVar[tuple[str, ...]] = ("resolution", "replaced")
    resolution: str = ""
    set_by: int | None = None
    replaced: str = ""


class KnownIssueLinked(ResultEvent, frozen=True):
    """A user linked a known issue to a result. The result gets the issue's classification as if that user had chosen
    it. But a classification that a user chose directly stays.
    """

    name: ClassVar[str] = "result.known_issue_linked"
    known_issue_id: int
    classification: Classification
    set_by: int | None = None
    replaced: int | None = None


class Triage(msgspec.Struct, frozen=True):
    """Triage of one result: what users and language models set. Does not include classifications of
    `ResultsClassifiedByRules`.
    """

    classification: Classification | None = None
    set_by_kind: Source | None = None
    set_by: int | None = None
    defect_key: str = ""
    defect_url: str = ""
    resolution: str = ""
    resolution_by: int | None = None
    known_issue_id: int | None = None
    is_by_link: bool = False
    """Whether the classification comes from a known issue that a user linked. Such a classification is replaced when a
    user links another known issue.
    """


def evolve(state: Triage, event: Event) -> Triage:
    match event:
        case ResultClassified():
            return msgspec.structs.replace(
                state,
                classification=event.classification,
                set_by_kind=event.set_by_kind,
                set_by=event.set_by,
                is_by_link=False,
            )
        case DefectLinked():
            return msgspec.structs.replace(state, defect_key=event.defect_key, defect_url=event.defect_url)
        case ResolutionSet():
            return msgspec.structs.replace(state, resolution=event.resolution, resolution_by=event.set_by)
        case KnownIssueLinked():
            linked = msgspec.structs.replace(state, known_issue_id=event.known_issue_id)
            if state.set_by_kind == "user" and not state.is_by_link:
                return linked
            return msgspec.structs.replace(
                linked,
                classification=event.classification,
                set_by_kind="user",
                set_by=event.set_by,
                is_by_link=True,
            )
        case _:
            return state


TRIAGE = Category("result", Triage(), evolve)
EVENTS = (ResultsClassifiedByRules, ResultClassified, DefectLinked, ResolutionSet, KnownIssueLinked)
