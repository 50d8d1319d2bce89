"""All projections, in the order in which they are applied."""

from projections import artifacts, auth, builds, jobs, node_commands, nodes, pools, projects, results, templates

PROJECTIONS = (
    auth.PROJECTION,
    projects.PROJECTION,
    templates.PROJECTION,
    jobs.PROJECTION,
    pools.PROJECTION,
    nodes.PROJECTION,
    node_commands.PROJECTION,
    builds.PROJECTION,
    results.PROJECTION,
    artifacts.PROJECTION,
)
