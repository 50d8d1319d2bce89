"""All events by their stored name, and how older versions of them become today's."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import (
    artifacts,
    auth,
    builds,
    claims,
    dispatch,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projects,
    quarantine,
    results,
    templates,
    triage,
    users,
)
from domain.base import Event

AREAS = (
    artifacts,
    auth,
    builds,
    claims,
    dispatch,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projects,
    quarantine,
    results,
    templates,
    triage,
    users,
)

EVENTS: Mapping[str, type[Event]] = {event.name: event for area in AREAS for event in area.EVENTS}

UPCASTERS: Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""(event name, version) -> fields of that version to fields of the next."""
