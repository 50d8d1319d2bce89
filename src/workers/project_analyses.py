"""AI jobs, which analyse a project: audits, clusters of failures, and searches for regressions.

Everything is read from the read models, by queries whose number and size are limited, and only from one project. No
language model is asked here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg_pool import AsyncConnectionPool

from commands.reports.causes import EqualFailures
from commands.reports.failure_clusters import FailedBuild, FailureCluster, find_clusters, summarize_clusters
from domain.assistant.answers import Answer
from domain.assistant.job_states import is_red
from domain.assistant.project_audits import (
    ProjectAuditFacts,
    QuarantineEntryFacts,
    UnreadCluster,
    UnstableTest,
    audit,
    put_present_first,
    summarize_audit,
)
from domain.assistant.regression_scans import FailingTest, find_regressions, summarize_regressions
from domain.health_advice import find_newest_failures
from domain.inquiries import JobType
from domain.quarantine import filter_quarantined
from domain.run_histories import count_failing
from domain.test_health import FAILED, OUTAGE, Assessment, assess
from projections import first_failures, jobs, project_analyses, quarantine, results_history, test_health, trends
from projections.job_states import fetch_job_states
from projections.known_causes import fetch_known_causes
from projections.missed_builds import count_newer_builds
from projections.results_days import day_of
from projections.results_queries import fetch_equal_failures, fetch_reports
from projections.test_health import CaseHistory
from store.postgres.queries import connected

DAYS = 30
"""Number of days that an AI job looks back."""
MAX_BUILDS = 100
"""Largest number of failed builds whose failures are read: the newest ones."""
MAX_SIGNATURES = 50
"""Largest number of signatures of one build that are read: the most frequent ones."""
EXAMPLES = 3
"""Number of failures of a signature, or of a cluster, that are shown as examples."""
MAX_FLAKES = 100
"""Largest number of tests that an audit lists as unstable: flaky tests first, those with the highest flake rates before
others, then tests with outages.
"""
MIN_OUTAGES = 2
"""Number of outages of a test from which an audit lists the test even if it is not flaky."""
MAX_ENTRIES = 1_000
"""Largest number of quarantine entries that an audit reads: the oldest ones."""
MAX_SCANNED = 200
"""Largest number of failing tests that a search for regressions looks at: those that failed last."""
RECENT_RUNS = 200
"""Number of the last runs of a test, on any branch, that matter to a search for regressions. The search reads only
tests that failed, or passed on a retry, in one of these runs.
"""
MAX_RECENTLY_FAILED = 1_000
"""Largest number of tests that a search for regressions reads: those that failed last."""
MAX_ASSESSED_RUNS = 1_000
"""Number of the newest runs of a test from which the server decides whether the test is flaky."""

TakeStep = Callable[[str, str], Awaitable[None]]
"""Function that records a look-up: its kind, and a sentence that says what was found."""


class Findings(msgspec.Struct, frozen=True):
    answer: Answer
    evidence: dict[str, Any]
    result: dict[str, Any]
    """Fields of the `result` that the API shows of the AI job."""
    lead: int | None = None
    """Id of the failed result whose cause matters most; None if no failure was found."""


@dataclass(frozen=True)
class ProjectAnalyst:
    pool: AsyncConnectionPool
    clock: Callable[[], datetime]

    async def analyze(self, kind: JobType, project_id: int, take_step: TakeStep) -> Findings:
        match kind:
            case "project_audit":
                return await self._audit(project_id, take_step)
            case "failure_cluster":
                return await self._cluster(project_id, take_step)
            case "regression_scan":
                return await self._scan(project_id, take_step)

    async def _audit(self, project_id: int, take_step: TakeStep) -> Findings:
        now = self.clock()
        days = await trends.fetch_trend(self.pool, "project_id", project_id, now - timedelta(days=DAYS))
        passed, failed = sum(day.passed for day in days), sum(day.failed for day in days)
        greens = sorted(day.time_to_green_s for day in days if day.time_to_green_s is not None)
        await take_step("builds", f"{passed:,} builds passed and {failed:,} failed in {DAYS} days.")
        entries = await project_analyses.fetch_quarantine(
            self.pool, project_id, await jobs.fetch_ids(self.pool, project_id), MAX_ENTRIES
        )
        active = [entry for entry in entries if quarantine.status_at(entry, now)[0] == "active"]
        await take_step("quarantine", f"{len(entries):,} entries are in quarantine.")
        flakes = await self._find_flakes(project_id, now, {(entry.job_id, entry.node_id) for entry in active})
        flaky = sum(not test.is_infrastructure and test.known is None for test in flakes)
        await take_step("flaky_tests", f"{flaky:,} tests are flaky by their history.")
        builds, failures, unread = await self._read_failures(project_id, now)
        clusters = await asyncio.to_thread(find_clusters, builds)
        async with connected(self.pool) as connection:
            states = await fetch_job_states(connection, project_id)
        red = [state.build_id for state in states if is_red(state.status)]
        open_clusters = put_present_first(await self._find_unread(clusters), red)
        await take_step("failures", f"{unread:,} of {failures:,} failures have no classification.")
        facts = ProjectAuditFacts(
            project_id,
            DAYS,
            passed,
            failed,
            greens[len(greens) // 2] if greens else None,
            tuple(flakes),
            tuple(
                QuarantineEntryFacts(
                    entry.job_id, entry.node_id, (now - entry.quarantined_at).days, entry not in active
                )
                for entry in entries
            ),
            failures,
            unread,
            tuple(open_clusters),
        )
        found = audit(facts)
        answer = summarize_audit(facts, found)
        result = {
            "audit_score": found.audit_score,
            "recommendations": [one.step.text for one in found.recommendations],
            "actions": [msgspec.to_builtins(one.step) | {"sources": one.sources} for one in found.recommendations],
            "lost_points": found.lost_points,
            "builds_passed": passed,
            "builds_failed": failed,
            "time_to_green_s": facts.time_to_green_s,
            "flaky_tests": len(facts.flakes),
            "quarantined_tests": len(entries),
            "failures": failures,
            "unread_failures": unread,
        }
        lead = open_clusters[0].result_id if open_clusters else None
        return _to_findings(answer, facts, result, lead)

    async def _cluster(self, project_id: int, take_step: TakeStep) -> Findings:
        builds, failures, _ = await self._read_failures(project_id, self.clock())
        await take_step("failures", f"{failures:,} tests failed in {len(builds):,} failed builds.")
        clusters = await asyncio.to_thread(find_clusters, builds)
        clusters = [await self._add_tests(cluster) for cluster in clusters]
        await take_step("clusters", f"{len(clusters):,} causes are probably different.")
        answer = summarize_clusters(project_id, clusters, len(builds))
        result = {
            "clusters": [
                msgspec.to_builtins(cluster)
                | {"sources": [f"build:{cluster.first_build}", *(f"test:{one}" for one in cluster.result_ids)]}
                for cluster in clusters
            ],
            "builds": len(builds),
            "failures": failures,
        }
        return _to_findings(answer, clusters, result, max(clusters[0].result_ids) if clusters else None)

    async def _scan(self, project_id: int, take_step: TakeStep) -> Findings:
        case_ids = await test_health.find_recently_failed(self.pool, project_id, RECENT_RUNS, MAX_RECENTLY_FAILED)
        cases = await test_health.fetch_histories(self.pool, case_ids)
        failed = [(case, run) for case in cases if (run := case.history.find_failing()) is not None]
        newest = sorted(failed, key=lambda pair: (-pair[1].minute, pair[0].id))[:MAX_SCANNED]
        await take_step("failing_tests", f"{len(newest):,} tests failed in their newest run on a default branch.")
        last = {case.id: (case.history.find_last_failing() or run).build_id for case, run in newest}
        newer = await count_newer_builds(self.pool, set(last.values()))
        failing = [
            msgspec.structs.replace(found, last_build=last[case.id], missed_builds=newer.get(last[case.id], 0))
            for case, run in newest
            if (found := await self._find_first_failure(case, run.build_id)) is not None
        ]
        regressions = find_regressions(failing)
        await take_step("first_failures", f"{len(regressions):,} of them fail since a commit or their first run.")
        async with connected(self.pool) as connection:
            states = await fetch_job_states(connection, project_id)
        red = sum(is_red(state.status) for state in states)
        await take_step("jobs", f"{red:,} of {len(states):,} jobs are red by their newest builds.")
        answer = summarize_regressions(project_id, regressions, len(failing), states)
        result = {"regressions": msgspec.to_builtins(regressions), "tests_checked": len(failing)}
        present = [one.result_id for one in regressions if not one.missed_builds]
        return _to_findings(answer, failing, result, present[0] if present else None)

    async def _find_first_failure(self, case: CaseHistory, build_id: int) -> FailingTest | None:
        """Returns a failing test with the build in which it began to fail. `build_id` is the build of a run in which
        the test failed. Returns None if this build was deleted.
        """
        texts = await test_health.fetch_failure_texts(self.pool, case.id, [build_id], [])
        if not texts:
            return None
        first = await first_failures.find(self.pool, case.id, build_id, texts[0].result_id)
        probability = (await asyncio.to_thread(_assess, case)).flaky_probability
        has_passed = case.history.runs > sum(run.flags & FAILED != 0 for run in case.history.notable)
        return FailingTest(
            case.id,
            case.node_id,
            texts[0].result_id,
            texts[0].message,
            probability,
            first,
            has_passed,
            count_failing(case.history)[0],
        )

    async def _find_flakes(
        self, project_id: int, now: datetime, quarantined: set[tuple[int, str]]
    ) -> list[UnstableTest]:
        since = day_of(now) - DAYS + 1
        suspects = await test_health.fetch_suspects(self.pool, project_id, since, test_health.MAX_SUSPECTS)
        # Their whole histories, since failures before the window count, too.
        histories = await test_health.fetch_histories(self.pool, [case.id for case in suspects])
        assessed = await asyncio.to_thread(lambda: [(case, _assess(case)) for case in histories])
        flaky = sorted(
            ((case, found) for case, found in assessed if found.is_flaky or _count_outages(case) >= MIN_OUTAGES),
            key=lambda pair: (not pair[1].is_flaky, -pair[1].flake_rate, pair[0].id),
        )[:MAX_FLAKES]
        last_builds = {case.id: case.history.notable[-1].build_id for case, _ in flaky if case.history.notable}
        known = await fetch_known_causes(
            self.pool, {case.id: find_newest_failures(case.history) for case, found in flaky if found.is_flaky}
        )
        job_of = await project_analyses.fetch_jobs(self.pool, list(last_builds.values()))
        flakes: list[UnstableTest] = []
        for case, found in flaky:
            job_id = job_of.get(last_builds.get(case.id, 0))
            if job_id is not None:
                entries = [node_id for job, node_id in quarantined if job == job_id]
                flakes.append(
                    UnstableTest(
                        case.id,
                        case.node_id,
                        job_id,
                        round(found.flake_rate, 4),
                        is_quarantined=bool(filter_quarantined([case.node_id], entries)),
                        is_infrastructure=not found.is_flaky,
                        known=known.get(case.id),
                    )
                )
        return flakes

    async def _read_failures(self, project_id: int, now: datetime) -> tuple[list[FailedBuild], int, int]:
        """Returns the newest failed builds with their failures, the number of these failures, and how many of them
        nobody has classified.
        """
        since = now - timedelta(days=DAYS)
        failures = unread = 0
        builds: list[FailedBuild] = []
        for row in await project_analyses.fetch_failed_builds(self.pool, project_id, since, MAX_BUILDS):
            ranges = await fetch_reports(self.pool, row.id)
            if not ranges.reports:
                continue
            found = await fetch_equal_failures(
                self.pool, ranges, EqualFailures, signatures=MAX_SIGNATURES, examples=EXAMPLES
            )
            counts = await project_analyses.count_unread(self.pool, ranges)
            failures, unread = failures + counts[0], unread + counts[1]
            builds.append(FailedBuild(row.id, row.created_at, tuple(found)))
        return builds, failures, unread

    async def _find_unread(self, clusters: Sequence[FailureCluster]) -> list[UnreadCluster]:
        newest = {max(cluster.result_ids): cluster for cluster in clusters if cluster.signatures[0]}
        unread = await project_analyses.find_unread(self.pool, list(newest))
        return [
            UnreadCluster(
                cluster.signatures[0],
                cluster.message,
                cluster.failures,
                cluster.builds,
                result_id,
                "infra" if cluster.kind == "infrastructure" else "product_bug",
                (await self._add_tests(cluster)).tests,
                cluster.last_build,
            )
            for result_id, cluster in newest.items()
            if result_id in unread
        ]

    async def _add_tests(self, cluster: FailureCluster) -> FailureCluster:
        """Returns a copy of the cluster with its newest EXAMPLES results and the node ids of their tests."""
        shown = cluster.result_ids[-EXAMPLES:]
        found = [await results_history.find_origin(self.pool, result_id) for result_id in shown]
        names = dict.fromkeys(origin.node_id for origin in found if origin is not None)
        return msgspec.structs.replace(cluster, result_ids=shown, tests=tuple(names))


def _assess(case: CaseHistory) -> Assessment:
    return assess(case.history.newest(MAX_ASSESSED_RUNS).to_bytes())


def _to_findings(answer: Answer, evidence: object, result: dict[str, Any], lead: int | None) -> Findings:
    facts = msgspec.to_builtins(evidence)
    return Findings(
        answer,
        facts if isinstance(facts, dict) else {"items": facts},
        msgspec.to_builtins(result | {"days": DAYS}),
        lead,
    )


def _count_outages(case: CaseHistory) -> int:
    return sum(run.flags & OUTAGE != 0 for run in case.history.notable)
