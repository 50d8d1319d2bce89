"""Classification rules of a project: an ordered list of patterns, each with a classification.

If no known issue matches a new failure, the first rule of the list whose pattern matches classifies it. Each change
replaces the whole list and makes a new version of it. Classifications name the version and the number of the rule, so
that one can look up later which pattern decided.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from domain.core.data_keys import project_key
from domain.core.events import Category, Event
from domain.known_issues import MatchRule
from domain.triage import Classification

MAX_RULES = 200
"""Largest number of rules of a project: the server searches every new failure for all of these patterns."""


class ClassificationRule(msgspec.Struct, frozen=True):
    """Rule that classifies failures whose message or trace matches a pattern."""

    # Events contain this type: a limit may be raised, never lowered, or stored events could not be read any more.
    title: Annotated[str, Meta(min_length=1, max_length=200)]
    classification: Classification
    pattern: Annotated[str, Meta(min_length=1, max_length=1_000, extra_json_schema={"format": "re2"})]
    """Regular expression (RE2). The first 64 KiB of message and trace are searched for it."""


class ClassificationRulesSet(Event, frozen=True):
    """A user replaced the rules of a project. Rule n of the list has the number n, from 1."""

    name: ClassVar[str] = "classification_rules.set"
    sealed: ClassVar[tuple[str, ...]] = ("rules",)
    project_id: int
    version: int
    rules: list[ClassificationRule] = []

    @property
    def stream(self) -> str:
        return f"classification_rules-{self.project_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class ClassificationRules(msgspec.Struct, frozen=True):
    """The rules of a project. `version` is 0 until a user has set some."""

    version: int = 0
    rules: tuple[ClassificationRule, ...] = ()

    @property
    def match_rules(self) -> list[MatchRule]:
        return to_match_rules(self.version, self.rules)


def to_match_rules(version: int, rules: Iterable[ClassificationRule]) -> list[MatchRule]:
    return [
        MatchRule(0, rule.classification, "pattern", rule.pattern, number, version)
        for number, rule in enumerate(rules, 1)
    ]


def evolve(state: ClassificationRules, event: Event) -> ClassificationRules:
    if not isinstance(event, ClassificationRulesSet):
        return state
    return ClassificationRules(event.version, tuple(event.rules))


CLASSIFICATION_RULES = Category("classification_rules", ClassificationRules(), evolve)
EVENTS = (ClassificationRulesSet,)
