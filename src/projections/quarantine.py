"""Quarantine, as it is read. Entries that have expired stay as rows until somebody takes them away."""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from domain.base import Recorded
from domain.jobs import JobDeleted
from domain.quarantine import QuarantineLifted, TestsQuarantined
from projections.model import Change, Gone, GoneWhere, Key, Projection, Row, Rows, Table
from projections.reading import all_rows, one_row

VERSION = 1


class QuarantineRow(Row, frozen=True):
    table = Table("quarantine", VERSION, indexes=("(job_id, id)",))
    id: int
    job_id: int
    project_id: int
    node_id: str
    reason: str
    quarantined_at: datetime
    quarantined_by: str
    expires_at: datetime | None
    owner: str | None


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    return ()


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case TestsQuarantined():
            for number, node_id in enumerate(event.node_ids):
                yield QuarantineRow(
                    id=event.first_id + number,
                    job_id=event.job_id,
                    project_id=event.project_id,
                    node_id=node_id,
                    reason=event.reason,
                    quarantined_at=event.at,
                    quarantined_by=event.actor,
                    expires_at=event.expires_at,
                    owner=event.owner,
                )
        case QuarantineLifted():
            for quarantine_id in event.ids:
                yield Gone(QuarantineRow, quarantine_id)
        case JobDeleted():
            yield GoneWhere(QuarantineRow, "job_id", event.job_id)
        case _:
            return


PROJECTION = Projection("quarantine", VERSION, (QuarantineRow,), keys, apply)


class ReasonTotal(msgspec.Struct, frozen=True):
    reason: str
    entries: int


class Ages(msgspec.Struct, frozen=True):
    """Whole days since tests were quarantined, and how many that is true of."""

    days: int
    entries: int


_ACTIVE = "job_id = %(job)s AND (expires_at IS NULL OR expires_at > %(now)s)"


async def find(connection: AsyncConnection, quarantine_id: int) -> QuarantineRow | None:
    query = f"SELECT * FROM {QuarantineRow.table} WHERE id = %(id)s"
    return await one_row(connection, QuarantineRow, query, {"id": quarantine_id})


async def listing(
    connection: AsyncConnection, job_id: int, now: datetime, *, after: int, offset: int, limit: int
) -> list[QuarantineRow]:
    """The entries that count at this time."""
    return await all_rows(
        connection,
        QuarantineRow,
        f"SELECT * FROM {QuarantineRow.table} WHERE {_ACTIVE} AND id > %(after)s"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"job": job_id, "now": now, "after": after, "offset": offset, "limit": limit},
    )


async def node_ids(connection: AsyncConnection, job_id: int, now: datetime) -> list[str]:
    query = f"SELECT node_id FROM {QuarantineRow.table} WHERE {_ACTIVE} ORDER BY id"
    cursor = await connection.execute(query.encode(), {"job": job_id, "now": now}, prepare=True, binary=True)
    return [node_id for (node_id,) in await cursor.fetchall()]


async def by_reason(connection: AsyncConnection, job_id: int, now: datetime) -> list[ReasonTotal]:
    query = f"SELECT reason, count(*) FROM {QuarantineRow.table} WHERE {_ACTIVE} GROUP BY reason"
    return await all_rows(connection, ReasonTotal, query, {"job": job_id, "now": now})


async def by_age(connection: AsyncConnection, job_id: int, now: datetime) -> list[Ages]:
    days = "floor(greatest(extract(epoch FROM %(now)s - quarantined_at), 0) / 86400)::int"
    query = f"SELECT {days}, count(*) FROM {QuarantineRow.table} WHERE {_ACTIVE} GROUP BY 1 ORDER BY 1"
    return await all_rows(connection, Ages, query, {"job": job_id, "now": now})
