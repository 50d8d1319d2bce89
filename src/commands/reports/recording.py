"""Records a report: reads its file, looks up its tests in the read models, and has a command append its results."""

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from commands.handler import Command, Receipt
from commands.reports.case_catalogues import CaseCatalogues
from commands.reports.flips import find_failed_cases, find_flips
from commands.reports.reading import ReportRead, make_unreadable
from commands.reports.reading_pool import ReadingPool
from commands.reports.report_queue import ReportQueue, ReportSender
from commands.reports.rule_book import RuleBook
from commands.results import (
    MAX_NEW_CASES,
    AddCases,
    NewCases,
    RecordReport,
    find_excess,
    find_report,
    must_take_reports,
    place_report,
)
from domain.builds import BUILD, AnyBuild, commit_of
from domain.core.errors import NotFound, Unavailable
from domain.core.events import LoadedState
from domain.flakiness import OtherResult
from domain.reports import Report
from domain.results import ResultsRecorded, results_stream
from formats.reports import is_reserved_for_reports
from store.clock import utcnow
from store.log.append import VersionConflict
from store.log.event_log import EventLog
from store.log.ids import Ids

MISSING = "no readable file that this build wrote matches this pattern of the job's artifacts, which names reports"
DENIED = "the agent could not read or send this file, or files that this pattern matches: the build's log says why"
MAX_TRIES = 10
"""Number of tries to record a report while others change the build or the project's test cases. Then the sender must
send the report again.
"""
MAX_UNSHOWN_RESULTS = 20_000
"""Largest number of a project's results that the read models may lack when the project's next report is recorded. With
more, the report waits. Applying so many takes the read models a second or two, and events of other projects wait
meanwhile. Each TEXT_OF_RESULT bytes of texts count as a result.
"""
TEXT_OF_RESULT = 1024
MAX_LAG_S = 30.0
"""Largest number of seconds that a report waits for the read models to show earlier events."""


class Execute(Protocol):
    """Executes commands as the actor that sent the report."""

    async def __call__(self, command: Command) -> Receipt:
        """Executes the command that records the report, and registers the request's `Idempotency-Key` with it."""
        ...

    async def prepare(self, command: Command) -> Receipt:
        """Executes a command that must come before the one that records the report. If the client repeats the request,
        the command may be executed again.
        """
        ...


class ReadModels(Protocol):
    """Look-ups in read models that recording a report needs. `projections.report_lookups` implements them."""

    async def find_cases(self, project_id: int, node_ids: Sequence[str]) -> list[int | None]:
        """Returns the id of the test case for each node id, or None if the read model shows no such test case."""
        ...

    async def find_results_on_commit(self, build: AnyBuild, path: str, failed: Sequence[int]) -> Sequence[OtherResult]:
        """Returns results of other builds of the same job on the same commit, from their reports at this path. Only the
        newest of these builds are read, and only those that passed or failed. The results of the newest build come
        first.

        `failed` has the ids of the test cases that fail in the report to record. For any other test case, returns only
        results of builds in which it failed. Leaves out the results of a test in a build in which an outage made the
        test fail.
        """
        ...


async def load_build(log: EventLog, build_id: int) -> LoadedState[AnyBuild]:
    """Loads a build and its version, so that reports can be recorded for the build. Raises NotFound if there is no such
    build.
    """
    loaded = await log.load_at_version(BUILD.at(build_id))
    if loaded.state is None:
        raise NotFound(f"There is no build {build_id}.")
    return LoadedState(loaded.stream, loaded.version, loaded.state, loaded.position)


@dataclass(frozen=True)
class IncomingReport:
    """A file that somebody sends as a report of one attempt of a build."""

    attempt: int
    path: str
    content: Path
    digest: bytes
    """SHA-256 of the content."""
    sender: ReportSender
    is_replacement: bool = False

    def find_in(self, build: AnyBuild) -> Report | None:
        """Returns the report that the build already has at this path with the same bytes; None if it has no such
        report.
        """
        return place_report(build, self.attempt, self.path, self.digest, is_replacement=self.is_replacement)[1]

    def mark(self, report: ReportRead) -> ReportRead:
        """Returns `report`, marked as unreadable if the file is no test report but has a name that is reserved for test
        reports.
        """
        report.is_unreadable |= not report.is_report and is_reserved_for_reports(self.path)
        return report


