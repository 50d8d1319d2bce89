"""Writes tickets for the failures of finished builds: creates tickets, and comments on them when a failure comes back
or stops.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg_pool import AsyncConnectionPool

from commands.handler import Command, CommandContext, Handler
from commands.jira import RecordJiraOutcome
from commands.reports.recording import load_build
from commands.tickets import ClaimTicket, LinkTicket, RecordRecurrence, RecordStop, RecordTicket
from commands.triage import TriagedResult
from domain.builds import BuildFinished, Finished
from domain.core.columns import Int32s
from domain.core.errors import Conflict, NotFound, Unavailable
from domain.core.events import Recorded
from domain.jira import JIRA, JiraIntegration
from domain.nodes import NODE
from domain.results import FAILED
from domain.tickets import TICKET, TicketState, ticket_id
from integrations.ticket_ports import NewTicket, TicketFailure, TicketHost, TicketHosts, TicketsUnavailable
from projections import build_groups, jira, new_failures, results_history, results_queries, tickets
from projections.results_queries import ReportRanges, Result, ResultFilters
from store.log.event_log import EventLog
from workers.ticket_texts import (
    BuildContext,
    Cause,
    describe_failure,
    describe_recurrence,
    describe_rest,
    describe_stop,
)

CALLER = CommandContext("system:tickets")
MAX_FAILURES = 5_000
"""Largest number of failures of a build that are read, in the order of its reports."""
MAX_TICKETS = 20
"""Largest number of tickets that a build creates at one integration, each for one new cause. Builds of one group that
fail alike create no more than this together. One more ticket names all other causes.
"""
CLAIM_POLL_S = 10
"""Seconds until a build looks again for a ticket that another build is creating. Most tickets are there after a second
or two. If the other build does not create the ticket, its claim ends after TICKET_CLAIM_LIFETIME.
"""
MAX_COMPARED = 3
"""Number of tests of a cause whose earlier results are read to decide whether the cause is new."""
MAX_LINKED = 200
"""Largest number of results of a build that are linked to one ticket."""
LINKED_AT_ONCE = 50
"""Number of results that one command links."""


class TicketsDelayed(Exception):
    """Some tickets are not written yet; a later try may succeed."""

    def __init__(self, why: str, retry_after_s: int) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s
        """Smallest number of seconds to wait before the next try; 0 if the tracker asks for no wait."""


class TicketBeingCreated(Exception):
    """A ticket is claimed by another build that creates it, or by an earlier try that lost Jira's answer. The
    integration does not count as failing.
    """

    def __init__(self, cause: Cause) -> None:
        super().__init__(f"The ticket {cause.label} is being created.")


@dataclass(frozen=True)
class TicketWriter:
    """Writes the tickets of a finished build. Writing them again creates no second ticket."""

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    hosts: TicketHosts
    wait_reached: Callable[[int], Awaitable[bool]]
    """Waits until the read models have reached a position. Returns False if they do not reach it in time."""
    base_url: str
    clock: Callable[[], datetime]

    async def select(self, events: Sequence[Recorded]) -> list[Recorded]:
        """Returns the events for which there may be tickets to write: ends of builds whose projects have a Jira
        integration. Also returns events that cannot be read, so that they are parked instead of skipped. While the read
        models are behind the last event, returns all events, since the read models may lack an integration.
        """
        projects = {recorded.event.project_id for recorded in events if isinstance(recorded.event, BuildFinished)}
        if projects and not await self.wait_reached(events[-1].position):
            return list(events)
        served = await jira.find_served_projects(self.pool, projects)
        return [one for one in events if not isinstance(one.event, BuildFinished) or one.event.project_id in served]

    async def write(self, event: BuildFinished) -> None:
        """Writes the tickets of the build that the event finished. Raises Unavailable if the read models are behind,
        and TicketsDelayed if a tracker failed or another build is creating one of the tickets.
        """
        if event.status == "aborted":
            return
        try:
            loaded = await load_build(self.event_log, event.build_id)
        except NotFound:
            return
        build = loaded.state
        if not isinstance(build, Finished) or build.queued.untrusted:  # strangers must not write to the tracker
            return
        if not await self.wait_reached(loaded.position):
            raise Unavailable("The read models are behind the log.")
        jira_ids = await jira.fetch_of_project(self.pool, event.project_id)
        if not jira_ids:
            return
        async with self.pool.connection() as connection:
            ranges = await results_queries.fetch_reports(connection, build.build_id)
            failed = await results_queries.fetch_page(
                connection, ranges, ResultFilters(status=FAILED), MAX_FAILURES, 0, excused_last=True
            )
        causes, where = group_failures(failed, event.project_id), await self._describe(build)
        group_id = build.queued.group_id
        group = [] if group_id is None else await build_groups.fetch_ids(self.pool, group_id)
        delays: list[TicketsDelayed] = []
        for jira_id in jira_ids:
            integration = await self.event_log.load_state(JIRA.at(jira_id))
            # The texts of an integration are empty if it was erased with its project.
            if integration is None or integration.deleted or not integration.auto_create or not integration.host:
                continue
            error = ""
            try:
                await _TicketsOfBuild(self, integration, build, where, ranges, causes, group).write()
            except TicketBeingCreated as waiting:
                delays.append(TicketsDelayed(str(waiting), CLAIM_POLL_S))
                continue
            except TicketFailure as failure:
                error = str(failure)
                retry_after_s = failure.retry_after_s if isinstance(failure, TicketsUnavailable) else 0
                delays.append(TicketsDelayed(error, retry_after_s))
            await self.handler.execute(RecordJiraOutcome(jira_id, error), CALLER)
        if delays:
            raise TicketsDelayed("; ".join(map(str, delays)), max(delay.retry_after_s for delay in delays))

    async def _describe(self, build: Finished) -> BuildContext:
        queued = build.queued
        node = None if build.node_id is None else await self.event_log.load_state(NODE.at(build.node_id))
        return BuildContext(
            build.build_id,
            queued.job_id,
            queued.job_title,
            queued.branch,
            build.commit_sha or "",
            {} if node is None else {"node": node.title},
            self.base_url,
        )


@dataclass(frozen=True)
class _TicketsOfBuild:
    """The tickets of one build at one integration."""

    writer: TicketWriter
    integration: JiraIntegration
    build: Finished
    where: BuildContext
    ranges: ReportRanges
    causes: Sequence[Cause]
    group: Sequence[int]
    """Ids of the builds of the build's group; empty for a job without a matrix."""

    @property
    def host(self) -> TicketHost:
        return self.writer.hosts.open(self.integration)

    async def write(self) -> None:
        """Writes the tickets. Raises TicketFailure if the tracker fails, and TicketBeingCreated if a ticket is claimed
        already. Tickets that were written before the error stay.
        """
        new, claimed, created = list[Cause](), list[Cause](), 0
        for cause in self.causes:
            ticket = await self._load(cause.name)
            created += ticket.created_in in (self.build.build_id, *self.group)
            if ticket.key:
                await self._recur(cause, ticket)
            elif ticket.is_claimed(self.writer.clock()):
                claimed.append(cause)
            elif await self._is_new(cause):
                new.append(cause)
        # All tries, and all builds of a group that fail alike, together create no more tickets than one try would.
        allowed = max(0, MAX_TICKETS - created - len(claimed))
        for cause in new[:allowed]:
            text = await results_history.find_text(self.writer.pool, cause.results[0].id)
            cause = replace(cause, trace="" if text is None else text.trace)
            await self._create(cause, describe_failure(cause, self.where))
        if rest := new[allowed:]:
            first_id = self.build.queued.group_id or self.build.build_id
            await self._create(*describe_rest(f"build-{first_id}", rest, self.where))
        await self._stop()
        if claimed:  # another build creates the tickets; a later try links the failures of this one
            raise TicketBeingCreated(claimed[0])

    async def _load(self, cause: str) -> TicketState:
        key = ticket_id(self.integration.jira_id, self.build.queued.project_id, cause)
        return await self.writer.event_log.load_state(TICKET.at(key))

    def _about(self, cause: str) -> dict[str, Any]:
        ids = {"jira_id": self.integration.jira_id, "cause": cause}
        return {**self.build.ids, **ids}

    async def _is_new(self, cause: Cause) -> bool:
        """Returns whether a cause is new: whether none of its first MAX_COMPARED tests failed for this cause when the
        test last ran in an earlier build of the job. Runs in builds of the same group do not count, so that it does not
        matter which build of the group is handled first.
        """
        queued = self.build.queued
        before = await new_failures.find_failed_before(
            self.writer.pool, queued.job_id, queued.build_id, queued.group_id, cause.case_ids[:MAX_COMPARED]
        )
        return cause.name not in before

    async def _create(self, cause: Cause, text: NewTicket) -> None:
        about, now = self._about(cause.name), self.writer.clock()
        ticket = await self._load(cause.name)
        if not ticket.key:
            if ticket.is_claimed(now):
                raise TicketBeingCreated(cause)
            # Searches first: a search that fails leaves no claim. Behind a claim that has ended there may be an issue.
            found = await self.host.find(cause.label)
            if found is None:
                try:
                    await self._execute(ClaimTicket(**about, now=now))
                except Conflict:
                    raise TicketBeingCreated(cause) from None
                created = await self.host.create(text)
            else:
                created = found
            command = RecordTicket(
                **about,
                issue_key=created.key,
                issue_url=created.url,
                branch=self.build.queued.branch,
                case_ids=Int32s(cause.case_ids),
                found=found is not None,
            )
            await self._execute(command)
            ticket = await self._load(cause.name)
        await self._link(cause.results, ticket)

    async def _recur(self, cause: Cause, ticket: TicketState) -> None:
        now = self.writer.clock()
        if ticket.must_recur(self.build.queued.job_id, self.build.build_id, now):
            await self.host.reopen(ticket.key)
            await self.host.comment(ticket.key, describe_recurrence(cause, self.where))
            branch, cases = self.build.queued.branch, Int32s(cause.case_ids)
            about = self._about(cause.name)
            await self._execute(RecordRecurrence(**about, branch=branch, case_ids=cases, now=now))
        await self._link(cause.results, ticket)

    async def _stop(self) -> None:
        """Comments that a failure has stopped, on each ticket of the job whose failure still occurred before this
        build, and whose tests have all passed in this build or its group.
        """
        writer, job_id = self.writer, self.build.queued.job_id
        present = {cause.name for cause in self.causes}
        for row in await tickets.fetch_failing(writer.pool, job_id):
            if row.jira_id != self.integration.jira_id or row.cause in present:
                continue
            ticket = await self._load(row.cause)
            failing = ticket.failing_jobs.get(job_id)
            if failing is None or failing.build_id >= self.build.build_id or failing.branch != self.where.branch:
                continue
            if await new_failures.has_passed(writer.pool, await self._fetch_reports(), failing.case_ids):
                await self.host.comment(ticket.key, describe_stop(self.where, len(failing.case_ids)))
                await self._execute(RecordStop(**self._about(row.cause)))

    async def _fetch_reports(self) -> list[ReportRanges]:
        """Returns the reports that show whether a failure has stopped: those of the build or, if it belongs to a group,
        those of all builds of the group, since a test may fail in one and pass in another. Returns an empty list until
        all builds of the group have passed or failed.
        """
        if self.build.queued.group_id is None:
            return [self.ranges]
        builds = await build_groups.fetch_counting(self.writer.pool, self.build.queued.group_id)
        if any(build.status not in ("passed", "failed") for build in builds):
            return []
        async with self.writer.pool.connection() as connection:
            return [await results_queries.fetch_reports(connection, build.id) for build in builds]

    async def _link(self, results: Sequence[Result], ticket: TicketState) -> None:
        unlinked = [result for result in results if not result.triage.defect_key][:MAX_LINKED]
        for start in range(0, len(unlinked), LINKED_AT_ONCE):
            linked = tuple(
                TriagedResult(result.id, **self.build.ids, status="failed")
                for result in unlinked[start : start + LINKED_AT_ONCE]
            )
            await self._execute(LinkTicket(linked, ticket.key, ticket.url))

    async def _execute(self, command: Command) -> None:
        await self.writer.handler.execute(command, CALLER)


def group_failures(results: Iterable[Result], project_id: int) -> list[Cause]:
    """Groups failures by signature. Returns the causes, those with most failures first. Leaves out failures that match
    a known issue, failures of quarantined tests, and failures without a signature.
    """
    causes: dict[str, list[Result]] = {}
    for result in results:
        is_known = result.known_issue or result.quarantined or result.triage.known_issue_id is not None
        if result.signature and not is_known:
            causes.setdefault(result.signature, []).append(result)
    found = (Cause(name, failures, project_id) for name, failures in causes.items())
    return sorted(found, key=lambda cause: -len(cause.results))
