"""Test cases: tables, counters and look-up by name. A test case is one test of a project across builds.

A case's counters change with every run, so they are in another table than its name.
"""

import msgspec
from psycopg import AsyncConnection

from domain.results import FAILED, PASSED, SKIPPED
from projections.engine.model import Int, Row, SmallInt, Table
from projections.engine.queries import fetch_value
from store.postgres.queries import fetch_rows

VERSION = 3
"""Version of the projection `results`, which also writes the tables of this file."""

NO_RUN = -1
MIXED = 3
"""The outcome of a run with results of both kinds: the test failed in one report or suite and passed in another."""


RETRIED, FLIPPED = 1, 2
"""Why a run is flaky: a result of it was reported as flaky, or it flipped on the commit of the run before."""
_FAILURES = (FAILED, MIXED)


class TestCaseRow(Row, frozen=True):
    __test__ = False  # tells pytest that this is not a test class

    # Node ids are long and looked up by the thousand, so the index holds an 8-byte hash instead of the text.
    table = Table("test_cases", VERSION, indexes=("(hashtextextended(node_id, project_id))",))
    id: int
    project_id: int
    node_id: str
    suite: str


class CaseStatsRow(Row, frozen=True):
    """Outcome counters of a test case. A run is all its results in one build that are not skipped, in the order of the
    log. It failed when one of them did. A mixed run is no flip, nor flaky by itself: that may be Python 3.11 and 3.12.
    """

    table = Table("case_stats", VERSION, key=("case_id",))
    case_id: int
    last_build_id: int
    runs: Int = 0
    failures: Int = 0
    flips: Int = 0
    """Changes between passed and failed from one run to the next."""
    flaky_runs: Int = 0
    """Runs that passed only on a retry, or flipped on the same commit as the run before."""
    last_status: SmallInt = SKIPPED
    verdict: SmallInt = NO_RUN
    """Outcome of the last run; NO_RUN when there was none, MIXED when its results differ."""
    commit: int = 0
    """`commit_number` of the last run; 0 when it is not known."""
    verdict_before: SmallInt = NO_RUN
    commit_before: int = 0
    last_is_flaky: SmallInt = 0
    """RETRIED or FLIPPED when the last run is counted in `flaky_runs`, else 0."""


class CatalogueRow(Row, frozen=True):
    """How far the test cases of a project are projected: the version of its stream of cases, and their number."""

    table = Table("case_catalogues", VERSION, key=("project_id",))
    project_id: int
    version: int
    cases: Int


def add_run(stats: CaseStatsRow, build_id: int, commit: int, status: int, flaky: bool) -> CaseStatsRow:
    """The counters after one more result; a second one of the same build, from another report or suite, is of the same
    run.
    """
    if stats.last_build_id == build_id and stats.last_status != SKIPPED:
        if status == SKIPPED:
            return stats
        flaky = flaky or stats.last_is_flaky == RETRIED
        status = status if status == stats.verdict else MIXED
        stats = _without_last_run(stats)
    if status == SKIPPED:
        return msgspec.structs.replace(stats, last_build_id=build_id, last_status=SKIPPED, last_is_flaky=0)
    verdict = stats.verdict
    flip = _is_flip(verdict, status)
    is_flaky = flaky or (flip and commit != 0 and commit == stats.commit)
    # Positional arguments: every result of a report comes through here, and keywords cost a third more.
    return CaseStatsRow(
        stats.case_id,
        build_id,
        stats.runs + 1,
        stats.failures + (status in _FAILURES),
        stats.flips + flip,
        stats.flaky_runs + is_flaky,
        status,  # last_status
        status,  # verdict
        commit,
        verdict,  # verdict_before
        stats.commit,  # commit_before
        RETRIED if flaky else FLIPPED if is_flaky else 0,  # last_is_flaky
    )


def replace_run(stats: CaseStatsRow, build_id: int, commit: int, status: int, flaky: bool) -> CaseStatsRow:
    """The counters after the last run was replaced by a result of the same build."""
    if stats.last_status == SKIPPED:
        return add_run(stats, build_id, commit, status, flaky)
    flaky = flaky or (stats.verdict == FAILED and status == PASSED)
    return add_run(msgspec.structs.replace(_without_last_run(stats), last_build_id=0), build_id, commit, status, flaky)


def _without_last_run(stats: CaseStatsRow) -> CaseStatsRow:
    return msgspec.structs.replace(
        stats,
        runs=stats.runs - 1,
        failures=stats.failures - (stats.verdict in _FAILURES),
        flips=stats.flips - _is_flip(stats.verdict_before, stats.verdict),
        flaky_runs=stats.flaky_runs - (stats.last_is_flaky != 0),
        verdict=stats.verdict_before,
        commit=stats.commit_before,
        verdict_before=NO_RUN,
        commit_before=0,
        last_is_flaky=0,
    )


def _is_flip(before: int, after: int) -> bool:
    return before != after and {before, after} == {PASSED, FAILED}


def correct_run(stats: CaseStatsRow, was: int, status: int) -> CaseStatsRow:
    """The counters after the status of a run that is not the last one changed from `was` to `status`."""
    return msgspec.structs.replace(
        stats,
        runs=stats.runs + (was == SKIPPED) - (status == SKIPPED),
        failures=stats.failures + (status == FAILED) - (was == FAILED),
    )


async def fetch_catalogue_version(connection: AsyncConnection, project_id: int) -> int:
    """The projected version of the project's stream of cases. Read it before `find_case_ids`: a case that is then not
    found was not in the stream at this version.
    """
    query = f"SELECT version FROM {CatalogueRow.table} WHERE project_id = %(project)s"
    return int(await fetch_value(connection, query, {"project": project_id}) or 0)


async def find_case_ids(connection: AsyncConnection, project_id: int, node_ids: list[str]) -> list[int | None]:
    """The case id of each node id, None where the project has no such case. Pass a few thousand at a time at most."""
    query = (
        f"SELECT wanted.number, c.id FROM unnest(%(node_ids)s::text[]) WITH ORDINALITY wanted(node_id, number)"
        f" JOIN {TestCaseRow.table} c"
        " ON hashtextextended(c.node_id, c.project_id) = hashtextextended(wanted.node_id, %(project)s::bigint)"
        " AND c.node_id = wanted.node_id AND c.project_id = %(project)s::bigint"
    )
    parameters = {"project": project_id, "node_ids": node_ids}
    found: list[int | None] = [None] * len(node_ids)
    for number, case_id in await fetch_rows(connection, query, parameters):
        found[number - 1] = case_id
    return found
