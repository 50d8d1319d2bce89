"""Statistics of how people have classified failures: how certain they are, and when they count."""

import pytest

from commands.reports.matching import MatchRules
from commands.reports.reading import Match, ReportRead
from domain.classification_rules import ClassificationRule, to_match_rules
from domain.classification_statistics import CONSIDERED, MIN_CONFIDENCE, estimate
from domain.known_issues import MatchRule
from domain.results import FAILED, ResultText
from domain.triage import Classification


@pytest.mark.parametrize(
    ("words", "estimated"),
    [
        ([], None),
        (["infra"], None),
        (["infra", "infra"], ("infra", 75)),
        (["infra", "flaky"], None),
        (["infra", "infra", "flaky"], None),
        (["infra"] * 5 + ["flaky"], ("infra", 75)),
        (["infra"] * 18, ("infra", 95)),
    ],
)
def test_confidence_is_that_of_the_rule_of_succession(words: list[Classification], estimated: object) -> None:
    assert estimate(words) == estimated


def test_the_last_words_count() -> None:
    earlier: list[Classification] = ["infra"]
    later: list[Classification] = ["flaky"]
    assert estimate(earlier * 1_000 + later * CONSIDERED) == ("flaky", 98)
    assert MIN_CONFIDENCE == 75


def test_statistics_come_last() -> None:
    statistic = MatchRule(0, "flaky", "signature", "s1", confidence=80)
    report = ReportRead(statuses=bytearray([FAILED]), texts=[ResultText(0, "Error", "", "f1", "s1")])
    assert MatchRules([statistic]).find_matches(report) == [Match(0, 0, "flaky", confidence=80)]
    (rule,) = to_match_rules(1, [ClassificationRule("Errors", "infra", "Error")])
    (by_rule,) = MatchRules([statistic, rule]).find_matches(report)
    assert (by_rule.classification, by_rule.rule, by_rule.confidence) == ("infra", 1, 100)
    issue = MatchRule(9, "no_defect", "signature", "s1")
    (by_issue,) = MatchRules([statistic, rule, issue]).find_matches(report)
    assert (by_issue.classification, by_issue.known_issue_id, by_issue.confidence) == ("no_defect", 9, 100)
