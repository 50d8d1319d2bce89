"""Channels of Microsoft Teams: who is told what happens by cards."""

import secrets as random
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.di import Provide
from msgspec import UNSET, Meta, UnsetType

from api.http.permissions import Level, User
from api.http.request_context import RequestContext
from api.http.types import Id, Name, Paged, next_page, provide_paged
from api.webhooks import must_be_callable
from commands.teams import DeleteChannel, RegisterChannel, UpdateChannel
from domain.core.errors import NotFound
from domain.teams import Type, heard, shown_url
from domain.teams_cards import HEADERS, message
from integrations.ports import attempt
from projections import projects, teams
from projections.teams import ChannelRow
from projections.teams_cards import trial
from store.clock import utcnow
from store.tables import delivery_history
from store.tables.delivery_history import Stats

Url = Annotated[str, Meta(min_length=1, max_length=2_000, description="Public, over https; shown by its host alone")]
Events = Annotated[list[Type], Meta(min_length=1, max_length=100)]
Email = Annotated[str, Meta(max_length=254, pattern=r"^[^\s<>@]+@[^\s<>@]+(?!\s)$", description="Of a Teams user")]


class NewChannel(msgspec.Struct):
    name: Name
    webhook_url: Url
    project_id: Id
    events: Events
    mention_on_fail: Email | None = None


class ChannelChanges(msgspec.Struct):
    """What is not given stays."""

    name: Name | UnsetType = UNSET
    webhook_url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    mention_on_fail: Email | UnsetType | None = UNSET
    """Null: nobody any more."""
    active: bool | UnsetType = UNSET


class ChannelItem(msgspec.Struct):
    id: int
    name: str
    project_id: int
    webhook_url: str
    """Its host alone: who knows the rest may post."""
    events: list[str]
    mention_on_fail: str | None
    active: bool
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None
    """Many attempts in a row have failed since then: cards wait, and one at a time is tried."""
    failing_error: str | None
    deliveries_ok: int
    """Attempts that arrived."""
    deliveries_failed: int


class ChannelTested(msgspec.Struct):
    sent: bool
    status_code: int
    """0: there was no answer."""
    latency_ms: int
    error: str


