"""All events by their stored name, and how older versions of them become today's."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import (
    artifacts,
    audit,
    auth,
    builds,
    claims,
    dispatch,
    flakiness,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projects,
    quarantine,
    results,
    teams,
    templates,
    triage,
    users,
    webhooks,
)
from domain.core.events import Event

AREAS = (
    artifacts,
    audit,
    auth,
    builds,
    claims,
    dispatch,
    flakiness,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projects,
    quarantine,
    results,
    teams,
    templates,
    triage,
    users,
    webhooks,
)

EVENTS: Mapping[str, type[Event]] = {event.name: event for area in AREAS for event in area.EVENTS}

UPCASTERS: Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    (results.ResultsRecorded.name, 1): results.without_commit_name,
    (results.ResultsRecorded.name, 2): results.with_packed_columns,
}
"""(event name, version) -> fields of that version to fields of the next."""
