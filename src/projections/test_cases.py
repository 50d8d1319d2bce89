"""Test cases: the tests of a project across builds, how each has fared, and finding them by name.

What changes with each run are a case's numbers, so they lie apart from its name.
"""

import msgspec
from psycopg import AsyncConnection

from domain.results import FAILED, PASSED, SKIPPED
from projections.engine.model import Int, Row, SmallInt, Table
from projections.engine.queries import scalar

VERSION = 2
"""Of the projection `results`, which keeps these tables too."""

NO_RUN = -1


class TestCaseRow(Row, frozen=True):
    __test__ = False  # for pytest, which takes the name for a test's

    # Node ids are long and looked up a thousand at a time: eight bytes of hash find them as well as all of the text.
    table = Table("test_cases", VERSION, indexes=("(hashtextextended(node_id, project_id))",))
    id: int
    project_id: int
    node_id: str
    suite: str


class CaseStatsRow(Row, frozen=True):
    """How a test has fared. A run is a result that counts and is not skipped; runs follow each other as recorded."""

    table = Table("case_stats", VERSION, key=("case_id",))
    case_id: int
    last_build_id: int
    runs: Int = 0
    failures: Int = 0
    flips: Int = 0
    """Changes between passed and failed from one run to the next."""
    flaky_runs: Int = 0
    """Runs that passed only after a failure, or flipped on the commit of the run before."""
    last_status: SmallInt = SKIPPED
    verdict: SmallInt = NO_RUN
    """Status of the last run."""
    commit: int = 0
    """The last run's, by its `commit_number`."""
    verdict_before: SmallInt = NO_RUN
    commit_before: int = 0
    last_is_flaky: SmallInt = 0
    """1 when the last run counts in `flaky_runs`."""


class CatalogueRow(Row, frozen=True):
    """The version of a project's cases' stream that the cases here show."""

    table = Table("case_catalogues", VERSION, key=("project_id",))
    project_id: int
    version: int
    cases: Int


def after_run(stats: CaseStatsRow, build_id: int, commit: int, status: int, flaky: bool) -> CaseStatsRow:
    """One more run. A second result of the same build, of another file or attempt, takes the first one's place."""
    if stats.last_build_id == build_id and stats.last_status != SKIPPED:
        flaky = flaky or (stats.verdict == FAILED and status == PASSED)
        stats = _undone(stats)
    if status == SKIPPED:
        return msgspec.structs.replace(stats, last_build_id=build_id, last_status=SKIPPED, last_is_flaky=0)
    verdict = stats.verdict
    flip = verdict != status and verdict != NO_RUN
    is_flaky = flaky or (flip and commit != 0 and commit == stats.commit)
    # By place: every result of a report comes through here, and names cost a third more.
    return CaseStatsRow(
        stats.case_id,
        build_id,
        stats.runs + 1,
        stats.failures + (status == FAILED),
        stats.flips + flip,
        stats.flaky_runs + is_flaky,
        status,  # last_status
        status,  # verdict
        commit,
        verdict,  # verdict_before
        stats.commit,  # commit_before
        int(is_flaky),  # last_is_flaky
    )


def _undone(stats: CaseStatsRow) -> CaseStatsRow:
    """Without its last run."""
    return msgspec.structs.replace(
        stats,
        runs=stats.runs - 1,
        failures=stats.failures - (stats.verdict == FAILED),
        flips=stats.flips - (stats.verdict_before not in (NO_RUN, stats.verdict)),
        flaky_runs=stats.flaky_runs - stats.last_is_flaky,
        verdict=stats.verdict_before,
        commit=stats.commit_before,
        verdict_before=NO_RUN,
        commit_before=0,
        last_is_flaky=0,
    )


def corrected(stats: CaseStatsRow, was: int, status: int) -> CaseStatsRow:
    """An older run turned out otherwise while newer builds ran: what they said last stays."""
    return msgspec.structs.replace(
        stats,
        runs=stats.runs + (was == SKIPPED) - (status == SKIPPED),
        failures=stats.failures + (status == FAILED) - (was == FAILED),
    )


async def catalogue_version(connection: AsyncConnection, project_id: int) -> int:
    """Ask before looking cases up: what is not found then was not in the stream at this version."""
    query = f"SELECT version FROM {CatalogueRow.table} WHERE project_id = %(project)s"
    return int(await scalar(connection, query, {"project": project_id}) or 0)


async def known_cases(connection: AsyncConnection, project_id: int, node_ids: list[str]) -> list[int | None]:
    """The case of each node id, None where the project has none; ask for a few thousand at a time."""
    query = (
        f"SELECT wanted.number, c.id FROM unnest(%(node_ids)s::text[]) WITH ORDINALITY wanted(node_id, number)"
        f" JOIN {TestCaseRow.table} c"
        " ON hashtextextended(c.node_id, c.project_id) = hashtextextended(wanted.node_id, %(project)s::bigint)"
        " AND c.node_id = wanted.node_id AND c.project_id = %(project)s::bigint"
    )
    parameters = {"project": project_id, "node_ids": node_ids}
    cursor = await connection.execute(query.encode(), parameters, prepare=True, binary=True)
    found: list[int | None] = [None] * len(node_ids)
    for number, case_id in await cursor.fetchall():
        found[number - 1] = case_id
    return found
