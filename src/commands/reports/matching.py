"""Matches the failures of a report with known issues and classification rules. Matching blocks, so it should run in a
process that reads reports, or in a worker thread.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from commands.reports.patterns import MAX_MEMORY, MEMORY, Pattern, any_of, searchable
from commands.reports.reading import Match, ReportRead
from domain.known_issues import Kind, MatchRule
from domain.results import FAILED


class MatchRules:
    """Match rules, prepared for matching many failures.

    If several rules match a failure, a rule by fail_id wins over one by signature, and a rule by signature over one by
    pattern. Among rules of one kind, a rule of a known issue wins over a classification rule. Of several known issues
    the oldest wins, and of several classification rules the first in their list. The statistics of how people have
    classified failures come last.
    """

    def __init__(self, rules: Iterable[MatchRule]) -> None:
        self._exact: dict[tuple[Kind, str], MatchRule] = {}
        self._statistics: dict[str, MatchRule] = {}
        """Signature -> rule with the classification that people have mostly given to failures of this signature."""
        self._patterns: list[tuple[Pattern, MatchRule]] = []
        for rule in sorted(rules, key=lambda rule: (rule.rule, rule.known_issue_id)):
            if rule.is_statistical:
                self._statistics[rule.value] = rule
                continue
            if rule.kind != "pattern":
                self._exact.setdefault((rule.kind, rule.value), rule)
                continue
            # The pattern was valid when it was stored. Reports must be recorded even if a newer RE2 rejects it.
            for memory in (MEMORY, MAX_MEMORY):
                with suppress(ValueError):
                    self._patterns.append((Pattern(rule.value, memory), rule))
                    break
        # Most failures match no pattern, and one search for all patterns at once shows that. With 50 patterns and
        # 100,000 failures of 600 characters it takes 0.9 s instead of 23 s.
        self._any = any_of([rule.value for _, rule in self._patterns])

    def find_matches(self, report: ReportRead) -> list[Match]:
        """Returns the matches of the report's failures, ordered by row. Searches each distinct text only once."""
        if not (self._exact or self._patterns or self._statistics):
            return []
        found: list[Match] = []
        searched: dict[bytes, _RuleMatch | None] = {}
        for text in report.texts:
            if report.statuses[text.row] != FAILED:
                continue
            exact = self._exact.get(("fail_id", text.fail_id)) or self._exact.get(("signature", text.signature))
            match = None if exact is None else _RuleMatch(exact)
            if match is None and self._patterns:
                content = searchable(text.message, text.trace)
                if content not in searched:
                    searched[content] = self._find_by_pattern(content)
                match = searched[content]
            if match is None and (statistic := self._statistics.get(text.signature)) is not None:
                match = _RuleMatch(statistic)
            if match is not None:
                rule, span = match
                found.append(
                    Match(
                        text.row,
                        rule.known_issue_id,
                        rule.classification,
                        rule.rule,
                        rule.version,
                        *span,
                        rule.confidence,
                    )
                )
        return found

    def _find_by_pattern(self, content: bytes) -> "_RuleMatch | None":
        if self._any is not None and not self._any.matches(content):
            return None
        for pattern, rule in self._patterns:
            if (span := pattern.find(content)) is not None:
                return _RuleMatch(rule, span)
        return None


class _RuleMatch(NamedTuple):
    rule: MatchRule
    span: tuple[int, int] = (0, 0)
