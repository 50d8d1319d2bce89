"""Applies events about endpoints to the tables of deliveries. The delivery planner calls `apply` in the order of the
log.
"""

from datetime import datetime

from psycopg import AsyncConnection

from domain import teams, webhooks
from domain.core.events import Event, changes_of
from domain.endpoints import EndpointDeleted, EndpointRegistered, EndpointUpdated
from domain.projects import ProjectDeleted
from domain.teams import ChannelRegistered
from domain.webhooks import RedeliveryRequested, ReplayRequested, WebhookRegistered
from store.tables import delivery_endpoints, delivery_planning
from store.tables.delivery_endpoints import DeliveryTarget

DESCRIBING = (EndpointRegistered, EndpointUpdated, EndpointDeleted, ProjectDeleted)
"""Types of events from which the list of endpoints can be folded again at any time. The other events that this module
applies cause deliveries, so applying them again would send messages twice.
"""
FOLDED = (*DESCRIBING, ReplayRequested, RedeliveryRequested)
FOLDED_EVENTS: frozenset[type[Event]] = frozenset(
    event for event in (*webhooks.EVENTS, *teams.EVENTS, ProjectDeleted) if issubclass(event, FOLDED)
)


async def apply(connection: AsyncConnection, event: Event, now: datetime) -> None:
    match event:
        case WebhookRegistered():
            target = DeliveryTarget(event.webhook_id, event.kind, event.project_id, event.events, event.active)
            await delivery_endpoints.add_endpoint(connection, target, event.url, event.sealed_secret)
        case ChannelRegistered():
            target = DeliveryTarget(event.channel_id, event.kind, event.project_id, event.events, active=True)
            await delivery_endpoints.add_endpoint(connection, target)
        case EndpointUpdated():
            changes = changes_of(event)
            await delivery_endpoints.update_endpoint(connection, event.endpoint_id, changes)
            if "url" in changes or "sealed_url" in changes or changes.get("active"):
                await delivery_endpoints.reset_health(connection, event.endpoint_id, now)
        case EndpointDeleted():
            await delivery_endpoints.delete_endpoints(connection, [event.endpoint_id])
        case ProjectDeleted():
            await delivery_endpoints.delete_endpoints_of_project(connection, event.project_id)
        case RedeliveryRequested():
            await delivery_planning.redeliver(connection, event.delivery_id, now)
        case ReplayRequested():
            await delivery_planning.add_replay(connection, event.replay, event.webhook_id, event.after, event.up_to)
        case _:
            return