class TeamsController(Controller):
    path = "/ms-teams"
    tags = ["MS Teams"]

    @get(dependencies={"paged": Provide(provide_paged, sync_to_thread=False)})
    async def list_channels(
        self, request: Request[User, Any, Any], ctx: RequestContext, paged: Paged
    ) -> Response[list[ChannelItem]]:
        """Of the caller's projects, by id."""
        async with ctx.reading() as connection:
            found = await teams.listing(
                connection, request.user.projects, after=paged.after, offset=paged.offset, limit=paged.limit
            )
            stats = await delivery_history.stats(connection, [row.id for row in found])
        items = [item(row, stats.get(row.id, Stats())) for row in found]
        return Response(items, headers=next_page(request, paged, [row.id for row in found]))

    @post()
    async def register(self, request: Request[User, Any, Any], ctx: RequestContext, data: NewChannel) -> ChannelItem:
        """The URL is of a workflow or an incoming webhook of the channel."""
        request.user.must("admin", data.project_id, f"project {data.project_id}")
        async with ctx.reading() as connection:
            if await projects.find(connection, data.project_id) is None:
                raise NotFound(f"There is no project {data.project_id}.")
        await must_be_callable(ctx, data.webhook_url, "webhook_url")
        # Channels and webhooks are endpoints of the same deliveries.
        channel_id = await ctx.services.ids.draw("webhooks")
        mention = data.mention_on_fail or ""
        receipt = await ctx(
            RegisterChannel(
                channel_id=channel_id,
                project_id=data.project_id,
                title=data.name,
                shown_url=shown_url(data.webhook_url),
                sealed_url=ctx.services.secrets.seal(data.webhook_url),
                events=tuple(dict.fromkeys(data.events)),
                mention=mention,
            )
        )
        at = receipt.events[-1].event.at
        return ChannelItem(
            id=channel_id,
            name=data.name,
            project_id=data.project_id,
            webhook_url=shown_url(data.webhook_url),
            events=list(dict.fromkeys(data.events)),
            mention_on_fail=data.mention_on_fail,
            active=True,
            created_at=at,
            updated_at=at,
            failing_since=None,
            failing_error=None,
            deliveries_ok=0,
            deliveries_failed=0,
        )

    @get("/{id:int}")
    async def get_channel(self, request: Request[User, Any, Any], ctx: RequestContext, id: int) -> ChannelItem:
        return await shown(ctx, await visible_channel(request.user, ctx, id))

    @put("/{id:int}")
    async def update(
        self, request: Request[User, Any, Any], ctx: RequestContext, id: int, data: ChannelChanges
    ) -> ChannelItem:
        """Another URL, or activating it, tries at once what waits to be delivered."""
        row = await visible_channel(request.user, ctx, id, "admin")
        url = None if data.webhook_url is UNSET else data.webhook_url
        if url == row.shown_url:  # what a GET showed, sent back
            url = None
        if url is not None:
            await must_be_callable(ctx, url, "webhook_url")
        await ctx(
            UpdateChannel(
                id,
                title=None if data.name is UNSET else data.name,
                shown_url=None if url is None else shown_url(url),
                sealed_url=None if url is None else ctx.services.secrets.seal(url),
                events=None if data.events is UNSET else tuple(dict.fromkeys(data.events)),
                mention=None if data.mention_on_fail is UNSET else data.mention_on_fail or "",
                active=None if data.active is UNSET else data.active,
            )
        )
        return await shown(ctx, await visible_channel(request.user, ctx, id))

    @delete("/{id:int}")
    async def delete_channel(self, request: Request[User, Any, Any], ctx: RequestContext, id: int) -> None:
        """With what was still to be delivered."""
        await visible_channel(request.user, ctx, id, "admin")
        await ctx(DeleteChannel(id))

    @post("/{id:int}/test", status_code=200)
    async def test(self, request: Request[User, Any, Any], ctx: RequestContext, id: int) -> ChannelTested:
        """Sends a card at once and says how it was answered. It is not tried again."""
        row = await visible_channel(request.user, ctx, id, "admin")
        async with ctx.reading() as connection:
            project = await projects.find(connection, row.project_id)
        card = trial(row.title, "" if project is None else project.name)
        url = ctx.services.secrets.unseal(row.sealed_url)
        now, delivery_id = utcnow(), "d-" + random.token_hex(12)
        outcome = heard(await attempt(ctx.services.outgoing, url, msgspec.json.encode(message(card)), HEADERS))
        async with ctx.services.pool.connection() as connection:
            await delivery_history.note_ping(connection, id, delivery_id, outcome, now)
        return ChannelTested(outcome.ok, outcome.status, outcome.ms, outcome.error)


async def visible_channel(user: User, ctx: RequestContext, channel_id: int, level: Level = "read") -> ChannelRow:
    """Raises NotFound for a channel that the caller cannot see, Forbidden for too little access."""
    async with ctx.reading() as connection:
        row = await teams.find(connection, channel_id)
    if row is None:
        raise NotFound(f"There is no Teams channel {channel_id}.")
    user.must(level, row.project_id, f"Teams channel {channel_id}")
    return row


async def shown(ctx: RequestContext, row: ChannelRow) -> ChannelItem:
    async with ctx.reading() as connection:
        stats = await delivery_history.stats(connection, [row.id])
    return item(row, stats.get(row.id, Stats()))


def item(row: ChannelRow, stats: Stats) -> ChannelItem:
    return ChannelItem(
        id=row.id,
        name=row.title,
        project_id=row.project_id,
        webhook_url=row.shown_url,
        events=row.events,
        mention_on_fail=row.mention or None,
        active=row.active,
        created_at=row.created_at,
        updated_at=row.updated_at,
        failing_since=row.failing_since,
        failing_error=row.failing_error,
        deliveries_ok=stats.ok,
        deliveries_failed=stats.failed,
    )
