"""All projections, in the order in which they are applied."""

from projections import (
    artifacts,
    auth,
    builds,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projects,
    quarantine,
    related,
    results,
    templates,
    trail,
    triage,
    webhooks,
)

PROJECTIONS = (
    auth.PROJECTION,
    projects.PROJECTION,
    templates.PROJECTION,
    jobs.PROJECTION,
    pools.PROJECTION,
    nodes.PROJECTION,
    node_commands.PROJECTION,
    builds.PROJECTION,
    quarantine.PROJECTION,
    known_issues.PROJECTION,
    results.PROJECTION,
    triage.PROJECTION,
    artifacts.PROJECTION,
    webhooks.PROJECTION,
    trail.PROJECTION,
    related.PROJECTION,
)
