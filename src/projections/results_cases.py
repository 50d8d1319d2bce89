"""Test cases: their tables, counters and look-up by name. A test case is one test of a project across builds.

The counters of a case change with each run, so they have a table of their own.
"""

from collections.abc import Sequence
from operator import sub

import msgspec

from domain.quarantine import MAX_PREFIXES
from domain.results import FAILED, PASSED, SKIPPED
from projections.engine.model import Int, Row, SmallInt, Table
from store.postgres.queries import Source, fetch_rows

VERSION = 9
"""Version of the projection `results`, to which the tables of this file belong."""

MAX_SEARCHED_CASES = 200_000
"""Largest number of a project's test cases with which `find_unknown` compares quarantine entries. If the project has
more, nothing is compared. Comparing takes about 5 µs for each test case.
"""
BATCH_SIZE = 5_000
"""Number of node ids that one query looks up."""
NO_RUN = -1
MIXED = 3
"""Outcome of a run with passed and failed results: the test passed in one report or suite and failed in another."""


class TestCaseRow(Row, frozen=True):
    __test__ = False  # tells pytest that this is not a test class

    # Node ids are long and looked up by the thousand, so the index holds an 8-byte hash instead of the text.
    table = Table("test_cases", VERSION, indexes=("(hashtextextended(node_id, project_id))", "(project_id, id)"))
    id: int
    project_id: int
    node_id: str
    suite: str


class CaseStatsRow(Row, frozen=True):
    """Counters of the outcomes of a test case.

    A run consists of the results of the case in one build, without skipped results and results that do not count. Runs
    are in the order of the log. A run failed if one of its results failed. A mixed run has passed and failed results.
    It is no flip, and it is not flaky for this reason alone: the test may fail on Python 3.11 and pass on 3.12.
    """

    table = Table("case_stats", VERSION, key=("case_id",), in_columns=True)
    case_id: int
    last_build_id: int = 0
    """Id of the build of the last run. `job_id` and `commit` belong to the same build."""
    job_id: Int = 0
    commit: int = 0
    """`commit_number` of the last run's build; 0 if the commit is not known."""
    runs: Int = 0
    failures: Int = 0
    flips: Int = 0
    """Number of times that the outcome changed between passed and failed, from one run to the next of the same job."""
    flaky_runs: Int = 0
    """Number of runs that have a flaky result, or whose outcome flipped while the commit stayed the same."""
    passed: Int = 0
    """Number of passed results of the last run. The fields `failed` and `flaky` have the numbers of its failed and
    flaky results.
    """
    failed: Int = 0
    flaky: Int = 0
    outcome_before: SmallInt = NO_RUN
    """Outcome of the run before the last one; outages in between are skipped. NO_RUN if there is no such run, or if it
    belongs to another job.
    """
    commit_before: int = 0
    outages: Int = 0
    """Number of results of the last run that failed, or passed only on a retry, because of an outage."""

    @property
    def is_ordinary(self) -> bool:
        """Whether all results of the last run passed, none of them flaky or in an outage. Then `results_passes` may
        count the next passes.
        """
        return self.passed > 0 and not (self.failed or self.flaky or self.outages)

    @property
    def outcome(self) -> int:
        """Outcome of the last run. NO_RUN if all its results were replaced."""
        if self.failed:
            return MIXED if self.passed else FAILED
        return PASSED if self.passed else NO_RUN

    @property
    def is_outage(self) -> bool:
        """Whether the last run failed, or passed only on a retry, because of an outage and for no other reason."""
        return 0 < self.outages >= self.failed + self.flaky


class CatalogueRow(Row, frozen=True):
    """Number of test cases of a project, and the version up to which the project's stream of test cases was read."""

    table = Table("case_catalogues", VERSION, key=("project_id",))
    project_id: int
    version: int
    cases: Int


def add_result(
    stats: CaseStatsRow, build_id: int, job_id: int, commit: int, status: int, *, flaky: bool, outage: bool = False
) -> CaseStatsRow:
    """Returns the counters after one more result. All results of a build belong to one run, also from different reports
    or suites.
    """
    if status == SKIPPED:
        return stats
    if stats.last_build_id != build_id:
        stats = _begin_run(stats, build_id, job_id, commit)
    return _with_results(
        stats,
        stats.passed + (status == PASSED),
        stats.failed + (status == FAILED),
        stats.flaky + flaky,
        stats.outages + outage,
    )


def remove_result(
    stats: CaseStatsRow, build_id: int, status: int, *, flaky: bool, outage: bool = False
) -> CaseStatsRow:
    """Returns the counters after a result was taken out. The result must belong to the last run, or be the only result
    of its run.
    """
    if status == SKIPPED:
        return stats
    if stats.last_build_id != build_id:
        return correct_run(stats, status, SKIPPED)
    return _with_results(
        stats,
        max(0, stats.passed - (status == PASSED)),
        max(0, stats.failed - (status == FAILED)),
        max(0, stats.flaky - flaky),
        max(0, stats.outages - outage),
    )


