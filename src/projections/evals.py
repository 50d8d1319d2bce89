"""Read model of evaluations. The grades of their cases are only in the log."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from domain.core.events import Recorded
from domain.evals import (
    EvalCompleted,
    EvalEvent,
    EvalFailed,
    EvalGraded,
    EvalRequested,
    EvalStarted,
    EvalStatus,
    SuiteChoice,
)
from projections.engine.model import Change, Int, Key, Projection, Row, Rows, Table
from projections.engine.queries import fetch_all, fetch_one, fetch_value
from store.postgres.queries import Source, fetch_row

VERSION = 1


class EvalRow(Row, frozen=True):
    table = Table("evals", VERSION, indexes=("(number)", "(suite, number) WHERE status = 'complete'"))
    id: str
    number: int
    """Position of the event that requested the evaluation. Lists are ordered by it."""
    suite: SuiteChoice
    model: str
    status: EvalStatus
    cases_total: Int
    cases_passed: Int
    cases_failed: Int
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    event = recorded.event
    if isinstance(event, EvalEvent) and not isinstance(event, EvalRequested):
        yield EvalRow, (event.eval_id,)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    if isinstance(event, EvalRequested):
        yield EvalRow(
            event.eval_id, recorded.position, event.suite, event.model, "pending", len(event.cases), 0, 0, event.at
        )
    elif isinstance(event, EvalEvent) and (row := rows.get(EvalRow, event.eval_id)):
        yield _changed(row, event)


def _changed(row: EvalRow, event: EvalEvent) -> EvalRow:
    replace = msgspec.structs.replace
    match event:
        case EvalStarted():
            return replace(row, status="running", started_at=event.at)
        case EvalGraded():
            passed = sum(one.passed for one in event.graded)
            failed = len(event.graded) - passed
            return replace(row, cases_passed=row.cases_passed + passed, cases_failed=row.cases_failed + failed)
        case EvalCompleted():
            return replace(row, status="complete", ended_at=event.at)
        case EvalFailed():
            return replace(row, status="failed", ended_at=event.at, error=event.error)
        case _:
            return row


PROJECTION = Projection("evals", VERSION, (EvalRow,), keys, apply, handles=(EvalEvent,))


async def fetch_page(
    source: Source, *, status: EvalStatus | None, before: int | None, limit: int, offset: int
) -> list[EvalRow]:
    """Returns a page of the evaluations, newest first. `before` limits the page to evaluations with smaller numbers."""
    query = (
        f"SELECT * FROM {EvalRow.table} WHERE (%(status)s::text IS NULL OR status = %(status)s)"
        " AND (%(before)s::bigint IS NULL OR number < %(before)s)"
        " ORDER BY number DESC LIMIT %(limit)s OFFSET %(offset)s"
    )
    return await fetch_all(
        source, EvalRow, query, {"status": status, "before": before, "limit": limit, "offset": offset}
    )


async def find_latest_pair(source: Source) -> tuple[str, str] | None:
    """Returns the ids (older, newer) of two complete evaluations of one suite that follow each other: of all such
    pairs, the one with the newest evaluation. Returns None if no suite has two complete evaluations.
    """
    table = EvalRow.table
    query = (
        f"SELECT b.id, e.id FROM {table} e CROSS JOIN LATERAL (SELECT id FROM {table}"
        " WHERE status = 'complete' AND suite = e.suite AND number < e.number ORDER BY number DESC LIMIT 1) b"
        " WHERE e.status = 'complete' ORDER BY e.number DESC LIMIT 1"
    )
    row = await fetch_row(source, query, {})
    return None if row is None else (row[0], row[1])


async def find_latest_complete(
    source: Source, suite: SuiteChoice, *, before: int | None = None, other_than: str = ""
) -> str | None:
    """Returns the id of the newest complete evaluation of a suite; None if there is none. Leaves out the evaluation
    `other_than`, and considers only evaluations with numbers below `before` if this is given.
    """
    query = (
        f"SELECT id FROM {EvalRow.table} WHERE status = 'complete' AND suite = %(suite)s"
        " AND (%(before)s::bigint IS NULL OR number < %(before)s) AND id <> %(other)s"
        " ORDER BY number DESC LIMIT 1"
    )
    found: str | None = await fetch_value(source, query, {"suite": suite, "before": before, "other": other_than})
    return found


async def find(source: Source, eval_id: str) -> EvalRow | None:
    return await fetch_one(source, EvalRow, f"SELECT * FROM {EvalRow.table} WHERE id = %(id)s", {"id": eval_id})
