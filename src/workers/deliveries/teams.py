"""Sends notifications to Teams channels. A card shows the message, and the names of its project, job and tests."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from psycopg_pool import AsyncConnectionPool

from domain.adaptive_cards import HEADERS, MAX_LINES, render_card
from domain.builds import BuildFinished
from domain.core.errors import NotFound
from domain.core.events import Event
from domain.delivery_outcomes import Outcome
from domain.jobs import JOB
from domain.projects import PROJECT
from domain.quarantine import TestsQuarantined
from domain.results import FAILED
from domain.teams import CHANNEL, correct_outcome
from integrations.ports import Outgoing, attempt
from projections import results_queries
from projections.results_queries import ResultFilters
from projections.teams_cards import CardContext, describe_failure, make_card
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.tables.deliveries import LeasedDelivery
from workers.deliveries.messages import MessageBuilder


@dataclass(frozen=True)
class TeamsSender:
    """Sends deliveries to Teams channels. Implements `workers.deliveries.sender.EndpointSender`."""

    pool: AsyncConnectionPool
    event_log: EventLog
    messages: MessageBuilder
    secrets: Secrets
    outgoing: Outgoing
    wait_for_position: Callable[[int], Awaitable[bool]]
    """Waits until the read models have reached a position. Returns False if they do not reach it in time."""
    base_url: str
    """The URL of this server, for the links in cards; empty for cards without links."""

    async def send(self, leased: LeasedDelivery) -> Outcome:
        channel = await self.event_log.load_state(CHANNEL.at(leased.endpoint_id))
        if channel is None or channel.deleted:
            raise NotFound(f"There is no Teams channel {leased.endpoint_id}.")
        message = await self.messages.build(leased.position, leased.type, leased.item, replay=leased.replay)
        context = await self._context(leased.position, await self.messages.fetch_event(leased.position))
        context = msgspec.structs.replace(context, mention=channel.mention, base_url=self.base_url)
        body = msgspec.json.encode(render_card(make_card(message, context)))
        return correct_outcome(await attempt(self.outgoing, self.secrets.unseal(channel.sealed_url), body, HEADERS))

    async def _context(self, position: int, event: Event) -> CardContext:
        job_id: int | None = getattr(event, "job_id", None)
        if job_id is None:
            return CardContext()
        job = await self.event_log.load_state(JOB.at(job_id))
        project = None if job is None else await self.event_log.load_state(PROJECT.at(job.project_id))
        tests, number = await self._find_tests(position, event)
        return CardContext(
            project="" if project is None else project.title,
            job="" if job is None else job.title,
            tests=tests,
            number=number,
        )

    async def _find_tests(self, position: int, event: Event) -> tuple[Sequence[str], int]:
        """Returns lines for the first tests that an event is about, and the number of all these tests. Failures that
        count against the build come before those that do not.
        """
        match event:
            case TestsQuarantined():
                return event.node_ids[:MAX_LINES], len(event.node_ids)
            case BuildFinished(status="failed") if await self.wait_for_position(position):
                async with self.pool.connection() as connection:
                    ranges = await results_queries.fetch_reports(connection, event.build_id)
                    failed = ResultFilters(status=FAILED)
                    number = await results_queries.count(connection, ranges, failed)
                    first = await results_queries.fetch_page(
                        connection, ranges, failed, MAX_LINES, 0, excused_last=True
                    )
                return [
                    describe_failure(result.node_id, known_issue=result.known_issue, quarantined=result.quarantined)
                    for result in first
                ], number
            case _:
                return (), 0
