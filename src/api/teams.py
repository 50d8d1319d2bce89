"""Microsoft Teams channels, which receive notifications as cards."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from msgspec import UNSET, Meta, UnsetType

from api.endpoints import check_scheme, find_accessible, find_with_stats, must_be_callable
from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import Id, Name, to_view
from api.projects import find_visible_project
from commands.endpoints import MAX_ENDPOINTS, DeleteEndpoints
from commands.teams import RegisterChannel, UpdateChannel
from commands.value_checks import ValueCheck, described_as
from domain.adaptive_cards import HEADERS, render_card
from domain.teams import CardType, correct_outcome, redact_url
from integrations.ports import attempt
from projections import projects
from projections.endpoints import fetch_ids_of_project, list_endpoints, new_row
from projections.teams import ChannelRow
from projections.teams_cards import make_test_card
from store.clock import utcnow
from store.tables import deliveries, delivery_history
from store.tables.delivery_history import DeliveryStats

Url = Annotated[
    str,
    Meta(min_length=1, max_length=2_000, description="Public, over https; shown by its host alone"),
    ValueCheck(check_scheme),
    described_as(format="https-url"),
]
Events = Annotated[list[CardType], Meta(min_length=1, max_length=100)]
Email = Annotated[
    str, Meta(max_length=254, pattern=r"^[^\s<>@]+@[^\s<>@]+\Z", description="the email address of a Teams user")
]


class NewChannel(msgspec.Struct):
    name: Name
    webhook_url: Url
    project_id: Id
    events: Events
    mention_on_fail: Email | None = None


class ChannelChanges(msgspec.Struct):
    """Changes of a channel. Fields that are left out stay unchanged."""

    name: Name | UnsetType = UNSET
    webhook_url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    mention_on_fail: Email | UnsetType | None = UNSET
    """Email address of the user whom cards of failed builds mention; null for nobody."""
    active: bool | UnsetType = UNSET


class ChannelItem(msgspec.Struct):
    id: int
    name: str
    project_id: int
    webhook_url: str
    """Host of the URL only, since everybody who knows the whole URL can post to the channel."""
    events: list[CardType]
    mention_on_fail: str | None
    """Email address of the user whom cards of failed builds mention; null for nobody."""
    active: bool
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None
    """Time since when the channel counts as failing, because 10 attempts in a row have failed; null if it does not
    count as failing. While it does, the server tries one card at a time, and the other cards wait.
    """
    failing_error: str | None
    deliveries_ok: int
    """Number of attempts that delivered a card."""
    deliveries_failed: int
    """Number of attempts that failed."""


class ChannelTested(msgspec.Struct):
    sent: bool
    """Whether the card arrived."""
    status_code: int
    """HTTP status of the answer; 0 if there was none."""
    latency_ms: int
    error: str


class TeamsController(Controller):
    path = "/ms-teams"
    tags = ["MS Teams"]

    @get(guards=[CAN_READ])
    async def list_channels(self, ctx: RequestContext, paged: Paged) -> Response[list[ChannelItem]]:
        """Returns a page of the channels of the caller's projects, ordered by id."""
        async with ctx.reading() as connection:
            found = await list_endpoints(connection, ChannelRow, ctx.user.projects, **paged.window)
            stats = await delivery_history.read_stats(connection, [row.id for row in found])
        return paginate(ctx.request, paged, [to_item(row, stats[row.id]) for row in found])

    @post(guards=[PROJECT_ADMINS])
    async def register_channel(self, ctx: RequestContext, data: NewChannel) -> ChannelItem:
        """Registers a channel by the URL of its workflow or incoming webhook. A project can have 100 channels."""
        await find_visible_project(ctx, data.project_id)
        await must_be_callable(ctx, data.webhook_url, "webhook_url")
        receipt = await ctx(
            RegisterChannel(
                channel_id=await ctx.services.ids.draw("webhooks"),  # ids are unique among all endpoints
                project_id=data.project_id,
                title=data.name,
                shown_url=redact_url(data.webhook_url),
                sealed_url=ctx.services.secrets.seal(data.webhook_url),
                events=tuple(dict.fromkeys(data.events)),
                mention=data.mention_on_fail or "",
                others=tuple(await fetch_ids_of_project(ctx.source, ChannelRow, data.project_id, MAX_ENDPOINTS)),
            )
        )
        return to_item(new_row(ChannelRow, receipt.events[0].event), DeliveryStats())

    @get("/{id:int}", guards=[CAN_READ])
    async def get_channel(self, ctx: RequestContext, id: int) -> ChannelItem:
        """Returns a channel."""
        return to_item(*await find_with_stats(ctx, ChannelRow, id))

    @put("/{id:int}", guards=[PROJECT_ADMINS])
    async def update_channel(self, ctx: RequestContext, id: int, data: ChannelChanges) -> ChannelItem:
        """Changes a channel. Fields that are left out stay unchanged. If the URL changes or the channel becomes active,
        the server tries to send its waiting cards at once.
        """
        row = await find_accessible(ctx, ChannelRow, id)
        url = None if data.webhook_url is UNSET else data.webhook_url
        if url == row.shown_url:  # the client sends back what a GET showed
            url = None
        if url is not None:
            await must_be_callable(ctx, url, "webhook_url")
        await ctx(
            UpdateChannel(
                id,
                title=None if data.name is UNSET else data.name,
                shown_url=None if url is None else redact_url(url),
                sealed_url=None if url is None else ctx.services.secrets.seal(url),
                events=None if data.events is UNSET else tuple(dict.fromkeys(data.events)),
                mention=None if data.mention_on_fail is UNSET else data.mention_on_fail or "",
                active=None if data.active is UNSET else data.active,
            )
        )
        return to_item(*await find_with_stats(ctx, ChannelRow, id))

    @delete("/{id:int}", guards=[PROJECT_ADMINS])
    async def delete_channel(self, ctx: RequestContext, id: int) -> None:
        """Deletes a channel, and the cards that were not delivered yet."""
        await find_accessible(ctx, ChannelRow, id)
        await ctx(DeleteEndpoints("teams", (id,)))

    @post("/{id:int}/test", status_code=200, guards=[PROJECT_ADMINS])
    async def test_channel(self, ctx: RequestContext, id: int) -> ChannelTested:
        """Sends a test card to the channel once, and returns the outcome."""
        row = await find_accessible(ctx, ChannelRow, id)
        project = await projects.find(ctx.source, row.project_id)
        card = make_test_card(row.title, "" if project is None else project.name)
        url = ctx.services.secrets.unseal(row.sealed_url)
        now, body = utcnow(), msgspec.json.encode(render_card(card))
        outcome = correct_outcome(await attempt(ctx.services.outgoing, url, body, HEADERS))
        await delivery_history.record_ping(ctx.services.pool, id, deliveries.new_delivery_id(), outcome, now)
        return ChannelTested(outcome.ok, outcome.status, outcome.ms, outcome.error)


def to_item(row: ChannelRow, stats: DeliveryStats) -> ChannelItem:
    return to_view(
        ChannelItem,
        row,
        name=row.title,
        webhook_url=row.shown_url,
        mention_on_fail=row.mention or None,
        deliveries_ok=stats.ok,
        deliveries_failed=stats.failed,
    )
