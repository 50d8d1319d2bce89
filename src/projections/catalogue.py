"""All projections, in the order in which they are applied."""

from projections import artifacts, auth, builds, jobs, nodes, pools, projects, results

PROJECTIONS = (
    auth.PROJECTION,
    projects.PROJECTION,
    jobs.PROJECTION,
    pools.PROJECTION,
    nodes.PROJECTION,
    builds.PROJECTION,
    results.PROJECTION,
    artifacts.PROJECTION,
)
