"""What each resource is made of: which events its representation follows from, and which rows it shows.

The rest of the log is not looked at. Events of the resource's own streams whose contents were erased since are noted:
what they said cannot be shown any more. Of others (builds of a job, say) only facts are shown that no erasure takes.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from psycopg_pool import AsyncConnectionPool

from domain.builds import BuildQueued
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
from projections.builds import BuildRow, CommentRow
from projections.engine.model import Row
from projections.event_index import Kind
from projections.jobs import ConfigurationRow, JobRow
from projections.known_issues import KnownIssueRow
from projections.nodes import NodeRow
from projections.projects import MemberRow, ProjectRow
from projections.quarantine import QuarantineRow
from projections.results import STATUS, BlockRow, ReportRow, ResultTextRow, SupersededRow
from projections.results_cases import TestCaseRow
from projections.time_travel.historical_tables import HistoricalTables, WantedKeys
from projections.triage import RuleMatchRow, TriageRow
from store.log.event_log import EventLog

EVENT_BATCH = 50
"""Decoded together: one may hold a thousand results."""
STREAM_BATCH = 10_000
BUILD_BATCH = 20


class HistoricalReader:
    """Brings events back, up to a position, and folds them."""

    def __init__(self, pool: AsyncConnectionPool, event_log: EventLog, until: int, rows: Iterable[type[Row]]) -> None:
        self._pool = pool
        self._log = event_log
        self._until = until
        self.tables = HistoricalTables(rows)

    async def fold(
        self,
        own: Iterable[str] = (),
        aside: Iterable[str] = (),
        positions: Iterable[int] = (),
        only: WantedKeys = MappingProxyType({}),
    ) -> None:
        """The events of these streams, and those at these positions, in the order of the log."""
        is_own = set(own)
        streams = [*is_own, *aside]
        wanted = set(positions)
        for start in range(0, len(streams), STREAM_BATCH):
            wanted.update(await self._log.find_positions(streams[start : start + STREAM_BATCH], self._until))
        in_order = sorted(wanted)
        for start in range(0, len(in_order), EVENT_BATCH):
            events = await self._log.read_at(in_order[start : start + EVENT_BATCH])
            sealed = [recorded for recorded in events if recorded.stream in is_own and recorded.event.sealed]
            keys = {name for recorded in sealed if (name := recorded.event.data_key) is not None}
            gone = await self._log.find_destroyed_keys(keys) if keys else ()
            blank = {recorded.position for recorded in sealed if recorded.erased or recorded.event.data_key in gone}
            for recorded in events:
                self.tables.apply(recorded, only, is_blank=recorded.position in blank)

    async def related(self, kind: Kind, id: int) -> list[int]:
        async with self._pool.connection() as connection:
            return await event_index.find_positions(connection, kind, id, self._until)

    async def people(self, ids: Iterable[int | None]) -> None:
        """Folds the users who are called by their email addresses."""
        await self.fold(own=[USER.at(user_id).name for user_id in set(ids) if user_id is not None])

    async def newest_build(self, job_id: int) -> None:
        """Folds the job's newest builds, until there is one that was not deleted."""
        until = self._until
        while not self.tables.all(BuildRow):
            async with self._pool.connection() as connection:
                positions = await event_index.find_positions(connection, "job", job_id, until, BUILD_BATCH)
            if not positions:
                return
            until = positions[-1] - 1
            queued = [recorded.event for recorded in await self._log.read_at(positions)]
            await self.fold(aside=[event.stream for event in queued if isinstance(event, BuildQueued)])


@dataclass(frozen=True)
class HistoricalResource:
    """A resource whose past can be shown; `recall` takes the first event of its stream."""

    prefix: str
    recall: Callable[[HistoricalReader, Any], Awaitable[None]]
    rows: tuple[type[Row], ...]
    """What its representation is read from."""

    def stream(self, id: int) -> str:
        return f"{self.prefix}-{id}"


