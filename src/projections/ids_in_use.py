"""Finds sequences that are behind the ids in use.

A sequence is behind only if somebody has set it back. Then it would allocate ids that are in use already.
"""

from collections.abc import Mapping

from psycopg.errors import UndefinedColumn, UndefinedTable
from psycopg_pool import AsyncConnectionPool

from projections import (
    artifacts,
    auth,
    builds,
    identity_providers,
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
    vcenter,
    vcenter_operations,
    webhooks,
)
from projections.engine.model import Row
from store.log.ids import KINDS, SKIPPED, STREAMS, Kind
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
    "vcenter": (vcenter.VcenterRow,),
    "vcenter_operations": (vcenter_operations.VcenterOperationRow,),
    "identity_providers": (identity_providers.IdentityProviderRow,),
    "webhooks": (webhooks.WebhookRow, teams.ChannelRow),
}
"""Kind of id -> read models whose rows have such ids. Ids of other kinds are looked up in the log."""
TABLES = ("webhook_deliveries", "webhook_attempts")
"""Tables of the store whose rows are numbered by a sequence `<table>_id_seq`."""
MAX_UNUSED = 2 * SKIPPED
"""Number of ids after the highest id known to be in use that are looked up in the log. If none of them is in use, the
search ends. It is more than the number of ids that a restore leaves unused.
"""


async def find_sequences_behind(pool: AsyncConnectionPool) -> dict[str, int]:
    """Returns sequence -> highest id in use, for each sequence that is behind its ids. Ignores missing tables."""
    found: dict[str, int] = {}
    for kind in KINDS:
        name = f"{kind}_ids"
        if kind not in ROWS:
            used = await _find_newest_stream(pool, name, STREAMS[kind][0])
            found |= {name: used} if used else {}
        for row in ROWS.get(kind, ()):
            column, length = ("first_result_id", "cases") if kind == "results" else ("id", "1")
            used = await _find_newest_row(pool, name, str(row.table), column, length)
            found |= {name: max(used, found.get(name, 0))} if used else {}
    for table in TABLES:
        used = await _find_newest_row(pool, name := f"{table}_id_seq", table, "id", "1")
        found |= {name: used} if used else {}
    return found


async def _find_newest_row(pool: AsyncConnectionPool, sequence: str, table: str, column: str, length: str) -> int:
    """Returns the highest id in a table if the sequence is behind it, else 0."""
    query = (
        f"SELECT used FROM (SELECT {column} + greatest({length}, 1) - 1 AS used FROM {table}"
        f" ORDER BY {column} DESC LIMIT 1) newest"
        f" WHERE used > coalesce(pg_sequence_last_value('public.{sequence}'::regclass), 0)"
    )
    try:
        return sum(used for (used,) in await fetch_rows(pool, query))
    except (UndefinedTable, UndefinedColumn):
        return 0  # a read model that is not built yet, or broken


async def _find_newest_stream(pool: AsyncConnectionPool, sequence: str, prefix: str) -> int:
    """Returns the highest id in the name of a stream if the sequence is behind it, else 0."""
    try:
        ((last,),) = await fetch_rows(
            pool, f"SELECT coalesce(pg_sequence_last_value('public.{sequence}'::regclass), 0)"
        )
        newest = 0
        while used := await _find_stream_after(pool, prefix, newest or last):
            newest = used
    except UndefinedTable:
        return 0
    return newest


async def _find_stream_after(pool: AsyncConnectionPool, prefix: str, number: int) -> int:
    query = (
        "SELECT coalesce(max(number), 0) FROM generate_series(%s::bigint, %s::bigint) AS number"
        # The LIMIT has each id looked up in the index. EXISTS would read the whole log if it was not vacuumed lately.
        " CROSS JOIN LATERAL (SELECT FROM stored_events WHERE originator_id = %s || number LIMIT 1) AS used"
    )
    ((used,),) = await fetch_rows(pool, query, (number + 1, number + MAX_UNUSED, f"{prefix}-"))
    return int(used)


def describe_behind(behind: Mapping[str, int]) -> str:
    """Returns a sentence that names the sequences in `behind` and says what to do."""
    names = ", ".join(f"{name} is behind {used}" for name, used in behind.items())
    return (
        f"sequences of ids were set back, so that ids in use would be given out again ({names}): run `testhide repair`"
    )
