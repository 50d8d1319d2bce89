"""Statistics of how people have classified failures: how certain they are, and when they count."""

import pytest

from commands.reports.matching import MatchRules
from commands.reports.reading import Match, ReportRead
from domain.classification_rules import ClassificationRule, to_match_rules
from domain.classification_statistics import (
    CONSIDERED,
    MAX_SIGNATURES,
    MIN_CONFIDENCE,
    ClassificationStatistics,
    estimate,
)
from domain.known_issues import MatchRule
from domain.results import FAILED, ResultText
from domain.triage import Classification, ResultClassified, Source


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
    statistics = ClassificationStatistics()
    for result in range(1_000):
        note(statistics, "s1", result, "infra")
    for result in range(1_000, 1_000 + CONSIDERED):
        note(statistics, "s1", result, "flaky", build=8)
    assert list(statistics.estimate_all()) == [("s1", "flaky", 98)]
    assert MIN_CONFIDENCE == 75
    statistics.forget_build(8)
    assert list(statistics.estimate_all()) == []


def test_only_people_teach_the_statistics_and_only_about_signatures() -> None:
    statistics = ClassificationStatistics()
    for result in range(4):
        note(statistics, "s1", result, "infra", by="ai")
        note(statistics, "", result, "infra")
    assert list(statistics.estimate_all()) == []


def test_the_signatures_classified_last_are_kept() -> None:
    statistics = ClassificationStatistics()
    for number in range(MAX_SIGNATURES + 2):
        for result in (2 * number, 2 * number + 1):
            note(statistics, f"s{number}", result, "infra", build=number)
        note(statistics, "s0", 0, "infra", build=0)
    found = [signature for signature, _, _ in statistics.estimate_all()]
    assert (len(found), found[-1]) == (MAX_SIGNATURES, "s0")
    assert {"s1", "s2"}.isdisjoint(found)
    for number in range(10, MAX_SIGNATURES + 2):
        statistics.forget_build(number)
    statistics.forget_build(1)
    found = [signature for signature, _, _ in statistics.estimate_all()]
    assert found == [*(f"s{number}" for number in range(3, 10)), "s0"]
    statistics.forget_job(5)
    assert list(statistics.estimate_all()) == []


def note(
    statistics: ClassificationStatistics,
    signature: str,
    result: int,
    given: Classification,
    build: int = 7,
    by: Source = "user",
) -> None:
    statistics.note(
        ResultClassified(
            result_id=result,
            build_id=build,
            job_id=5,
            project_id=1,
            classification=given,
            set_by_kind=by,
            signature=signature,
        )
    )


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
