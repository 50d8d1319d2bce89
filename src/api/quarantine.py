"""Quarantine: tests of a job whose failures do not fail its builds."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.params import Parameter
from msgspec import Meta

from api.http.as_of import as_of
from api.http.body_limits import LARGE_BYTES
from api.http.paging import Paged, check_one_offset, paginate
from api.http.permissions import CAN_READ, CAN_WRITE
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, Name, to_view
from api.jobs import find_visible_job
from commands.quarantine import AddToQuarantine, RemoveFromQuarantine
from commands.validation import Time
from domain.core.errors import Invalid, Unavailable
from domain.quarantine import REASONS, QuarantineLifted, Reason, TestsQuarantined
from projections import quarantine, results_cases
from projections.quarantine import QuarantineRow, Status
from projections.time_travel.historical_reads import QUARANTINE_HISTORY
from store.clock import utcnow

MAX_BULK = 10_000
AGE_RANGES = (("0-6", 7), ("7-29", 30), ("30-89", 90))
"""Ranges of the age of entries in the statistics: the name of each range, and the age in days at which the next range
begins.
"""
OLDEST_RANGE = "90+"
MAX_NAMED = 50
"""Largest number of unknown node ids that an answer names. No test of the project has an unknown node id."""

# One line, since agents write each node id as a line of the file for the tests.
NodeId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4_096,
        pattern=r"^(?=.*\S)[^\x00-\x1f\x7f]+\Z",
        description="the node id of a test, in one line",
    ),
]
JobId = Annotated[int, Parameter(ge=1, le=MAX_ID, description="Job ID to query quarantine for")]
# The limit is higher than for other lists, so that clients without paging get all entries at once.
Page = Annotated[int, Parameter(ge=1, le=1_000_000, description="Page of the list, from 1")]
Limit = Annotated[int, Parameter(ge=1, le=10_000, description="Items on a page")]
After = Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Only items after this id, instead of a page")]


class NewEntry(msgspec.Struct):
    job_id: Id
    node_id: NodeId
    """Node id of the test, or a prefix of node ids that ends before `::` or `[`."""
    reason: Reason
    expires_at: Time | None = None
    owner: Name | None = None


class NewEntryAnswer(msgspec.Struct):
    id: int
    node_id: str
    """Node id of the test, or a prefix of several node ids."""
    reason: Reason
    quarantined_at: datetime
    expires_at: datetime | None
    owner: str | None


class AddedEntry(NewEntryAnswer):
    is_unknown: bool
    """Whether no test of the project has this node id or prefix so far. The entry has an effect once there is such a
    test. False if the project has no test results yet.
    """


class EntryItem(NewEntryAnswer):
    """An entry of the quarantine. An `expired` entry has no effect any more. A `healthy` entry still has an effect, but
    its tests passed in the last 10 builds that ran them. It becomes `active` again when one of its tests fails.
    """

    job_id: int
    quarantined_by: str
    """Actor that added the entry, like `user:7`."""
    status: Status
    status_since: datetime
    """Time since when the entry has its status."""
    passed_builds: int
    """Number of builds in a row in which the entry's tests passed, counted back from the last build that ran them. At
    most 10 builds are counted.
    """


class Bulk(msgspec.Struct):
    """Addition or removal of many entries. `reason`, `expires_at` and `owner` are for entries that are added."""

    job_id: Id
    action: Literal["add", "remove"]
    """Whether to `add` the tests to the quarantine or to `remove` them."""
    node_ids: Annotated[list[NodeId], Meta(max_length=MAX_BULK)]
    reason: Reason | None = None
    """Reason of the new entries; `flaky` if none is given."""
    expires_at: Time | None = None
    owner: Name | None = None


class Added(msgspec.Struct):
    added: int
    """Number of new entries."""
    skipped: int
    """Number of tests that were already in the quarantine."""
    unknown: list[str]
    """The first 50 of those `node_ids` that no test of the project has so far. Their entries have an effect once there
    are such tests. Empty if the project has no test results yet.
    """


class Removed(msgspec.Struct):
    removed: int
    """Number of removed entries."""
    skipped: int
    """Number of tests that were not in the quarantine."""


class Stats(msgspec.Struct):
    """Numbers of entries. Only `by_status` also counts expired entries."""

    total: int
    by_reason: dict[str, int]
    """Number of entries by reason."""
    oldest_days: int
    """Age of the oldest entry in days."""
    age_days: dict[str, int]
    """Number of entries by range of age in days."""
    by_status: dict[str, int]
    """Number of entries by status."""


class NodeIds(msgspec.Struct):
    node_ids: list[str]


class QuarantineController(Controller):
    path = "/quarantine"
    tags = ["Quarantine"]

    @get(guards=[CAN_READ], **as_of(QUARANTINE_HISTORY, "job_id"))
    async def list_quarantine(
        self, ctx: RequestContext, job_id: JobId, page: Page = 1, limit: Limit = 10_000, after: After = None
    ) -> Response[list[EntryItem]]:
        """Returns a page of the quarantine entries of a job, ordered by id. Expired entries are included."""
        check_one_offset(ctx.request, "after")
        paged = Paged(page, limit, after or 0)
        async with ctx.reading() as connection:
            await find_visible_job(ctx, job_id)
            found = await quarantine.fetch_page(connection, job_id, **paged.window)
        return paginate(ctx.request, paged, [to_item(row, ctx.effective_time) for row in found])

    @post(guards=[CAN_WRITE])
    async def add_to_quarantine(self, ctx: RequestContext, data: NewEntry) -> AddedEntry:
        """Adds an entry to a job's quarantine. Builds still run its tests. `node_id` is the node id of a test, or a
        prefix that ends before `::` or `[`: `tests/test_cart.py` stands for all tests of this file.
        """
        job = await find_visible_job(ctx, data.job_id)
        quarantine_id = await ctx.services.ids.draw("quarantine")
        wanted = AddToQuarantine(
            data.job_id, quarantine_id, (data.node_id,), utcnow(), data.reason, data.expires_at, data.owner
        )
        receipt = await ctx(wanted)
        unknown = await find_unknown(ctx, job.project_id, [data.node_id])
        return to_view(AddedEntry, data, id=quarantine_id, quarantined_at=receipt.at, is_unknown=bool(unknown))

    @post("/bulk", status_code=200, guards=[CAN_WRITE], request_max_body_size=LARGE_BYTES)
    async def change_quarantine(self, ctx: RequestContext, data: Bulk) -> Added | Removed:
        """Adds or removes many entries. Skips tests that are already in the quarantine (`add`), or that are not in it
        (`remove`).
        """
        job = await find_visible_job(ctx, data.job_id)
        node_ids = tuple(data.node_ids)
        if data.action == "remove":
            if given := [name for name in ("reason", "expires_at", "owner") if getattr(data, name) is not None]:
                raise Invalid.field(given[0], "is for entries that are added: leave it out of a removal")
            receipt = await ctx(RemoveFromQuarantine(data.job_id, node_ids))
            lifted = [recorded.event for recorded in receipt.events]
            removed = sum(len(event.ids) for event in lifted if isinstance(event, QuarantineLifted))
            return Removed(removed, len(node_ids) - removed)
        receipt = await ctx(
            AddToQuarantine(
                job_id=data.job_id,
                first_id=await ctx.services.ids.draw_range("quarantine", max(1, len(node_ids))),
                node_ids=node_ids,
                now=utcnow(),
                reason=data.reason or "flaky",
                expires_at=data.expires_at,
                owner=data.owner,
                skip_known=True,
            )
        )
        events = [recorded.event for recorded in receipt.events]
        added = sum(len(event.node_ids) for event in events if isinstance(event, TestsQuarantined))
        unknown = await find_unknown(ctx, job.project_id, node_ids)
        return Added(added, len(node_ids) - added, unknown[:MAX_NAMED])

    @get("/stats", guards=[CAN_READ])
    async def get_quarantine_stats(self, ctx: RequestContext, job_id: JobId) -> Stats:
        """Counts the entries of a job's quarantine by reason, age and status."""
        now = utcnow()
        async with ctx.reading() as connection:
            await find_visible_job(ctx, job_id)
            reasons = await quarantine.count_by_reason(connection, job_id, now)
            ages = await quarantine.count_by_age(connection, job_id, now)
            statuses = await quarantine.count_by_status(connection, job_id, now)
        by_reason = {str(reason): reasons.get(reason, 0) for reason in REASONS}
        return Stats(
            total=sum(by_reason.values()),
            by_reason=by_reason,
            oldest_days=max(ages, default=0),
            age_days=count_by_range(ages),
            by_status=dict.fromkeys(get_args(Status), 0) | statuses,
        )

    @get("/nodeids", guards=[CAN_READ])
    async def list_quarantined_node_ids(self, ctx: RequestContext, job_id: JobId) -> NodeIds:
        """Returns the node ids of all entries of a job that have not expired, in one answer without pages, for test
        runners.
        """
        async with ctx.reading() as connection:
            await find_visible_job(ctx, job_id)
            return NodeIds(await quarantine.fetch_node_ids(connection, job_id, utcnow()))

    @delete("/{quarantine_id:int}", guards=[CAN_WRITE])
    async def remove_from_quarantine(self, ctx: RequestContext, quarantine_id: int) -> None:
        """Removes an entry from the quarantine. Failures of the entry's tests fail builds again."""
        entry = await ctx.find_visible(quarantine.find, "quarantine entry", quarantine_id)
        await ctx(RemoveFromQuarantine(entry.job_id, quarantine_id=quarantine_id))


async def find_unknown(ctx: RequestContext, project_id: int, node_ids: Sequence[str]) -> list[str]:
    """Returns those of `node_ids` that match no test of a project. First gives the read models time to catch up, since
    a report with these tests may have come a moment ago.
    """
    if unknown := await results_cases.find_unknown(ctx.source, project_id, node_ids):
        with suppress(Unavailable):
            await ctx.services.wait_for_missing()
        unknown = await results_cases.find_unknown(ctx.source, project_id, unknown)
    return unknown


def count_by_range(ages: Mapping[int, int]) -> dict[str, int]:
    counts = dict.fromkeys([*(name for name, _ in AGE_RANGES), OLDEST_RANGE], 0)
    for days, entries in ages.items():
        counts[next((name for name, too_old in AGE_RANGES if days < too_old), OLDEST_RANGE)] += entries
    return counts


def to_item(row: QuarantineRow, now: datetime) -> EntryItem:
    status, since = quarantine.status_at(row, now)
    return to_view(EntryItem, row, status=status, status_since=since, passed_builds=len(row.passed_in))
