"""Looks up what recording a report needs, in several read models at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg_pool import AsyncConnectionPool

from domain.known_issues import MatchRule
from projections import known_issues
from projections.results_cases import fetch_catalogue_version, find_case_ids

BATCH_SIZE = 5_000
"""Node ids looked up in one query."""


@dataclass(frozen=True)
class ReportLookups:
    """Implements `commands.reports.recording.ReadModels`."""

    pool: AsyncConnectionPool

    async def fetch_match_rules(self, project_id: int) -> Sequence[MatchRule]:
        return await known_issues.fetch_match_rules(self.pool, project_id)

    async def find_cases(self, project_id: int, node_ids: Sequence[str]) -> tuple[int, list[int | None]]:
        async with self.pool.connection() as connection:
            version = await fetch_catalogue_version(connection, project_id)
            case_ids: list[int | None] = []
            for start in range(0, len(node_ids), BATCH_SIZE):
                case_ids += await find_case_ids(connection, project_id, list(node_ids[start : start + BATCH_SIZE]))
        return version, case_ids
