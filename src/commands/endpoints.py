"""Commands on any endpoint: delete the endpoint, give up a delivery, record whether the endpoint answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from commands.handler import Command
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Category, Event
from domain.endpoints import Endpoint, EndpointKind
from domain.teams import CARD, CHANNEL, CardGivenUp, Channel, ChannelDeleted, ChannelFailing, ChannelRecovered
from domain.webhooks import (
    DELIVERY,
    WEBHOOK,
    Delivery,
    DeliveryGivenUp,
    Webhook,
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
)


class _Streams(NamedTuple):
    """Categories and event types for one kind of endpoint: what the commands of this module read and append."""

    endpoints: Category[Any]
    deliveries: Category[Any]
    deleted: type[Event]
    failing: type[Event]
    recovered: type[Event]
    given_up: type[Event]


_STREAMS: Mapping[EndpointKind, _Streams] = {
    "webhook": _Streams(WEBHOOK, DELIVERY, WebhookDeleted, WebhookFailing, WebhookRecovered, DeliveryGivenUp),
    "teams": _Streams(CHANNEL, CARD, ChannelDeleted, ChannelFailing, ChannelRecovered, CardGivenUp),
}
NAMES: Mapping[EndpointKind, str] = {"webhook": "webhook", "teams": "Teams channel"}
PATHS: Mapping[EndpointKind, str] = {"webhook": "webhooks", "teams": "ms-teams"}
MAX_ENDPOINTS = 100
"""Largest number of webhooks of a project, and also of its Teams channels. The number is limited since one event of the
project may cause a delivery to each of them.
"""


E = TypeVar("E", bound=Webhook | Channel)


def to_compare(endpoint: E, active: bool | None) -> E:
    """Returns the state of an endpoint with which an update compares the requested values. For a failing endpoint,
    `active=True` counts as a change even if the endpoint is already active: the resulting event ends the pause between
    the deliveries.
    """
    return msgspec.structs.replace(endpoint, active=False) if active and endpoint.failing else endpoint


def list_existing(kind: EndpointKind, project_id: int, endpoints: Iterable[Webhook | Channel | None]) -> list[int]:
    """Returns the ids of the project's `endpoints` that exist and are not deleted. Raises Conflict if the project can
    have no more endpoints.
    """
    existing = [endpoint.endpoint_id for endpoint in endpoints if endpoint is not None and not endpoint.deleted]
    if len(existing) >= MAX_ENDPOINTS:
        raise Conflict(
            f"Project {project_id} has {len(existing)} {NAMES[kind]}s, and can have no more than {MAX_ENDPOINTS}:"
            f" delete one by DELETE /api/v3/{PATHS[kind]}/{{id}}, or let one receiver pass the messages on."
        )
    return existing


@dataclass(frozen=True)
class DeleteEndpoints(Command):
    """Deletes these endpoints. Ignores ids without an endpoint."""

    kind: EndpointKind
    endpoint_ids: tuple[int, ...]

    def reads(self) -> Sequence[AnyStream]:
        return tuple(_STREAMS[self.kind].endpoints.at(endpoint_id) for endpoint_id in dict.fromkeys(self.endpoint_ids))

    def decide(self, *endpoints: Endpoint | None) -> Iterable[Event]:
        for endpoint in endpoints:
            if endpoint is not None and not endpoint.deleted:
                yield self.event(_STREAMS[self.kind].deleted, endpoint)


@dataclass(frozen=True)
class GiveUpDelivery(Command):
    """Records that all attempts at a delivery failed, so that only a user can request more. Records nothing if this was
    recorded before with the same number of `attempts`. If more attempts follow and fail too, the number is higher, and
    the command records this again.
    """

    kind: EndpointKind
    endpoint_id: int
    delivery_id: str
    type: str
    attempts: int
    error: str

    def reads(self) -> Sequence[AnyStream]:
        streams = _STREAMS[self.kind]
        return streams.endpoints.at(self.endpoint_id), streams.deliveries.at(self.delivery_id)

    def decide(self, endpoint: Endpoint | None, delivery: Delivery | bool) -> Iterable[Event]:
        is_recorded = delivery if isinstance(delivery, bool) else delivery.given_up >= self.attempts
        if endpoint is not None and not endpoint.deleted and not is_recorded:
            yield self.event(_STREAMS[self.kind].given_up, endpoint)


@dataclass(frozen=True)
class RecordEndpointHealth(Command):
    """Records that an endpoint fails, with its last `error`. If `error` is None, records that the endpoint answers
    again. Records nothing if the endpoint is already in this state.
    """

    kind: EndpointKind
    endpoint_id: int
    error: str | None

    def reads(self) -> Sequence[AnyStream]:
        return (_STREAMS[self.kind].endpoints.at(self.endpoint_id),)

    def decide(self, endpoint: Endpoint | None) -> Iterable[Event]:
        if endpoint is None or endpoint.deleted or endpoint.failing == (self.error is not None):
            return
        streams = _STREAMS[self.kind]
        yield self.event(streams.recovered if self.error is None else streams.failing, endpoint)
