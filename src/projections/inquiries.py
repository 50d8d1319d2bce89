"""Read model of inquiries: who asked about what, and how far each is. Their texts are only in the log."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from domain.assistant.answers import Kind
from domain.builds import BuildDeleted
from domain.core.events import Recorded
from domain.inquiries import InquiryAnswered, InquiryAsked, InquiryCancelled, InquiryEvent, InquiryFailed
from domain.jobs import JobDeleted
from domain.projects import ProjectDeleted
from domain.users import UserDeleted
from projections.builds import BuildRow
from projections.engine.model import Change, DeleteWhere, Projection, Row, Rows, Table
from projections.engine.queries import fetch_all, fetch_column, fetch_one, fetch_value, find_row
from projections.projects import ProjectRow
from store.postgres.queries import Source, fetch_rows

VERSION = 1

InquiryStatus = Literal["queued", "running", "complete", "failed", "cancelled"]


class InquiryRow(Row, frozen=True):
    table = Table(
        "inquiries",
        VERSION,
        indexes=(
            "(session_id, position) WHERE session_id <> ''",
            "(asked_at) WHERE ended_at IS NULL",
            "(project_id)",
            "(job_id)",
            "(build_id)",
            "(user_id)",
        ),
    )
    id: str
    kind: Kind
    status: InquiryStatus
    user_id: int
    project_id: int | None
    job_id: int | None
    build_id: int | None
    session_id: str
    position: int
    """Position of the question in the log."""
    asked_at: datetime
    ended_at: datetime | None = None
    provider: str = ""
    """Kind of the server whose model answered, or `builtin` if no model did; empty while there is no answer."""
    model: str = ""
    tokens: int = 0


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], tuple[str]]]:
    event = recorded.event
    if isinstance(event, InquiryEvent) and not isinstance(event, InquiryAsked):
        yield InquiryRow, (event.inquiry_id,)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case InquiryAsked():
            yield InquiryRow(
                id=event.inquiry_id,
                kind=event.kind,
                status="queued",
                user_id=event.user_id,
                project_id=event.project_id,
                job_id=event.job_id,
                build_id=event.build_id,
                session_id=event.session_id,
                position=recorded.position,
                asked_at=event.at,
            )
        case InquiryEvent():
            if row := rows.get(InquiryRow, event.inquiry_id):  # None once the inquiry's subject is deleted
                yield _change(row, event)
        case BuildDeleted():
            yield DeleteWhere(InquiryRow, "build_id", event.build_id)
        case JobDeleted():
            yield DeleteWhere(InquiryRow, "job_id", event.job_id)
        case ProjectDeleted():
            yield DeleteWhere(InquiryRow, "project_id", event.project_id)
        case UserDeleted():
            yield DeleteWhere(InquiryRow, "user_id", event.user_id)
        case _:
            return


def _change(row: InquiryRow, event: InquiryEvent) -> InquiryRow:
    match event:
        case InquiryAnswered(provider=provider, model=model, tokens=tokens):
            return msgspec.structs.replace(
                row, status="complete", ended_at=event.at, provider=provider, model=model, tokens=tokens
            )
        case InquiryFailed():
            return msgspec.structs.replace(row, status="failed", ended_at=event.at)
        case InquiryCancelled():
            return msgspec.structs.replace(row, status="cancelled", ended_at=event.at)
        case _:
            return msgspec.structs.replace(row, status="running")


PROJECTION = Projection(
    "inquiries",
    VERSION,
    (InquiryRow,),
    keys,
    apply,
    handles=(InquiryEvent, BuildDeleted, JobDeleted, ProjectDeleted, UserDeleted),
)


async def find(source: Source, inquiry_id: str) -> InquiryRow | None:
    query = f"SELECT * FROM {InquiryRow.table} WHERE id = %(id)s"
    return await fetch_one(source, InquiryRow, query, {"id": inquiry_id})


async def find_newest_of_session(source: Source, session_id: str) -> InquiryRow | None:
    """Returns the newest inquiry of a conversation; None if there is no such conversation."""
    query = (
        f"SELECT * FROM {InquiryRow.table} WHERE session_id = %(session)s AND session_id <> ''"
        " ORDER BY position DESC LIMIT 1"
    )
    return await fetch_one(source, InquiryRow, query, {"session": session_id})


async def fetch_projects(source: Source, session_id: str) -> list[int]:
    """Returns the ids of the projects that a conversation is about."""
    query = (
        f"SELECT DISTINCT project_id FROM {InquiryRow.table} WHERE session_id = %(session)s AND session_id <> ''"
        " AND project_id IS NOT NULL ORDER BY project_id"
    )
    return await fetch_column(source, query, {"session": session_id})


async def fetch_earlier(
    source: Source, session_id: str, project_id: int | None, before: int, limit: int
) -> list[InquiryRow]:
    """Returns the newest answered inquiries of a conversation that were asked before a position, newest first.
    Considers only inquiries about the given project; with None, only inquiries about no project.
    """
    query = (
        f"SELECT * FROM {InquiryRow.table} WHERE session_id = %(session)s AND session_id <> ''"
        " AND position < %(before)s AND status = 'complete' AND project_id IS NOT DISTINCT FROM %(project)s"
        " ORDER BY position DESC LIMIT %(limit)s"
    )
    parameters = {"session": session_id, "project": project_id, "before": before, "limit": limit}
    return await fetch_all(source, InquiryRow, query, parameters)


async def count_open(source: Source, user_id: int, kinds: Sequence[Kind]) -> int:
    """Returns the number of inquiries of a user with one of these kinds that have not ended."""
    query = (
        f"SELECT count(*) FROM {InquiryRow.table}"
        " WHERE user_id = %(user)s AND ended_at IS NULL AND kind = ANY (%(kinds)s)"
    )
    return int(await fetch_value(source, query, {"user": user_id, "kinds": list(kinds)}))


async def count_open_by_user(source: Source, kinds: Sequence[Kind]) -> dict[int, int]:
    """Returns user -> number of their inquiries with one of these kinds that have not ended. Leaves out users without
    any.
    """
    query = (
        f"SELECT user_id, count(*) FROM {InquiryRow.table}"
        " WHERE ended_at IS NULL AND kind = ANY (%(kinds)s) GROUP BY user_id"
    )
    return dict(await fetch_rows(source, query, {"kinds": list(kinds)}))


async def find_overdue(source: Source, before: datetime, limit: int) -> list[str]:
    """Returns the ids of inquiries that were asked before a time and have not ended, the oldest first."""
    query = (
        f"SELECT id FROM {InquiryRow.table} WHERE ended_at IS NULL AND asked_at < %(before)s"
        " ORDER BY asked_at LIMIT %(limit)s"
    )
    return await fetch_column(source, query, {"before": before, "limit": limit})


async def has_subject(source: Source, project_id: int | None, build_id: int | None) -> bool:
    """Returns whether the subject of an inquiry exists: its build or, if it is about no build, its project. Returns
    True if it is about no project.
    """
    if project_id is None:
        return True
    table, subject = (ProjectRow, project_id) if build_id is None else (BuildRow, build_id)
    return await find_row(source, table, subject) is not None
