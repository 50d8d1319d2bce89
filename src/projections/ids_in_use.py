"""Finds the highest ids in the read models, and the id sequences that are behind them.

A sequence can be behind only if somebody has set it back. The next ids that it gives then belong to existing objects.
"""

from collections.abc import Mapping

from psycopg.errors import UndefinedColumn, UndefinedTable
from psycopg_pool import AsyncConnectionPool

from projections import (
    artifacts,
    auth,
    builds,
    jira,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projects,
    quarantine,
    results,
    results_cases,
    scm,
    teams,
    templates,
    webhooks,
)
from projections.engine.model import Row
from store.log.ids import Kind
from store.postgres.queries import fetch_rows

ROWS: Mapping[Kind, tuple[type[Row], ...]] = {
    "users": (auth.UserRow,),
    "api_tokens": (auth.ApiTokenRow,),
    "projects": (projects.ProjectRow,),
    "jobs": (jobs.JobRow,),
    "node_pools": (pools.PoolRow,),
    "nodes": (nodes.NodeRow,),
    "node_commands": (node_commands.NodeCommandRow,),
    "templates": (templates.TemplateRow,),
    "builds": (builds.BuildRow,),
    "comments": (builds.CommentRow,),
    "artifacts": (artifacts.ArtifactRow,),
    "test_cases": (results_cases.TestCaseRow,),
    "known_issues": (known_issues.KnownIssueRow,),
    "quarantine": (quarantine.QuarantineRow,),
    "results": (results.ReportRow,),
    "scm_endpoints": (scm.ScmEndpointRow,),
    "jira": (jira.JiraRow,),
    "webhooks": (webhooks.WebhookRow, teams.ChannelRow),
}
"""Kind of ids -> read models whose rows have ids of this kind. Left out are the ids of readings of the audit log, which
no read model contains.
"""


async def find_sequences_behind(pool: AsyncConnectionPool) -> dict[Kind, int]:
    """Returns the highest id in use for each kind whose sequence is behind it. Leaves out tables that are not there."""
    behind: dict[Kind, int] = {}
    for kind, rows in ROWS.items():
        for row in rows:
            column, length = ("first_result_id", "cases") if kind == "results" else ("id", "1")
            query = (
                f"SELECT used FROM (SELECT {column} + greatest({length}, 1) - 1 AS used FROM {row.table}"
                f" ORDER BY {column} DESC LIMIT 1) newest"
                f" WHERE used > coalesce(pg_sequence_last_value('public.{kind}_ids'::regclass), 0)"
            )
            try:
                for (used,) in await fetch_rows(pool, query):
                    behind[kind] = max(used, behind.get(kind, 0))
            except (UndefinedTable, UndefinedColumn):
                continue  # a read model that is not built yet, or broken
    return behind


def describe_behind(behind: Mapping[Kind, int]) -> str:
    """Returns a sentence about the sequences that `find_sequences_behind` has found, with what to do."""
    names = ", ".join(f"{kind}_ids is behind {used}" for kind, used in behind.items())
    return (
        f"sequences of ids were set back, so that ids in use would be given out again ({names}): run `testhide repair`"
    )
