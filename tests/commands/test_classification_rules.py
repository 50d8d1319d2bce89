"""Classification rules: their versions, and which rule matches first."""

import pytest

from commands.classification_rules import SetClassificationRules
from commands.reports.matching import MatchRules
from commands.reports.reading import Match, ReportRead
from domain.classification_rules import (
    CLASSIFICATION_RULES,
    ClassificationRule,
    ClassificationRules,
    ClassificationRulesSet,
    to_match_rules,
)
from domain.core.errors import Conflict, NotFound
from domain.known_issues import MatchRule
from domain.projects import ProjectCreated
from domain.results import FAILED, ResultText
from domain.triage import ResultsClassifiedByRules, RuleClassification
from tests.support.spec import given

NETWORK = ClassificationRule("Network", "infra", "refused")
ANY = ClassificationRule("Errors", "test_bug", "Error")
PROJECT = ProjectCreated(project_id=1, title="Shop", slug="shop")


def find(message: str, *rules: MatchRule) -> Match | None:
    report = ReportRead(statuses=bytearray([FAILED]), texts=[ResultText(0, message, "trace", "f1", "s1")])
    found = MatchRules(rules).find_matches(report)
    return found[0] if found else None


def test_a_change_makes_a_version() -> None:
    first = ClassificationRulesSet(project_id=1, version=1, rules=[NETWORK])
    given(PROJECT).when(SetClassificationRules(1, [NETWORK])).then(first)
    given(PROJECT, first).when(SetClassificationRules(1, [NETWORK])).then_nothing()
    second = ClassificationRulesSet(project_id=1, version=2, rules=[ANY, NETWORK])
    given(PROJECT, first).when(SetClassificationRules(1, [ANY, NETWORK], based_on=1)).then(second)
    with pytest.raises(Conflict):
        given(PROJECT, first, second).when(SetClassificationRules(1, [], based_on=1))
    with pytest.raises(NotFound):
        given().when(SetClassificationRules(1, [NETWORK]))
    assert CLASSIFICATION_RULES.evolve(ClassificationRules(), second) == ClassificationRules(2, (ANY, NETWORK))


def test_the_first_rule_of_the_list_matches() -> None:
    rules = to_match_rules(7, [NETWORK, ANY])
    assert find("Error: refused", *rules[::-1]) == Match(0, 0, "infra", 1, 7, 7, 14)
    assert find("Error: x", *rules) == Match(0, 0, "test_bug", 2, 7, 0, 5)
    assert find("all is lost", *rules) is None


@pytest.mark.parametrize(("kind", "value"), [("pattern", "Err"), ("signature", "s1"), ("fail_id", "f1")])
def test_known_issues_come_before_rules(kind: str, value: str) -> None:
    issue = MatchRule(9, "flaky", kind, value)  # type: ignore[arg-type]
    found = find("Error: refused", *to_match_rules(7, [NETWORK, ANY]), issue)
    assert found is not None
    assert (found.known_issue_id, found.classification, found.rule, found.version) == (9, "flaky", 0, 0)
    assert (found.start, found.end) == ((0, 3) if kind == "pattern" else (0, 0))


def test_older_events_name_known_issues_alone() -> None:
    older = ResultsClassifiedByRules(
        build_id=7, job_id=5, project_id=1, result_ids=[700, 701], known_issue_ids=[17, 9], classifications=b"\2\0"
    )
    assert list(older.rows) == [
        RuleClassification(700, 17, 2, 0, 0, 0, 0, 100),
        RuleClassification(701, 9, 0, 0, 0, 0, 0, 100),
    ]
