"""Read model of emerging flakiness: a row for each time that a test began to fail more often than before."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from domain.core.events import Recorded
from domain.flakiness import FlakinessEmerged, FlakinessSettled
from domain.projects import ProjectDeleted
from projections.engine.model import Change, DeleteWhere, Int, Key, Projection, Row, Rows, Table
from projections.engine.queries import fetch_all
from projections.results_cases import TestCaseRow
from store.postgres.queries import Source

VERSION = 1


class EmergenceRow(Row, frozen=True):
    table = Table(
        "emergences",
        VERSION,
        key=("test_case_id", "build_id"),
        indexes=("(project_id, id)", "(test_case_id) WHERE settled_at IS NULL"),
    )
    id: int
    """Position of the event by which the flakiness emerged."""
    test_case_id: int
    project_id: int
    build_id: int
    first_build_id: int
    detected_at: datetime
    baseline_runs: Int
    baseline_failing: Int
    recent_runs: Int
    recent_failing: Int
    settled_at: datetime | None = None
    settled_build_id: int | None = None


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    event = recorded.event
    if isinstance(event, FlakinessSettled):
        yield EmergenceRow, (event.test_case_id, event.emerged_build_id)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case FlakinessEmerged():
            yield EmergenceRow(
                id=recorded.position,
                test_case_id=event.test_case_id,
                project_id=event.project_id,
                build_id=event.build_id,
                first_build_id=event.first_build_id,
                detected_at=event.at,
                baseline_runs=event.baseline_runs,
                baseline_failing=event.baseline_failing,
                recent_runs=event.recent_runs,
                recent_failing=event.recent_failing,
            )
        case FlakinessSettled():
            row = rows.get(EmergenceRow, event.test_case_id, event.emerged_build_id)
            if row is not None:  # None once its project is deleted
                yield msgspec.structs.replace(row, settled_at=event.at, settled_build_id=event.build_id)
        case ProjectDeleted():
            yield DeleteWhere(EmergenceRow, "project_id", event.project_id)
        case _:
            return


PROJECTION = Projection(
    "emerging", VERSION, (EmergenceRow,), keys, apply, handles=(FlakinessEmerged, FlakinessSettled, ProjectDeleted)
)


class Emergence(msgspec.Struct, frozen=True):
    """Emerging flakiness of a test, with the test's node id and suite."""

    id: int
    test_case_id: int
    node_id: str
    suite: str
    build_id: int
    first_build_id: int
    detected_at: datetime
    baseline_runs: int
    baseline_failing: int
    recent_runs: int
    recent_failing: int
    settled_at: datetime | None
    settled_build_id: int | None


async def fetch_page(
    source: Source,
    project_id: int,
    since: datetime,
    test_case_id: int | None,
    before: int | None,
    limit: int,
    offset: int,
) -> list[Emergence]:
    """Returns a page of a project's emerging flakiness that was detected since a time, newest first. `before` limits
    the page to smaller ids.
    """
    query = (
        "SELECT e.id, e.test_case_id, c.node_id, c.suite, e.build_id, e.first_build_id, e.detected_at,"
        " e.baseline_runs, e.baseline_failing, e.recent_runs, e.recent_failing, e.settled_at, e.settled_build_id"
        f" FROM {EmergenceRow.table} e JOIN {TestCaseRow.table} c ON c.id = e.test_case_id"
        " WHERE e.project_id = %(project)s AND e.detected_at >= %(since)s"
        " AND (%(case)s::bigint IS NULL OR e.test_case_id = %(case)s)"
        " AND (%(before)s::bigint IS NULL OR e.id < %(before)s)"
        " ORDER BY e.id DESC LIMIT %(limit)s OFFSET %(offset)s"
    )
    parameters = {
        "project": project_id,
        "since": since,
        "case": test_case_id,
        "before": before,
        "limit": limit,
        "offset": offset,
    }
    return await fetch_all(source, Emergence, query, parameters)


async def find_open(source: Source, case_ids: Sequence[int]) -> dict[int, EmergenceRow]:
    """Returns test case id -> emerging flakiness, for the given test cases whose emerging flakiness is not settled."""
    query = f"SELECT * FROM {EmergenceRow.table} WHERE test_case_id = ANY (%(cases)s) AND settled_at IS NULL"
    rows = await fetch_all(source, EmergenceRow, query, {"cases": list(case_ids)})
    return {row.test_case_id: row for row in rows}
