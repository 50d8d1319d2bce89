"""Registry of all events by their stored names, and the upcasters of their older versions."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import (
    artifacts,
    audit,
    auth,
    autoscaling,
    build_groups,
    builds,
    changes,
    claims,
    dispatch,
    docker_agents,
    flakiness,
    gitops,
    identity_providers,
    jira,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projections,
    projects,
    quarantine,
    reactions,
    results,
    scm,
    teams,
    templates,
    tickets,
    triage,
    users,
    vcenter,
    vcenter_operations,
    vcenter_vms,
    webhooks,
)
from domain.core.events import Event

AREAS = (
    artifacts,
    audit,
    auth,
    autoscaling,
    build_groups,
    builds,
    changes,
    claims,
    dispatch,
    docker_agents,
    flakiness,
    gitops,
    identity_providers,
    jira,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projections,
    projects,
    quarantine,
    reactions,
    results,
    scm,
    teams,
    templates,
    tickets,
    triage,
    users,
    vcenter,
    vcenter_operations,
    vcenter_vms,
    webhooks,
)

EVENTS: Mapping[str, type[Event]] = {event.name: event for area in AREAS for event in area.EVENTS}

UPCASTERS: Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    (autoscaling.AutoscalingSet.name, 1): autoscaling.with_optional_source,
    (results.ResultsRecorded.name, 1): results.without_commit_name,
    (results.ResultsRecorded.name, 2): results.with_packed_columns,
}
"""(event name, version) -> upcaster, which turns the fields of this version into those of the next version."""
