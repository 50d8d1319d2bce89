"""Pipeline templates as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import templates
from domain.core.events import Event
from domain.jobs import Configuration
from domain.templates import TemplateCreated, TemplateDeleted, TemplateUpdated
from projections.templates import PROJECTION, TemplateRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
CONFIGURATION = Configuration(setup=["npm ci"], env={"A": "1"}, artifacts=["*.xml"], secrets={"Z": b"z", "B": b"b"})
CREATED = TemplateCreated(at=NOW, template_id=3, creator_id=1, title="Jest", configuration=CONFIGURATION)


def test_only_the_names_of_secrets_are_rows() -> None:
    row = given(CREATED).when(PROJECTION).one(TemplateRow)
    assert row == TemplateRow(3, "Jest", "", ["npm ci"], "", {"A": "1"}, ["*.xml"], ["B", "Z"], 1, NOW, NOW)


def test_a_template_changes() -> None:
    update = TemplateUpdated(at=LATER, template_id=3, description="d", configuration=Configuration(command="x"))
    row = given(CREATED, update).when(PROJECTION).one(TemplateRow)
    assert row == TemplateRow(3, "Jest", "d", [], "x", {}, [], [], 1, NOW, LATER)


def test_a_deleted_template_leaves_no_row() -> None:
    assert given(CREATED, TemplateDeleted(template_id=3)).when(PROJECTION).all(TemplateRow) == []


@hypothesis.given(histories(*templates.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
