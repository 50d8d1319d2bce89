"""What-if rules: known issues and quarantines for `commands.what_if.simulation`.

Rules are read from JSON, in a file or a request:

    {"known_issues": [{"title": "DNS", "classification": "infra", "pattern": "Name or service not known"}],
     "quarantine": [{"job_id": 55, "node_ids": ["t/test_x.py::test_a"], "from": "2026-05-01T00:00:00Z"}]}
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from commands.reports.patterns import MAX_PATTERN, must_be_a_pattern
from commands.validation import convert_body
from commands.value_checks import described_as
from domain.core.errors import Invalid
from domain.known_issues import MAX_FAIL_ID, Kind, MatchRule
from domain.triage import Classification

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 50
MAX_RULES = 10_000
FIRST_ID = 2**53
"""First id for the known issues of what-if rules. It is greater than all ids of real known issues."""

KINDS: tuple[Kind, ...] = get_args(Kind)

Id = Annotated[int, Meta(ge=1, le=2**53)]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_FAIL_ID)]
Time = Annotated[datetime, Meta(tz=True)]


class WhatIfIssue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """A known issue that exists only in a simulation. It has exactly one of `pattern`, `signature` and `fail_id`.

    It classifies failures that were recorded at the time `from` or later, and before `until`. Without these two fields
    it classifies failures of any time.
    """

    title: Annotated[str, Meta(min_length=1, max_length=200)]
    classification: Classification
    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN), described_as(format="re2")] | None = None
    signature: Text | None = None
    fail_id: Text | None = None
    project_id: Id | None = None
    """Id of the project whose failures the known issue classifies; null for every project that is simulated."""
    since: Time | None = None
    """Failures that were recorded before this time are not classified."""
    until: Time | None = None
    """Failures that were recorded at this time or later are not classified."""

    @property
    def match(self) -> tuple[Kind, str]:
        return next((kind, value) for kind in KINDS if (value := getattr(self, kind)) is not None)

    def applies(self, at: datetime, project_id: int) -> bool:
        return self.project_id in (None, project_id) and _within(at, self.since, self.until)


class WhatIfQuarantine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """Tests of a job that were in quarantine from `from` until `until`."""

    job_id: Id
    node_ids: Annotated[list[Annotated[str, Meta(min_length=1, max_length=4_096)]], Meta(max_length=MAX_RULES)]
    since: Time | None = None
    """Time at which the tests were put into quarantine; null for tests that were in quarantine from the beginning."""
    until: Time | None = None
    """Time at which the tests were taken out of quarantine; null for tests that are still in quarantine."""

    def applies(self, at: datetime, job_id: int) -> bool:
        return self.job_id == job_id and _within(at, self.since, self.until)


class WhatIfRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"additive": "besides"}):
    """Known issues and quarantine entries for a simulation. A list that is given replaces all real rules of its kind,
    or is added to them if `besides` is true. If no list is given for a kind, the real rules of this kind stay.
    """

    known_issues: Annotated[list[WhatIfIssue], Meta(max_length=MAX_RULES)] | None = None
    """Known issues that replace the real ones or are added to them."""
    quarantine: Annotated[list[WhatIfQuarantine], Meta(max_length=MAX_RULES)] | None = None
    """Quarantine entries that replace the real ones or are added to them."""
    additive: bool = False
    """Whether the rules are added to the real ones instead of replacing them."""

    def check(self) -> None:
        """Raises Invalid, with the name of the field, if a rule is not valid."""
        if self.known_issues is None and self.quarantine is None:
            raise Invalid.field("known_issues", "is required, or `quarantine` is: suppose at least one of them")
        for number, issue in enumerate(self.known_issues or ()):
            field = f"known_issues[{number}]"
            if sum(getattr(issue, kind) is not None for kind in KINDS) != 1:
                raise Invalid.field(field, "must have exactly one of pattern, signature, fail_id")
            if issue.pattern is not None:
                must_be_a_pattern(f"{field}.pattern", issue.pattern)
            _must_be_a_period(field, issue.since, issue.until)
        for number, entry in enumerate(self.quarantine or ()):
            _must_be_a_period(f"quarantine[{number}]", entry.since, entry.until)

    def issue_rules(self, at: datetime, project_id: int) -> Iterable[MatchRule]:
        for number, issue in enumerate(self.known_issues or ()):
            if issue.applies(at, project_id):
                yield MatchRule(FIRST_ID + number, issue.classification, *issue.match)

    def quarantined(self, at: datetime, job_id: int) -> Iterable[str]:
        return (node_id for entry in self.quarantine or () if entry.applies(at, job_id) for node_id in entry.node_ids)


def read_rules(content: bytes) -> WhatIfRules:
    """Returns the what-if rules in a JSON document. Raises Invalid if the document is too large, is no valid JSON, or
    contains a rule that is not valid.
    """
    if len(content) > MAX_BYTES:
        raise Invalid(f"The rules have {len(content):,} bytes; at most {MAX_BYTES:,} are read.")
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"The rules are no JSON: {error}.") from None
    if _is_deeper(MAX_DEPTH, value):
        raise Invalid(f"The rules are nested more than {MAX_DEPTH} levels deep.")
    if not isinstance(value, dict):
        raise Invalid.field("rules", "must be an object")
    rules: WhatIfRules = convert_body(value, WhatIfRules)
    rules.check()
    return rules


def _within(at: datetime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or since <= at) and (until is None or at < until)


def _must_be_a_period(field: str, since: datetime | None, until: datetime | None) -> None:
    if since is not None and until is not None and until <= since:
        raise Invalid.field(f"{field}.until", "must be later than `from`")


def _is_deeper(levels: int, value: Any) -> bool:
    if levels < 0:
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_is_deeper(levels - 1, item) for item in items if isinstance(item, dict | list))
