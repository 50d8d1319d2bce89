"""Channels of Teams as rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis

from domain import teams
from domain.core.events import Event
from domain.projects import ProjectDeleted
from domain.teams import ChannelDeleted, ChannelFailing, ChannelRecovered, ChannelRegistered, ChannelUpdated
from projections.teams import PROJECTION, ChannelRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SHOWN = "https://example.webhook.office.com/…"
REGISTERED = ChannelRegistered(
    at=NOW, channel_id=5, project_id=3, title="CI", shown_url=SHOWN, sealed_url=b"u", events=["test.flaky"], mention="a"
)
ABOUT: dict[str, Any] = {"at": LATER, "channel_id": 5, "project_id": 3}


def test_a_channel_changes() -> None:
    update = ChannelUpdated(**ABOUT, active=False, mention="", events=["build.failed"])
    row = given(REGISTERED, update).when(PROJECTION).one(ChannelRow)
    assert row == ChannelRow(5, 3, "CI", SHOWN, b"u", ["build.failed"], "", NOW, LATER, active=False)


def test_it_shows_that_it_fails() -> None:
    rows = given(REGISTERED, ChannelFailing(**ABOUT, error="answered 503")).when(PROJECTION)
    failing = rows.one(ChannelRow)
    assert (failing.failing_since, failing.failing_error, failing.updated_at) == (LATER, "answered 503", NOW)
    recovered = rows.apply(ChannelRecovered(**ABOUT)).one(ChannelRow)
    assert (recovered.failing_since, recovered.failing_error) == (None, None)


def test_it_goes_and_goes_with_its_project() -> None:
    rows = given(REGISTERED, ChannelDeleted(**ABOUT)).when(PROJECTION)
    assert rows.all(ChannelRow) == []
    assert rows.apply(REGISTERED, ProjectDeleted(project_id=3)).all(ChannelRow) == []


@hypothesis.given(histories(ProjectDeleted, *teams.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
