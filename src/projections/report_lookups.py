"""Looks up what the recording of a report needs from read models."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from psycopg_pool import AsyncConnectionPool

from domain.artifacts import number_path
from domain.builds import AnyBuild, commit_of
from domain.flakiness import OtherResult
from domain.results import FAILED
from projections import comparable_builds, results_queries
from projections.results_cases import find_case_ids
from projections.results_queries import ReportRanges
from projections.test_health import find_noted_outages


@dataclass(frozen=True)
class ReportLookups:
    """Implements `commands.reports.recording.ReadModels` by queries over several read models."""

    pool: AsyncConnectionPool

    async def find_cases(self, project_id: int, node_ids: Sequence[str]) -> list[int | None]:
        async with self.pool.connection() as connection:
            return await find_case_ids(connection, project_id, node_ids)

    async def find_results_on_commit(self, build: AnyBuild, path: str, failed: Sequence[int]) -> Sequence[OtherResult]:
        found: list[OtherResult] = []
        async with self.pool.connection() as connection:
            others = await comparable_builds.find_ended_on_commit(
                connection,
                build.queued.job_id,
                commit_of(build),
                build.queued.matrix,
                other_than=build.build_id,
                untrusted=build.queued.untrusted,
            )
            for build_id in others:
                ranges_of_build = await results_queries.fetch_reports(connection, build_id)
                reports = {report.path: report for report in ranges_of_build.reports}
                same_path = [reports[name] for name in takewhile(reports.__contains__, number_path(path))]
                if same_path:
                    same_path.sort(key=lambda report: report.first_result_id)
                    ranges = ReportRanges(same_path, ranges_of_build.has_superseded)
                    found += await results_queries.fetch_comparable(connection, build_id, ranges, failed)
            runs = {(other.build_id, other.case_id) for other in found if other.status == FAILED}
            outages = await find_noted_outages(connection, runs) if runs else set()
        return [other for other in found if (other.build_id, other.case_id) not in outages]
