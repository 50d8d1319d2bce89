"""Historical reads: defines which events make up each resource, and which tables show it.

A resource is folded from its own streams and from supporting streams. For a job, the streams of its builds are
supporting streams. The rest of the log is not read. If an event of the resource's own streams was erased later, the
rows that it made cannot be shown. Of events in supporting streams, only fields that no erasure destroys are used.

A historical read runs the query functions of live reads. Its connection has temporary tables with the rows of the past
(`historical_tables`). So no query needs a second form for `?as_of=`.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from psycopg_pool import AsyncConnectionPool

from domain.builds import BUILD, BuildQueued
from domain.core.data_keys import user_key
from domain.core.errors import Invalid
from domain.core.events import readable
from domain.jobs import JOB, JobCreated
from domain.known_issues import KNOWN_ISSUE
from domain.nodes import NodeRegistered
from domain.projects import PROJECT
from domain.quarantine import QUARANTINE
from domain.results import FAILED, cases_stream, results_stream
from domain.triage import TRIAGE
from domain.users import USER, UserRegistered
from projections import event_index
from projections.auth import UserRow
from projections.builds import BuildRow, CommentRow, ExplanationRow
from projections.engine.model import Row
from projections.event_index import Kind
from projections.jobs import ConfigurationRow, JobRow
from projections.known_issues import KnownIssueRow
from projections.nodes import NodeRow
from projections.projects import MemberRow, ProjectRow
from projections.quarantine import QuarantineRow
from projections.results import ReportRow, ResultTextRow, SupersededRow
from projections.results_blocks import STATUS, BlockRow
from projections.results_cases import TestCaseRow
from projections.time_travel.historical_tables import HistoricalTables, WantedKeys
from projections.triage import RuleMatchRow, TriageRow
from projections.triggers import TriggerRow
from store.log.event_log import EventLog

MAX_BYTES = 1024**3
"""Largest size in bytes of the fields of all events that one historical read folds. Reading so much takes some 8 s."""
STREAM_BATCH = 10_000
"""Number of streams for which one query finds the positions of events."""
BUILD_BATCH = 20
"""Number of builds that are folded at once, in the search for the newest build that existed."""


class HistoricalReader:
    """Reads events up to the position `until` and folds them into `tables`. `subject` is the stream of the resource
    that is read, whose events must all be readable.
    """

    def __init__(
        self, pool: AsyncConnectionPool, event_log: EventLog, until: int, tables: HistoricalTables, subject: str = ""
    ) -> None:
        self._pool = pool
        self._log = event_log
        self._until = until
        self.tables = tables
        self._subject = subject
        self._size = 0

    async def fold(
        self,
        streams: Iterable[str] = (),
        supporting: Iterable[str] = (),
        positions: Iterable[int] = (),
        only: WantedKeys = MappingProxyType({}),
    ) -> None:
        """Folds the events of these streams, and the events at these positions, in the order of the log.

        `only` maps a table to the keys of the rows to keep; tables that are not in `only` keep all rows. If an event of
        `streams` was erased later, its rows are marked as erased. Events of `supporting` never mark rows.

        Raises StreamDamaged if an event of the subject cannot be read, and Invalid if the events of this reader have
        more than MAX_BYTES.
        """
        erasable = set(streams)
        all_streams = [*erasable, *supporting]
        wanted = set(positions)
        for start in range(0, len(all_streams), STREAM_BATCH):
            wanted.update(await self._log.find_positions(all_streams[start : start + STREAM_BATCH], self._until))
        async for events, sizes, _ in self._log.read_pieces(sorted(wanted)):
            self._size += sum(sizes)
            if self._size > MAX_BYTES:
                raise Invalid.field(
                    "as_of", f"has more than {MAX_BYTES // 2**20:,} MiB of events before it: choose an earlier moment"
                )
            readable([recorded for recorded in events if recorded.stream == self._subject])
            sealed = [recorded for recorded in events if recorded.stream in erasable and recorded.event.sealed]
            keys = {name for recorded in sealed if (name := recorded.event.data_key) is not None}
            destroyed = await self._log.data_keys.find_destroyed(keys) if keys else ()
            erased = {
                recorded.position for recorded in sealed if recorded.erased or recorded.event.data_key in destroyed
            }
            for recorded in events:
                self.tables.apply(recorded, only, is_erased=recorded.position in erased)

    async def find_related(self, kind: Kind, id: int) -> list[int]:
        """Returns the positions of events that concern this resource, but are in streams of other resources, newest
        first.
        """
        return await event_index.find_positions(self._pool, kind, id, self._until)

    async def fold_users(self, ids: Iterable[int | None]) -> None:
        """Folds the users with these ids, so that queries can show their email addresses. Skips None. Also skips users
        who were deleted since: queries show DELETED_USER for them.
        """
        streams = {user_key(user_id): USER.at(user_id).name for user_id in set(ids) if user_id is not None}
        for destroyed in await self._log.data_keys.find_destroyed(streams):
            del streams[destroyed]
        await self.fold(streams=streams.values())

    async def fold_newest_build(self, job_id: int) -> None:
        """Folds builds of the job, newest first, until one is found that was not deleted."""
        until = self._until
        while not self.tables.all(BuildRow):
            positions = await event_index.find_positions(self._pool, "job", job_id, until, BUILD_BATCH)
            if not positions:
                return
            until = positions[-1] - 1
            queued = [recorded.event for recorded in await self._log.read_at(positions)]
            await self.fold(supporting=[event.stream for event in queued if isinstance(event, BuildQueued)])


@dataclass(frozen=True)
class HistoricalResource:
    """A kind of resource that `?as_of=` can show as it was at a position of the log."""

    prefix: str
    """Prefix of the resource's stream: `build` for `build-7`."""
    fold: Callable[[HistoricalReader, Any], Awaitable[None]]
    """Folds all events that make up the resource. Gets the first event of the resource's stream."""
    rows: tuple[type[Row], ...]
    """Tables that the queries of a live read use."""

    def stream(self, id: int) -> str:
        return f"{self.prefix}-{id}"