def _begin_run(stats: CaseStatsRow, build_id: int, job_id: int, commit: int) -> CaseStatsRow:
    outcome, commit_before = stats.outcome, stats.commit
    if outcome == NO_RUN or (outcome == FAILED and stats.is_outage):
        outcome, commit_before = stats.outcome_before, stats.commit_before
    if stats.job_id != job_id:
        outcome, commit_before = NO_RUN, 0
    return msgspec.structs.replace(
        stats,
        last_build_id=build_id,
        job_id=job_id,
        commit=commit,
        passed=0,
        failed=0,
        flaky=0,
        outages=0,
        outcome_before=outcome,
        commit_before=commit_before,
    )


def _with_results(stats: CaseStatsRow, passed: int, failed: int, flaky: int, outages: int) -> CaseStatsRow:
    """Returns the counters after the last run has got these numbers of passed, failed and flaky results, and of
    outages.
    """
    after = msgspec.structs.replace(stats, passed=passed, failed=failed, flaky=flaky, outages=outages)
    runs, failures, flips, flaky_runs = map(sub, _count_last_run(after), _count_last_run(stats))
    return msgspec.structs.replace(
        after,
        runs=stats.runs + runs,
        failures=stats.failures + failures,
        flips=stats.flips + flips,
        flaky_runs=stats.flaky_runs + flaky_runs,
    )


def _count_last_run(stats: CaseStatsRow) -> tuple[bool, bool, bool, bool]:
    """Returns whether the last run is counted in `runs`, in `failures`, in `flips` and in `flaky_runs`."""
    is_outage = stats.is_outage
    is_flip = {stats.outcome, stats.outcome_before} == {PASSED, FAILED} and not is_outage
    is_flaky = (stats.flaky > 0 and not is_outage) or (
        is_flip and stats.commit != 0 and stats.commit == stats.commit_before
    )
    return stats.outcome != NO_RUN, stats.failed > 0, is_flip, is_flaky


def correct_run(stats: CaseStatsRow, was: int, status: int) -> CaseStatsRow:
    """Returns the counters after the status of a run before the last one has changed from `was` to `status`."""
    return msgspec.structs.replace(
        stats,
        runs=stats.runs + (was == SKIPPED) - (status == SKIPPED),
        failures=stats.failures + (status == FAILED) - (was == FAILED),
    )


async def find_case_ids(source: Source, project_id: int, node_ids: Sequence[str]) -> list[int | None]:
    """Returns for each node id the id of its case, or None if the project has no such case."""
    # Without OFFSET, PostgreSQL may compare each node id with all cases of the project, by the other index.
    query = (
        "SELECT wanted.number, c.id FROM unnest(%(node_ids)s::text[]) WITH ORDINALITY wanted(node_id, number)"
        f" CROSS JOIN LATERAL (SELECT * FROM {TestCaseRow.table}"
        "  WHERE hashtextextended(node_id, project_id) = hashtextextended(wanted.node_id, %(project)s::bigint)"
        "  OFFSET 0) c"
        " WHERE c.node_id = wanted.node_id AND c.project_id = %(project)s::bigint"
    )
    found: list[int | None] = [None] * len(node_ids)
    for start in range(0, len(node_ids), BATCH_SIZE):
        parameters = {"project": project_id, "node_ids": list(node_ids[start : start + BATCH_SIZE])}
        for number, case_id in await fetch_rows(source, query, parameters):
            found[start + number - 1] = case_id
    return found


async def find_unknown(source: Source, project_id: int, entries: Sequence[str]) -> list[str]:
    """Returns the quarantine entries that match no test case of a project. Returns none if the project has no test
    cases yet, or more than MAX_SEARCHED_CASES.
    """
    query = f"SELECT cases FROM {CatalogueRow.table} WHERE project_id = %(project)s"
    ((cases,),) = await fetch_rows(source, query, {"project": project_id}) or [(0,)]
    if not 0 < cases <= MAX_SEARCHED_CASES:
        return []
    case_ids = await find_case_ids(source, project_id, entries)
    unknown = [entry for entry, case_id in zip(entries, case_ids, strict=True) if case_id is None]
    if unknown:
        # Each part begins with the `::` or `[` before which a prefix may end.
        parts = r"string_to_array(regexp_replace(node_id, '(::|\[)', E'\x01\\1', 'g'), E'\x01')"
        query = (
            "SELECT DISTINCT prefix FROM (SELECT array_to_string(parts[1:number], '') AS prefix"
            f" FROM (SELECT {parts} AS parts FROM {TestCaseRow.table} WHERE project_id = %(project)s) c,"
            f" generate_series(1, least(cardinality(parts) - 1, {MAX_PREFIXES})) number) p"
            " WHERE prefix = ANY (%(unknown)s)"
        )
        prefixes = {
            prefix for (prefix,) in await fetch_rows(source, query, {"project": project_id, "unknown": unknown})
        }
        unknown = [entry for entry in unknown if entry not in prefixes]
    return unknown
