"""Decisions about channels of Teams."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.endpoints import DeleteEndpoints, GiveUpDelivery, RecordEndpointHealth
from commands.teams import RegisterChannel, UpdateChannel
from domain import teams
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.delivery_outcomes import judge_answer
from domain.projects import ProjectClosed, ProjectCreated
from domain.teams import (
    CARD,
    CHANNEL,
    CardGivenUp,
    ChannelDeleted,
    ChannelFailing,
    ChannelRecovered,
    ChannelRegistered,
    ChannelsListed,
    ChannelUpdated,
    correct_outcome,
    redact_url,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=3, title="Web", slug="web", sealed_webhook_secret=b"")
ABOUT: dict[str, Any] = {"channel_id": 5, "project_id": 3}
SHOWN = "https://example.webhook.office.com/…"
REGISTERED = ChannelRegistered(
    **ABOUT, title="CI Alerts", shown_url=SHOWN, sealed_url=b"u", events=["build.failed"], mention="ann@example.com"
)
LISTED = ChannelsListed(project_id=3, channel_ids=[5])
DELETED = ChannelDeleted(**ABOUT)


def test_register() -> None:
    command = RegisterChannel(5, 3, "CI Alerts", SHOWN, b"u", ("build.failed",), "ann@example.com")
    given(PROJECT).when(command).then(REGISTERED, LISTED)
    given(PROJECT, REGISTERED, LISTED).when(command).then_nothing()
    with pytest.raises(NotFound, match="no project 3"):
        given().when(command)
    with pytest.raises(Conflict, match="being deleted"):
        given(PROJECT, ProjectClosed(project_id=3)).when(command)


def test_a_project_has_at_most_100_channels() -> None:
    """Counted are those of the project's list, and those that older releases have registered."""
    command = RegisterChannel(500, 3, "CI", SHOWN, b"u", ("build.failed",), others=tuple(range(1, 61)))
    registered = [ChannelRegistered(channel_id=channel_id, project_id=3, events=[]) for channel_id in range(1, 101)]
    history = (PROJECT, *registered, ChannelsListed(project_id=3, channel_ids=[*range(51, 101)]))
    with pytest.raises(Conflict, match=r"Project 3 has 100 Teams channels.*DELETE /api/v3/ms-teams/\{id\}"):
        given(*history).when(command)
    event = given(*history, ChannelDeleted(channel_id=7, project_id=3)).when(command)[1]
    assert isinstance(event, ChannelsListed)
    assert sorted(event.channel_ids) == [*range(1, 7), *range(8, 101), 500]


def test_update_says_what_changed() -> None:
    given(REGISTERED).when(UpdateChannel(5, title="CI Alerts", active=False)).then(
        ChannelUpdated(**ABOUT, active=False)
    )
    given(REGISTERED).when(UpdateChannel(5, events=("build.failed",), mention="ann@example.com")).then_nothing()
    given(REGISTERED).when(UpdateChannel(5, mention="")).then(ChannelUpdated(**ABOUT, mention=""))
    with pytest.raises(NotFound):
        given(REGISTERED, DELETED).when(UpdateChannel(5, active=False))


def test_delete_what_there_is() -> None:
    given(REGISTERED).when(DeleteEndpoints("teams", (5,))).then(DELETED)
    given(REGISTERED, DELETED).when(DeleteEndpoints("teams", (5,))).then_nothing()
    given().when(DeleteEndpoints("teams", (5,))).then_nothing()
    assert DELETED.erases == REGISTERED.data_key == "project-3/teams-channel-5"


def test_a_card_is_given_up_once() -> None:
    given_up = CardGivenUp(**ABOUT, delivery_id="d-1", type="build.failed", attempts=8, error="answered 503")
    command = GiveUpDelivery("teams", 5, "d-1", "build.failed", 8, "answered 503")
    given(REGISTERED).when(command).then(given_up)
    given(REGISTERED, given_up).when(command).then_nothing()
    given(REGISTERED, DELETED).when(command).then_nothing()


def test_health_is_said_when_it_changes() -> None:
    failing, recovered = ChannelFailing(**ABOUT, error="answered 503"), ChannelRecovered(**ABOUT)
    given(REGISTERED).when(RecordEndpointHealth("teams", 5, "answered 503")).then(failing)
    given(REGISTERED, failing).when(RecordEndpointHealth("teams", 5, "other")).then_nothing()
    given(REGISTERED).when(RecordEndpointHealth("teams", 5, None)).then_nothing()
    given(REGISTERED, failing).when(RecordEndpointHealth("teams", 5, None)).then(recovered)


@hypothesis.given(histories(*teams.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    folds(CHANNEL, history)
    folds(CARD, history)


@pytest.mark.parametrize("command", [RegisterChannel, UpdateChannel])
def test_decided_once(command: type[Any]) -> None:
    # `active=True` ends the pause of a channel that fails, each time that it is sent.
    fixed = {"active": st.sampled_from([None, False])} if command is UpdateChannel else {}

    @hypothesis.given(commands(command, **fixed), histories(ProjectCreated, *teams.EVENTS))
    def holds(made: Any, history: list[Event]) -> None:
        is_decided_once(made, history)

    holds()


def test_the_address_is_a_secret() -> None:
    assert {"shown_url", "sealed_url", "title", "mention"} <= set(ChannelRegistered.sealed) & set(ChannelUpdated.sealed)
    assert redact_url("https://a.webhook.office.com/webhookb2/KEY?sig=KEY#KEY") == "https://a.webhook.office.com/…"
    assert redact_url("http://127.0.0.1:8000?sig=KEY") == "http://127.0.0.1:8000/…"


def test_an_office_connector_says_in_its_answer_what_went_wrong() -> None:
    throttled = "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429"
    found = correct_outcome(judge_answer(200, 5, throttled))
    assert (found.ok, found.status, found.error) == (False, 200, throttled)
    for status, text in ((200, "1"), (202, ""), (429, throttled)):
        assert correct_outcome(judge_answer(status, 5, text)) == judge_answer(status, 5, text)
