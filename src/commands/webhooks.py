"""What is asked of webhooks, and what follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from commands.handler import Command
from commands.projects import must_be_open
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project
from domain.webhooks import (
    DELIVERY,
    UPDATABLE,
    WEBHOOK,
    Delivery,
    DeliveryGivenUp,
    RedeliveryRequested,
    ReplayRequested,
    Webhook,
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
    WebhookRegistered,
    WebhookUpdated,
)


@dataclass(frozen=True)
class RegisterWebhook(Command):
    """None as project: of all of them."""

    webhook_id: int
    project_id: int | None
    url: str
    events: tuple[str, ...]
    sealed_secret: bytes | None = None
    active: bool = True

    def reads(self) -> Sequence[AnyStream]:
        webhook = WEBHOOK.at(self.webhook_id)
        return (webhook,) if self.project_id is None else (webhook, PROJECT.at(self.project_id))

    def decide(self, webhook: Webhook | None, project: Project | None = None) -> Iterable[Event]:
        if webhook is not None:
            return
        if self.project_id is not None:
            must_be_open(project, self.project_id)
        yield WebhookRegistered(
            webhook_id=self.webhook_id,
            project_id=self.project_id,
            url=self.url,
            events=list(self.events),
            sealed_secret=self.sealed_secret,
            active=self.active,
        )


@dataclass(frozen=True)
class UpdateWebhook(Command):
    """None leaves a field as it is."""

    webhook_id: int
    url: str | None = None
    events: tuple[str, ...] | None = None
    sealed_secret: bytes | None = None
    active: bool | None = None

    def reads(self) -> Sequence[AnyStream]:
        return (WEBHOOK.at(self.webhook_id),)

    def decide(self, webhook: Webhook | None) -> Iterable[Event]:
        webhook = _existing(webhook, self.webhook_id)
        given: dict[str, Any] = {name: getattr(self, name) for name in UPDATABLE}
        given["events"] = None if self.events is None else list(self.events)
        changed = {name: value for name, value in given.items() if value not in (None, getattr(webhook, name))}
        if changed:
            yield WebhookUpdated(webhook_id=self.webhook_id, project_id=webhook.project_id, **changed)


@dataclass(frozen=True)
class DeleteWebhooks(Command):
    """Those of them that there are."""

    webhook_ids: tuple[int, ...]

    def reads(self) -> Sequence[AnyStream]:
        return tuple(WEBHOOK.at(webhook_id) for webhook_id in dict.fromkeys(self.webhook_ids))

    def decide(self, *webhooks: Webhook | None) -> Iterable[Event]:
        for webhook in webhooks:
            if webhook is not None and not webhook.deleted:
                yield WebhookDeleted(webhook_id=webhook.webhook_id, project_id=webhook.project_id)


@dataclass(frozen=True)
class ReplayWebhook(Command):
    """`replay` names this request: the same one is only made once."""

    webhook_id: int
    replay: str
    after: int
    up_to: int

    def reads(self) -> Sequence[AnyStream]:
        return (WEBHOOK.at(self.webhook_id),)

    def decide(self, webhook: Webhook | None) -> Iterable[Event]:
        webhook = _existing(webhook, self.webhook_id)
        if not webhook.active:
            raise Conflict(f"Webhook {self.webhook_id} is not active; activate it by PUT first.")
        if webhook.replay != self.replay:
            yield ReplayRequested(
                webhook_id=self.webhook_id,
                project_id=webhook.project_id,
                replay=self.replay,
                after=self.after,
                up_to=self.up_to,
            )


@dataclass(frozen=True)
class Redeliver(Command):
    """`attempts` is how many the caller saw: asked twice for the same, it is done once."""

    webhook_id: int
    delivery_id: str
    attempts: int

    def reads(self) -> Sequence[AnyStream]:
        return WEBHOOK.at(self.webhook_id), DELIVERY.at(self.delivery_id)

    def decide(self, webhook: Webhook | None, delivery: Delivery) -> Iterable[Event]:
        webhook = _existing(webhook, self.webhook_id)
        if delivery.requested < self.attempts:
            yield RedeliveryRequested(
                webhook_id=self.webhook_id,
                project_id=webhook.project_id,
                delivery_id=self.delivery_id,
                attempts=self.attempts,
            )


@dataclass(frozen=True)
class GiveDeliveryUp(Command):
    webhook_id: int
    delivery_id: str
    type: str
    attempts: int
    error: str

    def reads(self) -> Sequence[AnyStream]:
        return WEBHOOK.at(self.webhook_id), DELIVERY.at(self.delivery_id)

    def decide(self, webhook: Webhook | None, delivery: Delivery) -> Iterable[Event]:
        if webhook is not None and not webhook.deleted and delivery.given_up < self.attempts:
            yield DeliveryGivenUp(
                webhook_id=self.webhook_id,
                project_id=webhook.project_id,
                delivery_id=self.delivery_id,
                attempts=self.attempts,
                type=self.type,
                error=self.error,
            )


@dataclass(frozen=True)
class NoteWebhookHealth(Command):
    """With what it says when it fails; None when it answers again."""

    webhook_id: int
    error: str | None

    def reads(self) -> Sequence[AnyStream]:
        return (WEBHOOK.at(self.webhook_id),)

    def decide(self, webhook: Webhook | None) -> Iterable[Event]:
        if webhook is None or webhook.deleted or webhook.failing == (self.error is not None):
            return
        about: dict[str, Any] = {"webhook_id": self.webhook_id, "project_id": webhook.project_id}
        yield WebhookRecovered(**about) if self.error is None else WebhookFailing(**about, error=self.error)


def _existing(webhook: Webhook | None, webhook_id: int) -> Webhook:
    if webhook is None or webhook.deleted:
        raise NotFound(f"There is no webhook {webhook_id}.")
    return webhook
