"""Webhooks: addresses that are told what happens, by signed HTTP requests.

Attempts are no events; that a delivery was given up is, and that an address does not answer for a while.
"""

from typing import Any, ClassVar

import msgspec

from domain.core.data_keys import webhook_key
from domain.core.events import Category, Event


class WebhookEvent(Event, frozen=True):
    webhook_id: int
    project_id: int | None
    """None: of all projects."""

    @property
    def stream(self) -> str:
        return f"webhook-{self.webhook_id}"

    @property
    def data_key(self) -> str | None:
        return webhook_key(self.project_id, self.webhook_id)


class WebhookRegistered(WebhookEvent, frozen=True):
    name: ClassVar[str] = "webhook.registered"
    sealed: ClassVar[tuple[str, ...]] = ("url", "sealed_secret")
    events: list[str]
    url: str = ""
    sealed_secret: bytes | None = None
    """None: deliveries are not signed."""
    active: bool = True


class WebhookUpdated(WebhookEvent, frozen=True):
    """Only what changed; None is unchanged."""

    name: ClassVar[str] = "webhook.updated"
    sealed: ClassVar[tuple[str, ...]] = ("url", "sealed_secret")
    url: str | None = None
    events: list[str] | None = None
    sealed_secret: bytes | None = None
    active: bool | None = None


UPDATABLE = ("url", "events", "sealed_secret", "active")


class WebhookDeleted(WebhookEvent, frozen=True):
    """With what was still to be delivered, and the history."""

    name: ClassVar[str] = "webhook.deleted"

    @property
    def erases(self) -> str | None:
        return self.data_key


class WebhookFailing(WebhookEvent, frozen=True):
    """Many attempts in a row failed. It is tried less often from here on, and nothing is lost."""

    name: ClassVar[str] = "webhook.failing"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""


class WebhookRecovered(WebhookEvent, frozen=True):
    name: ClassVar[str] = "webhook.recovered"


class ReplayRequested(WebhookEvent, frozen=True):
    """What happened after one position, up to another, is delivered once more."""

    name: ClassVar[str] = "webhook.replay_requested"
    replay: str
    after: int
    up_to: int


class DeliveryEvent(WebhookEvent, frozen=True):
    """Of one delivery. `attempts` is how many there had been, redeliveries included."""

    delivery_id: str
    attempts: int

    @property
    def stream(self) -> str:
        return f"webhook_delivery-{self.delivery_id}"


class DeliveryGivenUp(DeliveryEvent, frozen=True):
    name: ClassVar[str] = "webhook.delivery_given_up"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    type: str
    error: str = ""


class RedeliveryRequested(DeliveryEvent, frozen=True):
    name: ClassVar[str] = "webhook.redelivery_requested"


class Webhook(msgspec.Struct, frozen=True):
    webhook_id: int
    project_id: int | None
    url: str
    events: list[str]
    sealed_secret: bytes | None
    active: bool
    failing: bool = False
    replay: str | None = None
    """The last one that was asked for."""
    deleted: bool = False


class Delivery(msgspec.Struct, frozen=True):
    """After how many attempts it was last given up, and last asked for again."""

    given_up: int = -1
    requested: int = -1


def changes(event: WebhookUpdated) -> dict[str, Any]:
    return {field: value for field in UPDATABLE if (value := getattr(event, field)) is not None}


def evolve(state: Webhook | None, event: Event) -> Webhook | None:
    match event:
        case WebhookRegistered():
            return Webhook(
                event.webhook_id, event.project_id, event.url, event.events, event.sealed_secret, event.active
            )
        case WebhookUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes(event))
        case WebhookFailing() | WebhookRecovered() if state is not None:
            return msgspec.structs.replace(state, failing=isinstance(event, WebhookFailing))
        case ReplayRequested() if state is not None:
            return msgspec.structs.replace(state, replay=event.replay)
        case WebhookDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


def evolve_delivery(state: Delivery, event: Event) -> Delivery:
    match event:
        case DeliveryGivenUp():
            return msgspec.structs.replace(state, given_up=event.attempts)
        case RedeliveryRequested():
            return msgspec.structs.replace(state, requested=event.attempts)
        case _:
            return state


WEBHOOK = Category[Webhook | None]("webhook", None, evolve)
DELIVERY = Category("webhook_delivery", Delivery(), evolve_delivery)
EVENTS = (
    WebhookRegistered,
    WebhookUpdated,
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
    ReplayRequested,
    DeliveryGivenUp,
    RedeliveryRequested,
)
