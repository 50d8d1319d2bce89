"""Known issues at work: which of a report's failures they match. Blocks; meant for a worker thread."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from commands.reports.columns import ReportRead
from commands.reports.patterns import Pattern, any_of, searchable
from domain.known_issues import Kind
from domain.results import FAILED
from domain.triage import Classification


class Rule(msgspec.Struct, frozen=True):
    known_issue_id: int
    classification: Classification
    kind: Kind
    value: str


@dataclass(frozen=True)
class Match:
    """`row` of a report is the known issue."""

    row: int
    known_issue_id: int
    classification: Classification


class Rules:
    """A fail_id says most, then a signature, then a pattern; of equals the older known issue."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[tuple[Kind, str], Rule] = {}
        self._patterns: list[tuple[Pattern, Rule]] = []
        for rule in sorted(rules, key=lambda rule: rule.known_issue_id):
            if rule.kind != "pattern":
                self._exact.setdefault((rule.kind, rule.value), rule)
                continue
            # It was one when it was stored; should another version of RE2 refuse it, no report may suffer.
            with suppress(ValueError):
                self._patterns.append((Pattern(rule.value), rule))
        # Most failures match none: one search says so, however many patterns there are. Measured with 50 of them and
        # 100,000 failures of 600 characters: 23 s one by one, 0.9 s with it.
        self._any = any_of([rule.value for _, rule in self._patterns])

    def matches(self, report: ReportRead) -> Sequence[Match]:
        """Of the failures, by row. A text that comes again is not searched again."""
        if not (self._exact or self._patterns):
            return []
        found: list[Match] = []
        searched: dict[bytes, Rule | None] = {}
        for text in report.texts:
            if report.statuses[text.row] != FAILED:
                continue
            rule = self._exact.get(("fail_id", text.fail_id)) or self._exact.get(("signature", text.signature))
            if rule is None and self._patterns:
                said = searchable(text.message, text.trace)
                if said not in searched:
                    searched[said] = self._by_pattern(said)
                rule = searched[said]
            if rule is not None:
                found.append(Match(text.row, rule.known_issue_id, rule.classification))
        return found

    def _by_pattern(self, said: bytes) -> Rule | None:
        if self._any is not None and not self._any.matches(said):
            return None
        return next((rule for pattern, rule in self._patterns if pattern.matches(said)), None)