@dataclass(frozen=True)
class ReportRecorder:
    """Records reports. If the build already has the same bytes at the same path, returns the report that was recorded
    first.

    Raises Conflict if the build does not accept reports (any more), and Unavailable if the read models lag behind.
    """

    log: EventLog
    ids: Ids
    read_models: ReadModels
    reading: ReadingPool
    wait_until_shown: Callable[[int], Awaitable[bool]]
    """Function that waits until the read models show a position. Returns False if they do not show it in time. If they
    lag far behind, returns False at once.
    """

    _queue: ReportQueue = field(default_factory=ReportQueue)
    """Queue of the reports to record. It takes the reports of a project one after the other, since each may have new
    test cases.
    """
    _catalogues: CaseCatalogues = field(default_factory=CaseCatalogues)
    rule_book: RuleBook = field(default_factory=RuleBook)
    _unshown: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Project id -> (position of its last report, number of results recorded since a report of the project last waited
    for the read models). Texts count as results, too.
    """

    async def record_file(self, execute: Execute, build: LoadedState[AnyBuild], file: IncomingReport) -> Report:
        """Reads a file and records it as a report. If the build already has this report, returns the recorded one."""
        if (known := file.find_in(build.state)) is not None:
            return known
        must_take_reports(build.state, file.attempt)
        return await self.record(execute, build, file, await self.read(build.state, file))

    async def read(self, build: AnyBuild, file: IncomingReport) -> ReportRead:
        """Reads a file in another process, which also matches its failures with the known issues of the project."""
        project_id = build.queued.project_id
        await self._wait_for_large(project_id, file.sender)  # before this process has the results in memory
        rules = partial(self.rule_book.fetch_match_rules, self.log, project_id)
        return file.mark(await self.reading.read(project_id, file.sender, file.content, rules))

    async def record_missing(self, execute: Execute, build: LoadedState[AnyBuild], file: IncomingReport) -> Report:
        """Records that a report is missing: no file matches a pattern for reports in the job's artifacts. `file.path`
        is this pattern.
        """
        must_take_reports(build.state, file.attempt)
        return await self.record(execute, build, file, ReportRead(is_missing=True, warnings=[MISSING]))

    async def record_denied(self, execute: Execute, build: LoadedState[AnyBuild], file: IncomingReport) -> Report:
        """Records an unreadable report, for a file that the agent could not read or send."""
        must_take_reports(build.state, file.attempt)
        return await self.record(execute, build, file, make_unreadable(DENIED))

    async def record(
        self, execute: Execute, build: LoadedState[AnyBuild], file: IncomingReport, report: ReportRead
    ) -> Report:
        """Records a report that has already been read."""
        project_id = build.state.queued.project_id
        first_result_id = await self.ids.draw_range("results", max(1, report.rows))
        async with self._queue.turn(project_id, file.sender.actor) as has_waited:
            if await self._wait_for_large(project_id) or has_waited:
                build = await load_build(self.log, build.state.build_id)
            return await self._try_to_record(execute, build, file, report, first_result_id)

    async def _try_to_record(
        self,
        execute: Execute,
        build: LoadedState[AnyBuild],
        file: IncomingReport,
        report: ReportRead,
        first_result_id: int,
    ) -> Report:
        for _ in range(MAX_TRIES):
            if (known := file.find_in(build.state)) is not None:
                return known
            if excess := find_excess(build.state, report.rows):
                report = make_unreadable(excess)
            must_take_reports(build.state, file.attempt)
            try:
                command = await self._prepare(execute, build, file, report, first_result_id)
                receipt = await execute(command)
                state = receipt.state(BUILD.at(build.state.build_id))
            except VersionConflict:
                # The build changed, or the project got new cases: look up again when the read models show this change.
                await self._wait(await self.log.read_head())
                build = await load_build(self.log, build.state.build_id)
            else:
                assert state is not None
                recorded = file.find_in(state)
                assert recorded is not None
                project_id = build.state.queued.project_id
                _, unshown = self._unshown.get(project_id, (0, 0))
                unshown += report.rows + report.text_bytes // TEXT_OF_RESULT
                self._unshown[project_id] = receipt.position or 0, unshown
                return recorded
        raise Unavailable("Other reports of this project keep coming first; send this one again.")

    async def _prepare(
        self,
        execute: Execute,
        build: LoadedState[AnyBuild],
        file: IncomingReport,
        report: ReportRead,
        first_result_id: int,
    ) -> RecordReport:
        ids_of_cases, new_cases = await self._number_cases(execute, build.state, report)
        return RecordReport(
            build=build,
            attempt=file.attempt,
            path=file.path,
            digest=file.digest,
            is_replacement=file.is_replacement,
            report=report,
            first_result_id=first_result_id,
            case_ids=ids_of_cases,
            new_cases=new_cases,
            matches=report.matches,
            flips=await self._find_flips(build.state, file.path, report, ids_of_cases),
            replaced_blocks=await self._load_replaced(build.state, file),
            now=utcnow(),
        )

    async def _number_cases(
        self, execute: Execute, build: AnyBuild, report: ReportRead
    ) -> tuple["array[int]", NewCases | None]:
        """Returns the test case id for each of the report's `node_ids`, and the new test cases that must be added
        together with the report; None if there are none. More than MAX_NEW_CASES new test cases are divided into parts
        of that size, and all parts but the last are added here. After adding a part, this method waits until the read
        models show the part before it. So the read models apply one part while the next part is stored.
        """
        project_id = build.queued.project_id
        shown = await self.read_models.find_cases(project_id, report.node_ids)
        version, case_ids = await self._catalogues.check_ids(self.log, project_id, report.node_ids, shown)
        new = [index for index, case_id in enumerate(case_ids) if case_id is None]
        first_case_id = await self.ids.draw_range("test_cases", len(new)) if new else 0
        for number, index in enumerate(new):
            case_ids[index] = first_case_id + number
        new_cases, newest = None, 0
        for start in range(0, len(new), MAX_NEW_CASES):
            if new_cases is not None:
                before, newest = newest, (await execute.prepare(AddCases(new_cases))).position or 0
                await self._wait(before)
            part = new[start : start + MAX_NEW_CASES]
            new_cases = NewCases(
                project_id=project_id,
                catalogue_version=version + start // MAX_NEW_CASES,
                first_case_id=first_case_id + start,
                node_ids=[report.node_ids[index] for index in part],
                suites=[report.suites[report.case_suites[index]] for index in part],
            )
        return array("q", (case_id for case_id in case_ids if case_id is not None)), new_cases

    async def _find_flips(self, build: AnyBuild, path: str, report: ReportRead, case_ids: Sequence[int]) -> bytes:
        if not commit_of(build):
            return b""
        failed = find_failed_cases(report, case_ids)
        return find_flips(report, case_ids, await self.read_models.find_results_on_commit(build, path, failed))

    async def _load_replaced(self, build: AnyBuild, file: IncomingReport) -> Sequence[ResultsRecorded]:
        """Returns the recorded results of the report that `file` replaces; none if `file` replaces no report."""
        replaced = find_report(build, file.attempt, file.path) if file.is_replacement else None
        if replaced is None:
            return ()
        stored = await self.log.read_stream(results_stream(build.build_id), replaced.results_from, replaced.blocks)
        return [recorded.event for recorded in stored if isinstance(recorded.event, ResultsRecorded)]

    async def _wait_for_large(self, project_id: int, sender: ReportSender | None = None) -> bool:
        """Waits until the read models show the earlier reports of a project, if these have more than
        MAX_UNSHOWN_RESULTS results and texts. Returns whether it waited. Raises Unavailable after MAX_LAG_S, and as
        soon as `sender` has left.
        """
        position, results = self._unshown.get(project_id, (0, 0))
        if results <= MAX_UNSHOWN_RESULTS:
            return False
        await self._wait(position, sender)
        if self._unshown.get(project_id) == (position, results):
            del self._unshown[project_id]
        return True

    async def _wait(self, position: int, sender: ReportSender | None = None) -> None:
        """Waits until the read models show a position. Raises Unavailable after MAX_LAG_S, and when it sees that
        `sender` has left.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + MAX_LAG_S
        while clock() < deadline:
            if sender is not None:
                sender.must_stay()
            if await self.wait_until_shown(position):
                return
            await asyncio.sleep(0.1)
        raise Unavailable("The read models lag behind; send this report again.")
