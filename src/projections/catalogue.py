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
    results,
    templates,
    triage,
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
)
