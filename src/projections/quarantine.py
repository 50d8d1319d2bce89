"""Quarantine, as it is read. Entries that have expired stay as rows until somebody takes them away.

An entry is healthy from the event that says so until one of its tests fails.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

import msgspec
from psycopg import AsyncConnection

from domain.core.events import Recorded
from domain.jobs import JobDeleted
from domain.quarantine import (
    HEALTHY_AFTER,
    QuarantineBecameHealthy,
    QuarantinedTestsRan,
    QuarantineExpired,
    QuarantineLifted,
    TestsQuarantined,
)
from projections.engine.model import Change, Delete, DeleteWhere, Int, Key, Projection, Row, Rows, Table
from projections.engine.queries import all_rows, one_row

VERSION = 1


_EXPIRY_UNSAID = "expired_at IS NULL"
_HEALTH_UNSAID = f"healthy_at IS NULL AND jsonb_array_length(passed_in) >= {HEALTHY_AFTER}"


class QuarantineRow(Row, frozen=True):
    table = Table(
        "quarantine",
        VERSION,
        indexes=("(job_id, id)", f"(expires_at) WHERE {_EXPIRY_UNSAID}", f"(job_id) WHERE {_HEALTH_UNSAID}"),
    )
    id: int
    job_id: int
    project_id: int
    node_id: str
    reason: str
    quarantined_at: datetime
    quarantined_by: str
    expires_at: datetime | None
    owner: str | None
    expired_at: datetime | None = None
    """When that was said."""
    healthy_at: datetime | None = None
    failed_at: datetime | None = None
    failed_in: int | None = None
    """The last build in which one of its tests failed."""
    failures: Int = 0
    """Builds in which its tests failed since it was quarantined."""
    passed_in: list[int] = []
    """Builds since then in which they passed, the last HEALTHY_AFTER of them."""


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case QuarantineExpired(ids=ids) | QuarantineBecameHealthy(ids=ids):
            yield from ((QuarantineRow, (quarantine_id,)) for quarantine_id in ids)
        case QuarantinedTestsRan(passed=passed, failed=failed):
            yield from ((QuarantineRow, (quarantine_id,)) for quarantine_id in (*passed, *failed))
        case _:
            return


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
                yield Delete(QuarantineRow, quarantine_id)
        case QuarantineExpired():
            for row in _existing(rows, event.ids):
                yield msgspec.structs.replace(row, expired_at=event.at)
        case QuarantineBecameHealthy():
            failures = dict(zip(event.ids, event.failures, strict=False))
            for row in _existing(rows, event.ids):
                if row.failures == failures.get(row.id):
                    yield msgspec.structs.replace(row, healthy_at=event.at)
        case QuarantinedTestsRan():
            for row in _existing(rows, event.passed):
                if event.build_id not in (row.failed_in, *row.passed_in):
                    passed_in = [*row.passed_in, event.build_id][-HEALTHY_AFTER:]
                    yield msgspec.structs.replace(row, passed_in=passed_in)
            for row in _existing(rows, event.failed):
                if event.build_id != row.failed_in:
                    yield _failed(row, event)
        case JobDeleted():
            yield DeleteWhere(QuarantineRow, "job_id", event.job_id)
        case _:
            return


def _existing(rows: Rows, ids: Iterable[int]) -> Iterator[QuarantineRow]:
    """Entries may have been lifted before a report that ran their tests came to its end."""
    for quarantine_id in ids:
        if (row := rows.get(QuarantineRow, quarantine_id)) is not None:
            yield row


def _failed(row: QuarantineRow, event: QuarantinedTestsRan) -> QuarantineRow:
    return msgspec.structs.replace(
        row, failed_at=event.at, failed_in=event.build_id, failures=row.failures + 1, passed_in=[], healthy_at=None
    )


PROJECTION = Projection(
    "quarantine",
    VERSION,
    (QuarantineRow,),
    keys,
    apply,
    takes=(
        JobDeleted,
        QuarantineBecameHealthy,
        QuarantineExpired,
        QuarantineLifted,
        QuarantinedTestsRan,
        TestsQuarantined,
    ),
)


Status = Literal["active", "healthy", "expired"]


def status(row: QuarantineRow, now: datetime) -> tuple[Status, datetime]:
    """And since when."""
    if row.expires_at is not None and row.expires_at <= now:
        return "expired", row.expires_at
    if row.healthy_at is not None:
        return "healthy", row.healthy_at
    return "active", row.failed_at or row.quarantined_at


class StatusTotal(msgspec.Struct, frozen=True):
    status: Status
    entries: int


class Recovered(msgspec.Struct, frozen=True):
    job_id: int
    quarantine_id: int
    failures: int


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
    connection: AsyncConnection, job_id: int, *, after: int, offset: int, limit: int
) -> list[QuarantineRow]:
    """Those that have expired too."""
    return await all_rows(
        connection,
        QuarantineRow,
        f"SELECT * FROM {QuarantineRow.table} WHERE job_id = %(job)s AND id > %(after)s"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"job": job_id, "after": after, "offset": offset, "limit": limit},
    )


async def node_ids(connection: AsyncConnection, job_id: int, now: datetime) -> list[str]:
    query = f"SELECT node_id FROM {QuarantineRow.table} WHERE {_ACTIVE} ORDER BY id"
    cursor = await connection.execute(query.encode(), {"job": job_id, "now": now}, prepare=True, binary=True)
    return [node_id for (node_id,) in await cursor.fetchall()]


async def by_reason(connection: AsyncConnection, job_id: int, now: datetime) -> list[ReasonTotal]:
    query = f"SELECT reason, count(*) FROM {QuarantineRow.table} WHERE {_ACTIVE} GROUP BY reason"
    return await all_rows(connection, ReasonTotal, query, {"job": job_id, "now": now})


async def by_status(connection: AsyncConnection, job_id: int, now: datetime) -> list[StatusTotal]:
    query = (
        "SELECT CASE WHEN expires_at <= %(now)s THEN 'expired' WHEN healthy_at IS NOT NULL THEN 'healthy'"
        f" ELSE 'active' END, count(*) FROM {QuarantineRow.table} WHERE job_id = %(job)s GROUP BY 1"
    )
    return await all_rows(connection, StatusTotal, query, {"job": job_id, "now": now})


async def by_age(connection: AsyncConnection, job_id: int, now: datetime) -> list[Ages]:
    days = "floor(greatest(extract(epoch FROM %(now)s - quarantined_at), 0) / 86400)::int"
    query = f"SELECT {days}, count(*) FROM {QuarantineRow.table} WHERE {_ACTIVE} GROUP BY 1 ORDER BY 1"
    return await all_rows(connection, Ages, query, {"job": job_id, "now": now})


async def jobs_with_expired(connection: AsyncConnection, now: datetime, limit: int) -> list[int]:
    """Jobs with entries whose expiry was not said yet."""
    query = (
        f"SELECT DISTINCT job_id FROM {QuarantineRow.table} WHERE {_EXPIRY_UNSAID} AND expires_at <= %(now)s"
        " LIMIT %(limit)s"
    )
    cursor = await connection.execute(query.encode(), {"now": now, "limit": limit}, prepare=True, binary=True)
    return [job_id for (job_id,) in await cursor.fetchall()]


async def recovered(connection: AsyncConnection, now: datetime, limit: int) -> list[Recovered]:
    """Entries that count and whose recovery was not said yet, by job."""
    query = (
        f"SELECT job_id, id, failures FROM {QuarantineRow.table} WHERE {_HEALTH_UNSAID}"
        " AND (expires_at IS NULL OR expires_at > %(now)s) ORDER BY job_id, id LIMIT %(limit)s"
    )
    return await all_rows(connection, Recovered, query, {"now": now, "limit": limit})
