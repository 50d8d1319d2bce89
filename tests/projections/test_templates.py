"""Pipeline templates as rows."""

from datetime import UTC, datetime

from hypothesis import given

from domain import templates
from domain.core.events import Event
from domain.jobs import Configuration
from domain.templates import TemplateCreated, TemplateDeleted, TemplateUpdated
from projections.templates import PROJECTION, TemplateRow
from tests.support.given import histories
from tests.support.memory_rows import MemoryRows

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
CONFIGURATION = Configuration(setup=["npm ci"], env={"A": "1"}, artifacts=["*.xml"], secrets={"Z": b"z", "B": b"b"})
CREATED = TemplateCreated(at=NOW, template_id=3, creator_id=1, title="Jest", configuration=CONFIGURATION)


def test_only_the_names_of_secrets_are_rows() -> None:
    row = MemoryRows(PROJECTION).apply(CREATED).one(TemplateRow)
    assert row == TemplateRow(3, "Jest", "", ["npm ci"], "", {"A": "1"}, ["*.xml"], ["B", "Z"], 1, NOW, NOW)


def test_a_template_changes() -> None:
    update = TemplateUpdated(at=LATER, template_id=3, description="d", configuration=Configuration(command="x"))
    row = MemoryRows(PROJECTION).apply(CREATED, update).one(TemplateRow)
    assert row == TemplateRow(3, "Jest", "d", [], "x", {}, [], [], 1, NOW, LATER)


def test_a_deleted_template_leaves_no_row() -> None:
    assert MemoryRows(PROJECTION).apply(CREATED, TemplateDeleted(template_id=3)).all(TemplateRow) == []


@given(histories(*templates.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    MemoryRows(PROJECTION).apply(*history)