async def _build(reader: HistoricalReader, first: BuildQueued) -> None:
    # The streams of the job and the project only say whether the build was deleted with one of them.
    await reader.fold(streams=[first.stream], supporting=[JOB.at(first.job_id).name, PROJECT.at(first.project_id).name])


async def _build_detail(reader: HistoricalReader, first: BuildQueued) -> None:
    await _build(reader, first)
    await reader.fold_users(comment.author for comment in reader.tables.all(CommentRow))
    row = reader.tables.get(BuildRow, first.build_id)
    if row is not None and (row.failed or row.known_issues or row.quarantined):
        await _results(reader, first)


async def _report(reader: HistoricalReader, first: BuildQueued) -> None:
    await _build(reader, first)
    if reader.tables.get(BuildRow, first.build_id) is not None:
        await _results(reader, first)


async def _results(reader: HistoricalReader, first: BuildQueued) -> None:
    tables = reader.tables
    await reader.fold(streams=[results_stream(first.build_id)])
    failed = [
        block.first_result_id + index
        for block in tables.all(BlockRow)
        for index, flags in enumerate(block.facts)
        if (flags if flags >= 0 else ~flags) & STATUS == FAILED
    ]
    # Only failed results have a triage.
    await reader.fold(
        streams=[TRIAGE.at(result_id).name for result_id in failed],
        positions=await reader.find_related("triage", first.job_id),
        only={TriageRow: {(result_id,) for result_id in failed}},
    )


async def _tests(reader: HistoricalReader, first: BuildQueued) -> None:
    await _report(reader, first)
    tables = reader.tables
    if tables.get(BuildRow, first.build_id) is None:
        return
    triaged = tables.all(TriageRow)
    await reader.fold_users(user_id for row in triaged for user_id in (row.set_by, row.resolution_by))
    linked = {row.known_issue_id for row in triaged} - {None}
    issues = linked.union(row.known_issue_id for row in tables.all(RuleMatchRow))
    quarantine = QUARANTINE.at(first.job_id).name
    await reader.fold(streams=[quarantine, *(f"{KNOWN_ISSUE.prefix}-{issue_id}" for issue_id in issues)])
    cases = {(case_id,) for block in tables.all(BlockRow) for case_id in block.cases}
    await reader.fold(streams=[cases_stream(first.project_id)], only={TestCaseRow: cases})


async def _job(reader: HistoricalReader, first: JobCreated) -> None:
    await reader.fold(streams=[first.stream], supporting=[PROJECT.at(first.project_id).name])


async def _job_with_newest_build(reader: HistoricalReader, first: JobCreated) -> None:
    await _job(reader, first)
    await reader.fold_newest_build(first.job_id)


async def _quarantine(reader: HistoricalReader, first: JobCreated) -> None:
    await reader.fold(
        streams=[first.stream, QUARANTINE.at(first.job_id).name],
        supporting=[PROJECT.at(first.project_id).name],
        positions=await reader.find_related("quarantine", first.job_id),
    )


async def _node(reader: HistoricalReader, first: NodeRegistered) -> None:
    await reader.fold(streams=[first.stream], positions=await reader.find_related("node", first.node_id))


async def _permissions(reader: HistoricalReader, first: UserRegistered) -> None:
    # A deleted user's permissions can still be read, since no erasure destroys roles and memberships.
    memberships = await reader.find_related("user", first.user_id)
    await reader.fold(supporting=[first.stream], positions=[*memberships, *await reader.find_related("projects", 0)])


async def fold_builds(reader: HistoricalReader, ids: Sequence[int]) -> list[BuildRow]:
    """Returns the builds with these ids as they were at the reader's position, in the order of `ids`. Leaves out
    deleted builds. Texts that were erased later are empty.
    """
    await reader.fold(streams=[BUILD.at(build_id).name for build_id in ids])
    return [row for row in reader.tables.get_many(BuildRow, ids) if row is not None]


_RESULT_ROWS = (BuildRow, ReportRow, BlockRow, SupersededRow, TriageRow, RuleMatchRow)
_REPORT_ROWS = (*_RESULT_ROWS, ResultTextRow)
_TEST_ROWS = (TestCaseRow, UserRow, KnownIssueRow, QuarantineRow)

BUILD_HISTORY = HistoricalResource("build", _build_detail, (*_RESULT_ROWS, CommentRow, ExplanationRow, UserRow))
REPORT_HISTORY = HistoricalResource("build", _report, _REPORT_ROWS)
TESTS_HISTORY = HistoricalResource("build", _tests, _REPORT_ROWS + _TEST_ROWS)
JOB_HISTORY = HistoricalResource("job", _job_with_newest_build, (JobRow, BuildRow))
CONFIGURATION_HISTORY = HistoricalResource("job", _job, (JobRow, ConfigurationRow))
TRIGGER_HISTORY = HistoricalResource("job", _job, (TriggerRow,))
QUARANTINE_HISTORY = HistoricalResource("job", _quarantine, (JobRow, QuarantineRow))
NODE_HISTORY = HistoricalResource("node", _node, (NodeRow,))
PERMISSIONS_HISTORY = HistoricalResource("user", _permissions, (UserRow, MemberRow, ProjectRow))
