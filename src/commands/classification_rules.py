"""Replaces the classification rules of a project."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from commands.reports.patterns import must_be_a_pattern
from domain.classification_rules import (
    CLASSIFICATION_RULES,
    MAX_RULES,
    ClassificationRule,
    ClassificationRules,
    ClassificationRulesSet,
)
from domain.core.errors import Conflict, Invalid
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project


@dataclass(frozen=True)
class SetClassificationRules(Command):
    """Replaces the rules. With `based_on`, raises Conflict if the rules have another version by now."""

    project_id: int
    rules: Sequence[ClassificationRule]
    based_on: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return CLASSIFICATION_RULES.at(self.project_id), PROJECT.at(self.project_id)

    def decide(self, before: ClassificationRules, project: Project | None) -> Iterable[Event]:
        must_exist(project, f"project {self.project_id}")
        if self.based_on is not None and self.based_on != before.version:
            raise Conflict(
                f"The rules of project {self.project_id} have version {before.version} by now, not {self.based_on}:"
                " read them again, and repeat your change."
            )
        check_rules(self.rules)
        if tuple(self.rules) != before.rules:
            yield ClassificationRulesSet(project_id=self.project_id, version=before.version + 1, rules=list(self.rules))


def check_rules(rules: Sequence[ClassificationRule]) -> None:
    """Raises Invalid, with the name of the field, for too many rules and for a pattern that RE2 does not take."""
    if len(rules) > MAX_RULES:
        raise Invalid.field("rules", f"must have at most {MAX_RULES} rules")
    for number, rule in enumerate(rules):
        must_be_a_pattern(f"rules[{number}].pattern", rule.pattern)
