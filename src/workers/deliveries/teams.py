"""What channels of Teams are sent: a card of the message, with the names that people know things by."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from psycopg_pool import AsyncConnectionPool

from domain.builds import BuildFinished
from domain.core.errors import NotFound
from domain.core.events import Event
from domain.deliveries import Outcome
from domain.jobs import JOB
from domain.projects import PROJECT
from domain.quarantine import TestsQuarantined
from domain.results import FAILED
from domain.teams import CHANNEL, heard
from domain.teams_cards import HEADERS, MAX_LINES, message
from integrations.ports import Outgoing, attempt
from projections import results_queries
from projections.results_queries import ResultFilters
from projections.teams_cards import About, card_of
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.tables.deliveries import Leased
from workers.deliveries.messages import Messages


@dataclass(frozen=True)
class TeamsSender:
    """Implements `workers.deliveries.sender.Sender`."""

    pool: AsyncConnectionPool
    event_log: EventLog
    messages: Messages
    secrets: Secrets
    outgoing: Outgoing
    shows: Callable[[int], Awaitable[bool]]
    """Whether the read models show a position, within a short time."""
    base_url: str
    """Of this server; empty: not known."""

    async def send(self, leased: Leased) -> Outcome:
        channel = await self.event_log.load_state(CHANNEL.at(leased.endpoint_id))
        if channel is None or channel.deleted:
            raise NotFound(f"There is no Teams channel {leased.endpoint_id}.")
        told = await self.messages.of(leased.position, leased.type, leased.item, replay=leased.replay)
        about = await self._about(leased.position, await self.messages.event(leased.position))
        card = card_of(told, msgspec.structs.replace(about, mention=channel.mention, base_url=self.base_url))
        body = msgspec.json.encode(message(card))
        return heard(await attempt(self.outgoing, self.secrets.unseal(channel.sealed_url), body, HEADERS))

    async def _about(self, position: int, event: Event) -> About:
        job_id: int | None = getattr(event, "job_id", None)
        if job_id is None:
            return About()
        job = await self.event_log.load_state(JOB.at(job_id))
        project = None if job is None else await self.event_log.load_state(PROJECT.at(job.project_id))
        tests, number = await self._tests(position, event)
        return About(
            project="" if project is None else project.title,
            job="" if job is None else job.title,
            tests=tests,
            number=number,
        )

    async def _tests(self, position: int, event: Event) -> tuple[Sequence[str], int]:
        """The first tests that an event is about, and how many these are."""
        match event:
            case TestsQuarantined():
                return event.node_ids[:MAX_LINES], len(event.node_ids)
            case BuildFinished(status="failed") if await self.shows(position):
                async with self.pool.connection() as connection:
                    ranges = await results_queries.fetch_reports(connection, event.build_id)
                    failed = ResultFilters(status=FAILED)
                    number = await results_queries.count(connection, ranges, failed)
                    first = await results_queries.fetch_page(connection, ranges, failed, MAX_LINES, 0)
                return [result.node_id for result in first], number
            case _:
                return (), 0
