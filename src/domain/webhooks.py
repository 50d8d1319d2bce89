"""Webhooks: endpoints to which notifications are sent as signed HTTP requests.

A single attempt is no event. Events record that a delivery was given up, and that a webhook began or stopped failing.
"""

# Fields here implement properties of the base classes, since msgspec lets a struct inherit fields from one base only.
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from typing import ClassVar

import msgspec

from domain.core.data_keys import webhook_key
from domain.core.events import Category, Event, copy_fields
from domain.endpoints import (
    Endpoint,
    EndpointDeleted,
    EndpointEvent,
    EndpointFailing,
    EndpointKind,
    EndpointRecovered,
    EndpointRegistered,
    EndpointUpdated,
    evolve_endpoint,
)


class WebhookEvent(EndpointEvent, frozen=True):
    kind: ClassVar[EndpointKind] = "webhook"
    webhook_id: int
    project_id: int | None
    """The webhook's project; None for a webhook of all projects."""

    @property
    def endpoint_id(self) -> int:
        return self.webhook_id

    @property
    def stream(self) -> str:
        return f"webhook-{self.webhook_id}"

    @property
    def data_key(self) -> str | None:
        return webhook_key(self.project_id, self.webhook_id)


class WebhookRegistered(WebhookEvent, EndpointRegistered, frozen=True):
    name: ClassVar[str] = "webhook.registered"
    sealed: ClassVar[tuple[str, ...]] = ("url", "sealed_secret")
    events: list[str]
    url: str = ""
    sealed_secret: bytes | None = None
    """Encrypted secret that signs deliveries; None if they are not signed."""
    active: bool = True


class WebhookUpdated(WebhookEvent, EndpointUpdated, frozen=True):
    name: ClassVar[str] = "webhook.updated"
    sealed: ClassVar[tuple[str, ...]] = ("url", "sealed_secret")
    url: str | None = None
    events: list[str] | None = None
    sealed_secret: bytes | None = None
    active: bool | None = None


class WebhookDeleted(WebhookEvent, EndpointDeleted, frozen=True):
    name: ClassVar[str] = "webhook.deleted"


class WebhookFailing(WebhookEvent, EndpointFailing, frozen=True):
    name: ClassVar[str] = "webhook.failing"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""


class WebhookRecovered(WebhookEvent, EndpointRecovered, frozen=True):
    name: ClassVar[str] = "webhook.recovered"


class ReplayRequested(WebhookEvent, frozen=True):
    """A user asked to send the notifications of earlier events again: the events after position `after`, up to and
    including `up_to`.
    """

    name: ClassVar[str] = "webhook.replay_requested"
    replay: str
    """Name of the replay: the idempotency key of the request."""
    after: int
    up_to: int


class WebhooksListed(Event, frozen=True):
    """A webhook was added to its project. All registrations of a project append to one stream, so that registrations at
    the same time know of each other.
    """

    name: ClassVar[str] = "webhook.listed"
    project_id: int
    webhook_ids: list[int]
    """Ids of all webhooks that the project has now, the new one last."""

    @property
    def stream(self) -> str:
        return f"webhook_list-{self.project_id}"


class DeliveryEvent(WebhookEvent, frozen=True):
    """Base of the events about one delivery."""

    delivery_id: str
    attempts: int
    """Number of attempts so far, including the attempts before a redelivery."""

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


class Webhook(Endpoint, frozen=True):
    webhook_id: int
    project_id: int | None
    url: str
    events: list[str]
    sealed_secret: bytes | None
    active: bool
    failing: bool = False
    replay: str | None = None
    """Name of the replay that was requested last; None if none was requested."""
    deleted: bool = False

    @property
    def endpoint_id(self) -> int:
        return self.webhook_id


class Delivery(msgspec.Struct, frozen=True):
    """State of a delivery. `given_up` is the number of its attempts when it was last given up. `requested` is the
    number of its attempts when a user last asked to send it again. -1 stands for never.
    """

    given_up: int = -1
    requested: int = -1


def evolve(state: Webhook | None, event: Event) -> Webhook | None:
    match event:
        case WebhookRegistered():
            return copy_fields(Webhook, event)
        case ReplayRequested() if state is not None:
            return msgspec.structs.replace(state, replay=event.replay)
        case _:
            return evolve_endpoint(state, event)


def evolve_list(state: tuple[int, ...], event: Event) -> tuple[int, ...]:
    return tuple(event.webhook_ids) if isinstance(event, WebhooksListed) else state


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
WEBHOOK_LIST = Category[tuple[int, ...]]("webhook_list", (), evolve_list)
"""Stream whose state is the ids of a project's webhooks. The state may contain deleted webhooks, and lacks webhooks
that older releases registered.
"""
WEBHOOK_EVENTS = (
    WebhookRegistered,
    WebhookUpdated,
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
    ReplayRequested,
    DeliveryGivenUp,
    RedeliveryRequested,
)
EVENTS = (*WEBHOOK_EVENTS, WebhooksListed)
