"""Decisions about webhooks."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.endpoints import DeleteEndpoints, GiveUpDelivery, RecordEndpointHealth
from commands.webhooks import Redeliver, RegisterWebhook, ReplayWebhook, UpdateWebhook
from domain import teams, webhooks
from domain.builds import BuildFinished, BuildStarted
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.delivery_outcomes import judge_answer
from domain.endpoints import mask_url
from domain.nodes import NodeWentOffline
from domain.notifications import SOURCES, TYPES, notifications_of
from domain.projects import ProjectCreated
from domain.quarantine import TestsQuarantined
from domain.webhooks import (
    DELIVERY,
    WEBHOOK,
    DeliveryGivenUp,
    RedeliveryRequested,
    ReplayRequested,
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
    WebhookRegistered,
    WebhooksListed,
    WebhookUpdated,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=3, title="Web", slug="web", sealed_webhook_secret=b"")
URL = "https://hooks.example.com/"
REGISTERED = WebhookRegistered(webhook_id=14, project_id=3, url=URL, events=["build.failed"], sealed_secret=b"s")
LISTED = WebhooksListed(project_id=3, webhook_ids=[14])
DELETED = WebhookDeleted(webhook_id=14, project_id=3)


def test_register() -> None:
    command = RegisterWebhook(14, 3, URL, ("build.failed",), b"s")
    given(PROJECT).when(command).then(REGISTERED, LISTED)
    given(PROJECT, REGISTERED, LISTED).when(command).then_nothing()
    with pytest.raises(NotFound, match="no project 3"):
        given().when(command)
    everywhere = RegisterWebhook(14, None, URL, ("build.failed",))
    given().when(everywhere).then(WebhookRegistered(webhook_id=14, project_id=None, url=URL, events=["build.failed"]))


def registered(*ids: int) -> list[WebhookRegistered]:
    return [WebhookRegistered(webhook_id=webhook_id, project_id=3, url=URL, events=[]) for webhook_id in ids]


def test_a_project_has_at_most_100_webhooks() -> None:
    """Counted are those of the project's list, and those that older releases have registered."""
    command = RegisterWebhook(500, 3, URL, ("build.failed",), others=tuple(range(1, 61)))
    listed = WebhooksListed(project_id=3, webhook_ids=[*range(51, 101)])
    history = (PROJECT, *registered(*range(1, 101)), listed)
    with pytest.raises(Conflict, match="Project 3 has 100 webhooks, and can have no more than 100"):
        given(*history).when(command)
    event = given(*history, WebhookDeleted(webhook_id=7, project_id=3)).when(command)[1]
    assert isinstance(event, WebhooksListed)
    assert sorted(event.webhook_ids) == [*range(1, 7), *range(8, 101), 500]
    given(*history).when(UpdateWebhook(1, active=False)).then(WebhookUpdated(webhook_id=1, project_id=3, active=False))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        (URL, URL),
        ("https://hooks.example.com:8443/testhide/", "https://hooks.example.com:8443/testhide/"),
        ("https://ci.example.com/generic-webhook-trigger/invoke?token=abc&x=", "https://ci.example.com/generic-webhook-trigger/invoke?token=***&x=***"),
        ("https://ci.example.com/?c2VjcmV0", "https://ci.example.com/?***"),
        ("https://me:pass@example.com/#key", "https://***@example.com/#***"),
        ("https://chat.example.com/hooks/4xp9fdt7xbgetnap", "https://chat.example.com/hooks/***"),
        ("https://chat.example.com/hooks/abcdefghijklmnop-qrstuvw", "https://chat.example.com/hooks/***"),
        ("https://hooks.slack.com/services/T01/B02/x", "https://hooks.slack.com/services/***/***/***"),
        ("https://hooks.zapier.com/hooks/catch/12/ab/", "https://hooks.zapier.com/hooks/catch/***/***/"),
        ("https://Discord.com/api/webhooks/12/ab", "https://Discord.com/api/webhooks/***/***"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_tokens(url: str, shown: str) -> None:
    assert mask_url(url) == shown
    assert mask_url(shown) == shown


def test_update_says_what_changed() -> None:
    changed = WebhookUpdated(webhook_id=14, project_id=3, active=False)
    given(REGISTERED).when(UpdateWebhook(14, url=URL, active=False)).then(changed)
    given(REGISTERED).when(UpdateWebhook(14, url=URL, events=("build.failed",), sealed_secret=b"s")).then_nothing()
    with pytest.raises(NotFound):
        given(REGISTERED, DELETED).when(UpdateWebhook(14, active=False))


def test_delete_what_there_is() -> None:
    given(REGISTERED).when(DeleteEndpoints("webhook", (14, 14, 15))).then(DELETED)
    given(REGISTERED, DELETED).when(DeleteEndpoints("webhook", (14,))).then_nothing()
    assert DELETED.erases == REGISTERED.data_key == "project-3/webhook-14"


def test_a_replay_is_made_once() -> None:
    command = ReplayWebhook(14, "r1", 5, 9)
    requested = ReplayRequested(webhook_id=14, project_id=3, replay="r1", after=5, up_to=9)
    given(REGISTERED).when(command).then(requested)
    given(REGISTERED, requested).when(command).then_nothing()
    assert given(REGISTERED, requested).when(ReplayWebhook(14, "r2", 5, 9)) != []
    with pytest.raises(Conflict, match="not active"):
        given(REGISTERED, WebhookUpdated(webhook_id=14, project_id=3, active=False)).when(command)


def test_a_delivery_is_given_up_and_asked_for_again() -> None:
    about: dict[str, Any] = {"webhook_id": 14, "project_id": 3, "delivery_id": "d-1"}
    given_up = DeliveryGivenUp(**about, attempts=8, type="build.failed", error="answered 503")
    asked = RedeliveryRequested(**about, attempts=8)
    again = DeliveryGivenUp(**about, attempts=16, type="build.failed", error="answered 503")
    give_up = GiveUpDelivery("webhook", 14, "d-1", "build.failed", 8, "answered 503")
    given(REGISTERED).when(give_up).then(given_up)
    given(REGISTERED, given_up).when(give_up).then_nothing()
    given(REGISTERED, given_up).when(Redeliver(14, "d-1", 8)).then(asked)
    assert given(REGISTERED, given_up, asked).when(Redeliver(14, "d-1", 8)) == [], "asked twice for the same"
    command = GiveUpDelivery("webhook", 14, "d-1", "build.failed", 16, "answered 503")
    given(REGISTERED, given_up, asked).when(command).then(again)
    given(REGISTERED, DELETED).when(command).then_nothing()


def test_health_is_said_when_it_changes() -> None:
    failing = WebhookFailing(webhook_id=14, project_id=3, error="answered 503")
    recovered = WebhookRecovered(webhook_id=14, project_id=3)
    given(REGISTERED).when(RecordEndpointHealth("webhook", 14, "answered 503")).then(failing)
    given(REGISTERED, failing).when(RecordEndpointHealth("webhook", 14, "other")).then_nothing()
    given(REGISTERED).when(RecordEndpointHealth("webhook", 14, None)).then_nothing()
    given(REGISTERED, failing).when(RecordEndpointHealth("webhook", 14, None)).then(recovered)


def test_a_webhook_that_fails_is_tried_again_by_making_it_active() -> None:
    failing = WebhookFailing(webhook_id=14, project_id=3, error="answered 503")
    again = WebhookUpdated(webhook_id=14, project_id=3, active=True)
    given(REGISTERED, failing).when(UpdateWebhook(14, active=True)).then(again)
    given(REGISTERED, failing).when(UpdateWebhook(14, url=URL)).then_nothing()
    given(REGISTERED).when(UpdateWebhook(14, active=True)).then_nothing()


@hypothesis.given(histories(*webhooks.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    folds(WEBHOOK, history)
    folds(DELIVERY, history)


@pytest.mark.parametrize(
    "command",
    [RegisterWebhook, UpdateWebhook, DeleteEndpoints, ReplayWebhook, Redeliver, GiveUpDelivery, RecordEndpointHealth],
)
def test_decided_once(command: type[Any]) -> None:
    # `active=True` ends the pause of a webhook that fails, each time that it is sent.
    fixed = {"active": st.sampled_from([None, False])} if command is UpdateWebhook else {}

    @hypothesis.given(commands(command, **fixed), histories(ProjectCreated, *webhooks.EVENTS, *teams.EVENTS))
    def holds(made: Any, history: list[Event]) -> None:
        is_decided_once(made, history)

    holds()


def notified(event: Event) -> list[tuple[str, str | None, int]]:
    return [(found.type, found.ordering_key, found.item) for found in notifications_of(event)]


def test_the_notifications_of_events() -> None:
    build: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 3}
    assert notified(BuildStarted(**build, node_id=1, attempt=1)) == [("build.started", "build-7", 0)]
    finished = ("build.finished", "build-7", 0)
    assert notified(BuildFinished(**build, status="passed")) == [finished]
    assert notified(BuildFinished(**build, status="failed")) == [finished, ("build.failed", "build-7", 0)]
    assert notified(BuildFinished(**build, status="aborted")) == [finished, ("build.cancelled", "build-7", 0)]
    quarantined = TestsQuarantined(job_id=5, project_id=3, first_id=1, node_ids=["a", "b"], reason="flaky")
    assert notified(quarantined) == [("test.quarantined", None, 0), ("test.quarantined", None, 1)]
    assert notified(NodeWentOffline(node_id=9, session="s", reason="silent")) == [("node.offline", "node-9", 0)]
    assert notified(REGISTERED) == []
    assert SOURCES.keys() == set(TYPES)


@pytest.mark.parametrize(("status", "ok"), [(199, False), (200, True), (204, True), (299, True), (300, False)])
def test_which_answers_are_good(status: int, ok: bool) -> None:
    found = judge_answer(status, 5, "a\0" + "b" * 5_000)
    assert (found.ok, found.error == "") == (ok, ok)
    assert found.excerpt.startswith("a\N{REPLACEMENT CHARACTER}b")
    assert len(found.excerpt) == 1_000


@pytest.mark.parametrize(
    ("status", "asked", "waits", "error"),
    [
        (429, 120, 120, "answered 429, asked to wait 120 s"),
        (503, 10**8, 3_600, "answered 503, asked to wait 3600 s"),
        (503, 0, 0, "answered 503"),
        (500, 120, 0, "answered 500"),
        (301, 120, 0, "answered 301"),
        (200, 120, 0, ""),
    ],
)
def test_who_may_ask_to_wait(status: int, asked: int, waits: int, error: str) -> None:
    found = judge_answer(status, 5, "", asked)
    assert (found.retry_after_s, found.error) == (waits, error)
