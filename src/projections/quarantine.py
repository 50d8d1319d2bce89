"""Read model of quarantined tests. A row is one entry of a job's quarantine.

An expired entry keeps its row until somebody lifts it. An entry is healthy from the event `quarantine.became_healthy`
until one of its tests fails again.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Literal, Unpack

import msgspec

from domain import quarantine
from domain.core.events import Recorded, copy_fields
from domain.health_advice import QuarantineOf
from domain.jobs import JobDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Int, Key, Projection, Row, Rows, Table
from projections.engine.queries import Window, fetch_all, fetch_column, find_row
from store.postgres.queries import Source, fetch_rows

VERSION = 1
_EXPIRY_UNRECORDED = "expired_at IS NULL"
_RECOVERY_UNRECORDED = f"healthy_at IS NULL AND jsonb_array_length(passed_in) >= {quarantine.HEALTHY_AFTER}"


class QuarantineRow(Row, frozen=True):
    table = Table(
        "quarantine",
        VERSION,
        indexes=("(job_id, id)", f"(expires_at) WHERE {_EXPIRY_UNRECORDED}", f"(job_id) WHERE {_RECOVERY_UNRECORDED}"),
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
    """Time at which an event recorded the expiry, some time after `expires_at`."""
    healthy_at: datetime | None = None
    failed_at: datetime | None = None
    failed_in: int | None = None
    """Id of the last build in which the test failed."""
    failures: Int = 0
    """Number of builds in which the test failed since it was quarantined."""
    passed_in: list[int] = []
    """Ids of the last builds in which the test passed after its last failure. At most quarantine.HEALTHY_AFTER ids are
    kept.
    """


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case quarantine.QuarantineExpired(ids=ids) | quarantine.QuarantineBecameHealthy(ids=ids):
            yield from ((QuarantineRow, (quarantine_id,)) for quarantine_id in ids)
        case quarantine.QuarantinedTestsRan(passed=passed, failed=failed):
            yield from ((QuarantineRow, (quarantine_id,)) for quarantine_id in (*passed, *failed))


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case quarantine.TestsQuarantined():
            for number, node_id in enumerate(event.node_ids):
                yield copy_fields(
                    QuarantineRow,
                    event,
                    id=event.first_id + number,
                    node_id=node_id,
                    quarantined_at=event.at,
                    quarantined_by=event.actor,
                )
        case quarantine.QuarantineLifted():
            for quarantine_id in event.ids:
                yield Delete(QuarantineRow, quarantine_id)
        case quarantine.QuarantineExpired():
            for row in _existing(rows, event.ids):
                yield msgspec.structs.replace(row, expired_at=event.at)
        case quarantine.QuarantineBecameHealthy():
            failures = dict(zip(event.ids, event.failures, strict=False))
            for row in _existing(rows, event.ids):
                if row.failures == failures.get(row.id):
                    yield msgspec.structs.replace(row, healthy_at=event.at)
        case quarantine.QuarantinedTestsRan():
            for row in _existing(rows, event.passed):
                if event.build_id not in (row.failed_in, *row.passed_in):
                    passed_in = [*row.passed_in, event.build_id][-quarantine.HEALTHY_AFTER :]
                    yield msgspec.structs.replace(row, passed_in=passed_in)
            for row in _existing(rows, event.failed):
                if event.build_id != row.failed_in:
                    yield msgspec.structs.replace(
                        row,
                        failed_at=event.at,
                        failed_in=event.build_id,
                        failures=row.failures + 1,
                        passed_in=[],
                        healthy_at=None,
                    )
        case JobDeleted():
            yield DeleteWhere(QuarantineRow, "job_id", event.job_id)


def _existing(rows: Rows, ids: Iterable[int]) -> Iterator[QuarantineRow]:
    """Yields the rows of the entries with these ids. Skips entries that were lifted while the report was recorded."""
    for quarantine_id in ids:
        if (row := rows.get(QuarantineRow, quarantine_id)) is not None:
            yield row


PROJECTION = Projection(
    "quarantine",
    VERSION,
    (QuarantineRow,),
    keys,
    apply,
    handles=(JobDeleted, quarantine.QuarantineEvent, quarantine.QuarantinedTestsRan),
)


Status = Literal["active", "healthy", "expired"]


def status_at(row: QuarantineRow, now: datetime) -> tuple[Status, datetime]:
    """Returns the status of the entry at the time `now`, and the time since which it has this status."""
    if row.expires_at is not None and row.expires_at <= now:
        return "expired", row.expires_at
    if row.healthy_at is not None:
        return "healthy", row.healthy_at
    return "active", row.failed_at or row.quarantined_at


class RecoveredEntry(msgspec.Struct, frozen=True):
    job_id: int
    quarantine_id: int
    failures: int


_IS_ACTIVE = "job_id = %(job)s AND (expires_at IS NULL OR expires_at > %(now)s)"


async def find(source: Source, quarantine_id: int) -> QuarantineRow | None:
    return await find_row(source, QuarantineRow, quarantine_id)


async def fetch_page(source: Source, job_id: int, **window: Unpack[Window]) -> list[QuarantineRow]:
    """Returns a page of the entries of a job, ordered by id. Expired entries are included."""
    return await fetch_all(
        source,
        QuarantineRow,
        f"SELECT * FROM {QuarantineRow.table} WHERE job_id = %(job)s AND id > %(after)s"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"job": job_id, **window},
    )


async def fetch_node_ids(source: Source, job_id: int, now: datetime) -> list[str]:
    query = f"SELECT node_id FROM {QuarantineRow.table} WHERE {_IS_ACTIVE} ORDER BY id"
    return await fetch_column(source, query, {"job": job_id, "now": now})


async def fetch_containing(
    source: Source, job_ids: Sequence[int], node_ids: Collection[str], now: datetime
) -> dict[str, tuple[QuarantineOf, ...]]:
    """Returns node id -> the jobs' quarantine entries that contain the test with this node id. Leaves out tests that no
    entry contains, and expired entries.
    """
    names = {node_id: list(quarantine.possible_entries(node_id)) for node_id in node_ids}
    query = (
        f"SELECT node_id, id, job_id, healthy_at IS NOT NULL FROM {QuarantineRow.table} WHERE job_id = ANY (%(jobs)s)"
        " AND (expires_at IS NULL OR expires_at > %(now)s) AND node_id = ANY (%(names)s) ORDER BY id"
    )
    parameters = {"jobs": list(job_ids), "now": now, "names": list(set(chain.from_iterable(names.values())))}
    entries: Mapping[str, list[QuarantineOf]] = defaultdict(list)
    for entry, *columns in await fetch_rows(source, query, parameters):
        entries[entry].append(QuarantineOf(*columns))
    return {
        node_id: tuple(entry for name in possible for entry in entries.get(name, ()))
        for node_id, possible in names.items()
        if not entries.keys().isdisjoint(possible)
    }


async def count_by_reason(source: Source, job_id: int, now: datetime) -> dict[str, int]:
    query = f"SELECT reason, count(*) FROM {QuarantineRow.table} WHERE {_IS_ACTIVE} GROUP BY reason"
    return dict(await fetch_rows(source, query, {"job": job_id, "now": now}))


async def count_by_status(source: Source, job_id: int, now: datetime) -> dict[str, int]:
    query = (
        "SELECT CASE WHEN expires_at <= %(now)s THEN 'expired' WHEN healthy_at IS NOT NULL THEN 'healthy'"
        f" ELSE 'active' END, count(*) FROM {QuarantineRow.table} WHERE job_id = %(job)s GROUP BY 1"
    )
    return dict(await fetch_rows(source, query, {"job": job_id, "now": now}))


async def count_by_age(source: Source, job_id: int, now: datetime) -> dict[int, int]:
    """Returns age in whole days -> number of the job's entries with this age. Leaves out expired entries."""
    days = "floor(greatest(extract(epoch FROM %(now)s - quarantined_at), 0) / 86400)::int"
    query = f"SELECT {days}, count(*) FROM {QuarantineRow.table} WHERE {_IS_ACTIVE} GROUP BY 1"
    return dict(await fetch_rows(source, query, {"job": job_id, "now": now}))


async def find_jobs_with_expired(source: Source, now: datetime, limit: int) -> list[int]:
    """Returns the ids of up to `limit` jobs with expired entries whose expiry no event records yet."""
    query = (
        f"SELECT DISTINCT job_id FROM {QuarantineRow.table} WHERE {_EXPIRY_UNRECORDED} AND expires_at <= %(now)s"
        " LIMIT %(limit)s"
    )
    return await fetch_column(source, query, {"now": now, "limit": limit})


async def find_recovered(source: Source, now: datetime, limit: int) -> list[RecoveredEntry]:
    """Returns up to `limit` entries whose tests have passed in HEALTHY_AFTER builds since their last failure, ordered
    by job. Leaves out expired entries, and entries whose recovery an event has recorded.
    """
    query = (
        f"SELECT job_id, id, failures FROM {QuarantineRow.table} WHERE {_RECOVERY_UNRECORDED}"
        " AND (expires_at IS NULL OR expires_at > %(now)s) ORDER BY job_id, id LIMIT %(limit)s"
    )
    return await fetch_all(source, RecoveredEntry, query, {"now": now, "limit": limit})
