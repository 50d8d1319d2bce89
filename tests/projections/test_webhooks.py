"""Webhooks as rows, and what they are told."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_type_hints

import hypothesis
import msgspec

from api.quarantine import EntryItem
from domain import webhooks
from domain.core.events import Event
from domain.projects import ProjectDeleted
from domain.webhooks import WebhookDeleted, WebhookFailing, WebhookRecovered, WebhookRegistered, WebhookUpdated
from projections.webhook_views import QuarantinedTest, schemas
from projections.webhooks import PROJECTION, WebhookRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
REGISTERED = WebhookRegistered(
    at=NOW, webhook_id=14, project_id=3, url="https://a.example.com/", events=["build.failed"], sealed_secret=b"s"
)
ABOUT = {"at": LATER, "webhook_id": 14, "project_id": 3}
SCHEMAS = Path(__file__).parents[2] / "docs" / "webhook-schemas.json"


def test_a_webhook_changes() -> None:
    update = WebhookUpdated(**ABOUT, active=False, sealed_secret=b"t")  # type: ignore[arg-type]
    row = given(REGISTERED, update).when(PROJECTION).one(WebhookRow)
    assert row == WebhookRow(14, 3, "https://a.example.com/", ["build.failed"], False, b"t", NOW, LATER)


def test_it_shows_that_it_fails() -> None:
    rows = given(REGISTERED, WebhookFailing(**ABOUT, error="answered 503")).when(PROJECTION)  # type: ignore[arg-type]
    failing = rows.one(WebhookRow)
    assert (failing.failing_since, failing.failing_error, failing.updated_at) == (LATER, "answered 503", NOW)
    recovered = rows.apply(WebhookRecovered(**ABOUT)).one(WebhookRow)  # type: ignore[arg-type]
    assert (recovered.failing_since, recovered.failing_error) == (None, None)


def test_it_goes_and_goes_with_its_project() -> None:
    rows = given(REGISTERED, WebhookDeleted(**ABOUT)).when(PROJECTION)  # type: ignore[arg-type]
    assert rows.all(WebhookRow) == []
    assert rows.apply(REGISTERED, ProjectDeleted(project_id=3)).all(WebhookRow) == []


@hypothesis.given(histories(ProjectDeleted, *webhooks.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)


def test_the_entry_is_what_is_shown() -> None:
    """What is told of a quarantined test has the fields of `GET /quarantine`."""
    assert get_type_hints(QuarantinedTest).keys() == get_type_hints(EntryItem).keys()


def test_the_published_schemas_are_these() -> None:
    """`python -m tests.projections.test_webhooks` writes them anew."""
    assert json.loads(SCHEMAS.read_text()) == schemas()


if __name__ == "__main__":
    SCHEMAS.write_text(json.dumps(msgspec.to_builtins(schemas()), indent=1) + "\n")
