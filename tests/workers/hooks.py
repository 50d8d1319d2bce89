"""Endpoints and builds for tests of deliveries: a real log and database, a clock that is moved by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from commands.build_actions import DeleteBuild
from commands.builds import FinishExternalBuild, StartBuild
from commands.endpoints import DeleteEndpoints
from commands.handler import Command, CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob
from commands.projects import CloseProject, CreateProject, DeleteProject
from commands.teams import RegisterChannel, UpdateChannel
from commands.webhooks import Redeliver, RegisterWebhook, ReplayWebhook, UpdateWebhook
from domain.core.events import Event
from domain.endpoints import EndpointKind
from domain.teams import redact_url
from domain.webhooks import WEBHOOK
from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from projections.time_travel.historical_tables import HistoricalTables
from projections.webhooks import WebhookRow
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, Listener
from store.tables import delivery_history, delivery_upkeep
from store.tables.deliveries import DELIVERIES_CHANNEL
from testhide.processes import Core
from tests.support.read_models import catch_up_read_models
from workers.deliveries.messages import MessageBuilder
from workers.deliveries.planner import DeliveryPlanner
from workers.deliveries.sender import DeliverySender, EndpointSender
from workers.deliveries.teams import TeamsSender
from workers.deliveries.webhooks import WebhookSender

ANN = CommandContext("user:1")


@dataclass
class Hooks:
    parts: Core
    outgoing: HttpOutgoing
    now: datetime = datetime(2026, 5, 20, 10, tzinfo=UTC)
    has_read_models: bool = False
    """Whether the read models follow the log when a delivery waits for them."""
    _ids: Any = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.handler = Handler(self.parts.log, self.clock)
        self.listener = Listener(self.parts.conninfo, EVENTS, DELIVERIES_CHANNEL)
        self.planner = self.new_planner()
        self.deliveries = self.new_deliveries()

    def clock(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def new_planner(self, **options: int) -> DeliveryPlanner:
        messages = MessageBuilder(self.parts.log)
        return DeliveryPlanner(self.parts.pool, self.parts.log, messages, self.listener, self.clock, **options)

    def new_deliveries(self) -> DeliverySender:
        parts, messages = self.parts, MessageBuilder(self.parts.log)
        webhooks = WebhookSender(messages, parts.secrets, self.outgoing, self.clock)
        teams = TeamsSender(
            parts.pool, parts.log, messages, parts.secrets, self.outgoing, self.shows, "https://ci.example.com"
        )
        senders: dict[EndpointKind, EndpointSender] = {"webhook": webhooks, "teams": teams}
        return DeliverySender(parts.conninfo, parts.pool, self.handler, senders, self.listener, self.clock)

    async def shows(self, position: int) -> bool:
        if self.has_read_models:
            await catch_up_read_models(self.parts)
        return self.has_read_models

    async def start(self) -> None:
        for project in (1, 2):
            await self.do(CreateProject(project, f"P{project}", 1, ((f"p{project}", f"slug-{project}"),), b""))
            await self.do(CreateJob(project, project, "Smoke"))
            await self.do(ConfigureJob(project, "pytest"))

    async def do(self, command: Command) -> None:
        await self.handler.execute(command, ANN)

    async def register(
        self,
        url: str,
        events: Sequence[str],
        *,
        project_id: int | None = 1,
        secret: str | None = None,
        active: bool = True,
    ) -> int:
        webhook_id = next(self._ids)
        sealed = None if secret is None else self.parts.secrets.seal(secret)
        await self.do(RegisterWebhook(webhook_id, project_id, url, tuple(events), sealed, active))
        return int(webhook_id)

    async def register_channel(self, url: str, events: Sequence[str], *, project_id: int = 1, mention: str = "") -> int:
        channel_id = int(next(self._ids))
        sealed = self.parts.secrets.seal(url)
        await self.do(RegisterChannel(channel_id, project_id, "CI", redact_url(url), sealed, tuple(events), mention))
        return channel_id

    async def update_channel(self, channel_id: int, url: str | None = None, **changes: Any) -> None:
        sealed = None if url is None else self.parts.secrets.seal(url)
        await self.do(UpdateChannel(channel_id, sealed_url=sealed, **changes))

    async def delete_channel(self, channel_id: int) -> None:
        await self.do(DeleteEndpoints("teams", (channel_id,)))

    async def update(self, webhook_id: int, **changes: Any) -> None:
        await self.do(UpdateWebhook(webhook_id, **changes))

    async def delete(self, webhook_id: int) -> None:
        await self.do(DeleteEndpoints("webhook", (webhook_id,)))

    async def delete_project(self, project_id: int) -> None:
        await self.do(CloseProject(project_id))
        await self.do(DeleteProject(project_id, (project_id,)))

    async def delete_build(self, build_id: int) -> None:
        await self.do(DeleteBuild(build_id))

    async def redeliver(self, webhook_id: int, delivery_id: str) -> None:
        async with self.parts.pool.connection() as connection:
            found = await delivery_history.find_delivery_state(connection, webhook_id, delivery_id)
        assert found is not None
        await self.do(Redeliver(webhook_id, delivery_id, found[1]))

    async def replay(self, webhook_id: int, after: int = 0) -> None:
        await self.do(ReplayWebhook(webhook_id, f"r{next(self._ids)}", after, await self.parts.log.read_head()))

    async def build(self, build_id: int, status: Any, *, job_id: int = 1) -> None:
        """Starts and ends; by its own time, which is the clock's."""
        await self.do(StartBuild(build_id, job_id, branch="main", external=True))
        await self.do(FinishExternalBuild(build_id, status))

    async def follow(self) -> None:
        await self.planner.catch_up()

    async def send(self) -> int:
        return await self.deliveries.run_due()

    async def deliver(self) -> int:
        await self.follow()
        return await self.send()

    async def reclaim_expired(self) -> int:
        async with self.parts.pool.connection() as connection:
            return await delivery_upkeep.reclaim_expired(connection, "nobody", self.clock())

    async def history(self, webhook_id: int) -> list[delivery_history.DeliveryAttempt]:
        async with self.parts.pool.connection() as connection:
            return await delivery_history.read_history(connection, webhook_id, ok=None, before=None, limit=1_000)

    async def stats(self, webhook_id: int) -> delivery_history.DeliveryStats:
        async with self.parts.pool.connection() as connection:
            return (await delivery_history.read_stats(connection, [webhook_id]))[webhook_id]

    async def open_deliveries(self, webhook_id: int) -> int:
        return len(
            await self.rows(
                f"SELECT FROM webhook_deliveries WHERE webhook_id = {webhook_id} AND state IN ('waiting', 'pending')"
            )
        )

    async def shown(self, webhook_id: int) -> WebhookRow:
        """As the projection would show it, by the events of its stream."""
        tables = HistoricalTables((WebhookRow,))
        stream = WEBHOOK.at(webhook_id).name
        for recorded in (await self.parts.log.load([stream]))[stream]:
            tables.apply(recorded)
        row = tables.get(WebhookRow, webhook_id)
        assert row is not None
        return row

    async def events(self, *names: str) -> list[Any]:
        found: list[Event] = [item.event for item in await self.parts.log.read(0, 10_000, list(names))]
        return found

    async def rows(self, query: str) -> list[Any]:
        async with self.parts.pool.connection() as connection:
            return await (await connection.execute(query.encode())).fetchall()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.listener.start()
        tasks = [asyncio.create_task(self.planner.run()), asyncio.create_task(self.deliveries.run())]
        try:
            yield
        finally:
            await cancel_and_wait(*tasks)
            await self.listener.close()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)  # between two looks at what no notification tells


@contextlib.asynccontextmanager
async def open_hooks(parts: Core) -> AsyncIterator[Hooks]:
    async with HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing:
        hooks = Hooks(parts, outgoing)
        await hooks.start()
        yield hooks
