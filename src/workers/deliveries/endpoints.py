"""Applies events about endpoints to the tables of deliveries, and to the endpoints that the delivery planner has in
memory. The planner applies each event to both, in the order of the log.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

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
            await delivery_endpoints.add_endpoint(connection, _new_target(event), event.url, event.sealed_secret)
        case ChannelRegistered():
            await delivery_endpoints.add_endpoint(connection, _new_target(event))
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


def is_folded(event: Event) -> bool:
    return isinstance(event, FOLDED)


def types_of(event: Event) -> Sequence[str]:
    """Returns the notification types that an endpoint is registered for by this event. Returns an empty sequence if the
    event leaves the types unchanged.
    """
    match event:
        case WebhookRegistered() | ChannelRegistered():
            return event.events
        case EndpointUpdated():
            types: Sequence[str] = changes_of(event).get("events", ())
            return types
        case _:
            return ()


class Targets:
    """Endpoints in memory, which the planner reads once for each batch of events: those of the projects that the events
    belong to, and those for all projects.
    """

    def __init__(self) -> None:
        self._targets: dict[int | None, dict[int, DeliveryTarget]] = {}

    def add(self, *targets: DeliveryTarget) -> None:
        """Adds endpoints. Those that were added before stay as they are."""
        for target in targets:
            self._targets.setdefault(target.project_id, {}).setdefault(target.id, target)

    def in_scope(self, project_id: int | None) -> Iterable[DeliveryTarget]:
        """Yields the endpoints that may be notified of events of a project: those of the project, and those for all
        projects. With None, which stands for events of no project, yields only the latter.
        """
        for scope in dict.fromkeys((None, project_id)):
            yield from self._targets.get(scope, {}).values()

    def apply(self, event: Event) -> None:
        """Applies an event about endpoints to the endpoints in memory. An update of an endpoint that was not added
        changes nothing.
        """
        match event:
            case EndpointRegistered():
                self.add(_new_target(event))
            case EndpointUpdated():
                of_project = self._targets.get(event.project_id, {})
                if (target := of_project.get(event.endpoint_id)) is not None:
                    of_project[target.id] = target._replace(**_changes_of_target(event))
            case EndpointDeleted():
                self._targets.get(event.project_id, {}).pop(event.endpoint_id, None)
            case ProjectDeleted():
                self._targets.pop(event.project_id, None)
            case _:
                return


def _new_target(event: EndpointRegistered) -> DeliveryTarget:
    assert isinstance(event, WebhookRegistered | ChannelRegistered), "there are no other kinds"
    active = event.active if isinstance(event, WebhookRegistered) else True
    return DeliveryTarget(event.endpoint_id, event.kind, event.project_id, event.events, active)


def _changes_of_target(event: EndpointUpdated) -> dict[str, Any]:
    return {name: value for name, value in changes_of(event).items() if name in ("events", "active")}