async def _build(recall: HistoricalReader, first: BuildQueued) -> None:
    # Those of the job and the project only tell when they were deleted.
    await recall.fold(own=[first.stream], aside=[JOB.at(first.job_id).name, PROJECT.at(first.project_id).name])


async def _build_with_comments(recall: HistoricalReader, first: BuildQueued) -> None:
    await _build(recall, first)
    await recall.people(comment.author for comment in recall.tables.all(CommentRow))


async def _report(recall: HistoricalReader, first: BuildQueued) -> None:
    await _build(recall, first)
    if recall.tables.get(BuildRow, first.build_id) is not None:
        await recall.fold(own=[results_stream(first.build_id)])


async def _tests(recall: HistoricalReader, first: BuildQueued) -> None:
    await _report(recall, first)
    tables = recall.tables
    if tables.get(BuildRow, first.build_id) is None:
        return
    blocks = tables.all(BlockRow)
    facts = ((block.first_result_id + place, fact) for block in blocks for place, fact in enumerate(block.facts))
    failed = [result_id for result_id, fact in facts if (fact if fact >= 0 else ~fact) & STATUS == FAILED]
    # Only of failures anything is said.
    await recall.fold(
        own=[TRIAGE.at(result_id).name for result_id in failed],
        positions=await recall.related("triage", first.job_id),
        only={TriageRow: {(result_id,) for result_id in failed}},
    )
    said = tables.all(TriageRow)
    await recall.people(user_id for row in said for user_id in (row.set_by, row.resolution_by))
    linked = {row.known_issue_id for row in said} - {None}
    issues = linked.union(row.known_issue_id for row in tables.all(RuleMatchRow))
    quarantine = QUARANTINE.at(first.job_id).name
    await recall.fold(own=[quarantine, *(f"{KNOWN_ISSUE.prefix}-{issue_id}" for issue_id in issues)])
    cases = {(case_id,) for block in blocks for case_id in block.case_ids}
    await recall.fold(own=[cases_stream(first.project_id)], only={TestCaseRow: cases})


async def _job(recall: HistoricalReader, first: JobCreated) -> None:
    await recall.fold(own=[first.stream], aside=[PROJECT.at(first.project_id).name])


async def _job_with_newest_build(recall: HistoricalReader, first: JobCreated) -> None:
    await _job(recall, first)
    await recall.newest_build(first.job_id)


async def _quarantine(recall: HistoricalReader, first: JobCreated) -> None:
    await recall.fold(
        own=[first.stream, QUARANTINE.at(first.job_id).name],
        aside=[PROJECT.at(first.project_id).name],
        positions=await recall.related("quarantine", first.job_id),
    )


async def _node(recall: HistoricalReader, first: NodeRegistered) -> None:
    await recall.fold(own=[first.stream], positions=await recall.related("node", first.node_id))


async def _permissions(recall: HistoricalReader, first: UserRegistered) -> None:
    memberships = await recall.related("user", first.user_id)
    await recall.fold(own=[first.stream], positions=[*memberships, *await recall.related("projects", 0)])


_OF_REPORTS = (BuildRow, ReportRow, BlockRow, SupersededRow)
_OF_TESTS = (ResultTextRow, TestCaseRow, TriageRow, UserRow, RuleMatchRow, KnownIssueRow, QuarantineRow)

BUILD_HISTORY = HistoricalResource("build", _build_with_comments, (BuildRow, CommentRow, UserRow))
REPORT_HISTORY = HistoricalResource("build", _report, _OF_REPORTS)
TESTS_HISTORY = HistoricalResource("build", _tests, _OF_REPORTS + _OF_TESTS)
JOB_HISTORY = HistoricalResource("job", _job_with_newest_build, (JobRow, BuildRow))
CONFIGURATION_HISTORY = HistoricalResource("job", _job, (JobRow, ConfigurationRow))
QUARANTINE_HISTORY = HistoricalResource("job", _quarantine, (JobRow, QuarantineRow))
NODE_HISTORY = HistoricalResource("node", _node, (NodeRow,))
PERMISSIONS_HISTORY = HistoricalResource("user", _permissions, (UserRow, MemberRow, ProjectRow))
