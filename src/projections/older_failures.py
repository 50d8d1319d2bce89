"""Failures that were recorded before a known issue, for the search through them: newest first, a few at a time."""

import msgspec
from psycopg import AsyncConnection

from domain.results import FAILED
from projections.engine.queries import all_rows
from projections.jobs import JobRow
from projections.result_queries import block_with
from projections.results import STATUS, ResultTextRow
from projections.triage import RuleMatchRow, TriageRow

TEXT = 64 * 1024
"""Characters; patterns see no more."""


class OlderText(msgspec.Struct, frozen=True):
    id: int
    job_id: int
    is_open: bool
    """A failure that nobody has classified; of others the texts are left out."""
    fail_id: str
    signature: str
    message: str
    trace: str


_OPEN = (
    f"(coalesce(CASE WHEN t.facts < 0 THEN ~t.facts ELSE t.facts END & {STATUS} = {FAILED}, false)"
    " AND m.id IS NULL AND v.classification IS NULL)"
)


async def below(connection: AsyncConnection, project_id: int, result_id: int, limit: int) -> list[OlderText]:
    """Of the results of a project that say anything, the newest ones before this result."""
    # LIMIT tells the planner that each id is found once: it would read all results for what a few look-ups say.
    return await all_rows(
        connection,
        OlderText,
        f"WITH x AS MATERIALIZED (SELECT * FROM {ResultTextRow.table} WHERE id < %(before)s"
        f"  AND job_id IN (SELECT id FROM {JobRow.table} WHERE project_id = %(project)s)"
        "  ORDER BY id DESC LIMIT %(limit)s)"
        f" SELECT x.id, x.job_id, {_OPEN}, x.fail_id, x.signature,"
        f" CASE WHEN {_OPEN} THEN left(x.message, {TEXT}) ELSE '' END,"
        f" CASE WHEN {_OPEN} THEN left(x.trace, {TEXT}) ELSE '' END FROM x"
        f" LEFT JOIN LATERAL (SELECT b.facts[x.id - b.first_result_id + 1] FROM ({block_with('x.id')}) b) t (facts)"
        " ON true"
        f" LEFT JOIN LATERAL (SELECT id FROM {RuleMatchRow.table} WHERE id = x.id LIMIT 1) m ON true"
        f" LEFT JOIN LATERAL (SELECT classification FROM {TriageRow.table} WHERE id = x.id LIMIT 1) v ON true"
        " ORDER BY x.id DESC",
        {"project": project_id, "before": result_id, "limit": limit},
    )
