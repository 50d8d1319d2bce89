"""Commands on webhooks only. The commands on any endpoint are in `commands.endpoints`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.endpoints import list_existing, to_compare
from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project
from domain.webhooks import (
    DELIVERY,
    WEBHOOK,
    WEBHOOK_LIST,
    Delivery,
    RedeliveryRequested,
    ReplayRequested,
    Webhook,
    WebhookRegistered,
    WebhooksListed,
    WebhookUpdated,
)


@dataclass(frozen=True)
class RegisterWebhook(Command):
    webhook_id: int
    project_id: int | None
    """Id of the project whose notifications the webhook receives; None for the notifications of all projects."""
    url: str
    events: tuple[str, ...]
    sealed_secret: bytes | None = None
    active: bool = True
    others: tuple[int, ...] = ()
    """Ids of the project's webhooks that the caller knows of. The list may be incomplete, and may contain webhooks that
    do not exist any more.
    """

    def reads(self) -> Sequence[AnyStream]:
        webhook = WEBHOOK.at(self.webhook_id)
        project_id = self.project_id
        return (webhook,) if project_id is None else (webhook, PROJECT.at(project_id), WEBHOOK_LIST.at(project_id))

    def then_reads(
        self, webhook: Webhook | None, project: Project | None = None, listed: Sequence[int] = ()
    ) -> Sequence[AnyStream]:
        others = dict.fromkeys((*self.others, *listed)) if webhook is None else ()
        return [WEBHOOK.at(webhook_id) for webhook_id in others if webhook_id != self.webhook_id]

    def decide(
        self,
        webhook: Webhook | None,
        project: Project | None = None,
        listed: Sequence[int] = (),
        *others: Webhook | None,
    ) -> Iterable[Event]:
        if webhook is not None:
            return
        if self.project_id is None:
            yield self.event(WebhookRegistered)
            return
        must_be_open(project, self.project_id)
        existing = list_existing("webhook", self.project_id, others)
        yield self.event(WebhookRegistered)
        yield WebhooksListed(project_id=self.project_id, webhook_ids=[*existing, self.webhook_id])


@dataclass(frozen=True)
class UpdateWebhook(Command, of=WEBHOOK):
    """Changes the given fields. A field that is None stays unchanged."""

    webhook_id: int
    url: str | None = None
    events: tuple[str, ...] | None = None
    sealed_secret: bytes | None = None
    active: bool | None = None

    def decide(self, webhook: Webhook | None) -> Iterable[Event]:
        webhook = must_exist(webhook, f"webhook {self.webhook_id}")
        yield from self.update(WebhookUpdated, to_compare(webhook, self.active), project_id=webhook.project_id)


@dataclass(frozen=True)
class ReplayWebhook(Command, of=WEBHOOK):
    webhook_id: int
    replay: str
    """Idempotency key of the request. A second request with the same key records nothing."""
    after: int
    up_to: int

    def decide(self, webhook: Webhook | None) -> Iterable[Event]:
        webhook = must_exist(webhook, f"webhook {self.webhook_id}")
        if not webhook.active:
            raise Conflict(f"Webhook {self.webhook_id} is not active; activate it by PUT first.")
        if webhook.replay != self.replay:
            yield self.event(ReplayRequested, project_id=webhook.project_id)


@dataclass(frozen=True)
class Redeliver(Command):
    webhook_id: int
    delivery_id: str
    attempts: int
    """Number of attempts at the delivery that the caller has seen. A second request with the same number does
    nothing.
    """

    def reads(self) -> Sequence[AnyStream]:
        return WEBHOOK.at(self.webhook_id), DELIVERY.at(self.delivery_id)

    def decide(self, webhook: Webhook | None, delivery: Delivery) -> Iterable[Event]:
        webhook = must_exist(webhook, f"webhook {self.webhook_id}")
        if delivery.requested < self.attempts:
            yield self.event(RedeliveryRequested, project_id=webhook.project_id)
