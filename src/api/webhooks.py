"""Webhooks: registers, tests and replays them, delivers messages again, and shows the history of deliveries."""

import secrets as random
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter
from msgspec import UNSET, Meta, UnsetType

from api.endpoints import check_scheme, find_accessible, find_with_stats, may_access, must_access, must_be_callable
from api.http.as_of import resolve_moment
from api.http.authentication import PUBLIC
from api.http.paging import MAX_PAGE_SIZE, Paged, next_page, paginate
from api.http.permissions import CAN_READ, PROJECT_ADMINS
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, to_view
from api.projects import find_visible_project
from commands.endpoints import MAX_ENDPOINTS, DeleteEndpoints
from commands.validation import Time
from commands.value_checks import ValueCheck, described_as
from commands.webhooks import Redeliver, RegisterWebhook, ReplayWebhook, UpdateWebhook
from domain.core.errors import Conflict, Forbidden, Invalid, NotFound, TooManyRequests
from domain.endpoints import mask_url
from domain.notifications import PING, NotificationMessage, NotificationType
from domain.webhook_signatures import build_headers, check_secret
from domain.webhooks import WEBHOOK, ReplayRequested
from integrations.ports import attempt
from projections.endpoints import fetch_ids_of_project, list_endpoints, new_row
from projections.webhook_views import WebhookView, schema, schemas
from projections.webhooks import WebhookRow, find_existing
from store.clock import utcnow
from store.tables import deliveries, delivery_history
from store.tables.delivery_history import DeliveryStats
from store.tables.delivery_planning import count_replays

MAX_OPEN_REPLAYS = 5
"""Largest number of open replays of one webhook. A replay is open until all of its deliveries are planned."""
RETRY_AFTER_S = 60
"""Seconds after which a user whose replay was refused may try again."""

Url = Annotated[
    str,
    Meta(min_length=1, max_length=2_000, description="Public, over https; shown with `***` for tokens"),
    ValueCheck(check_scheme),
    described_as(format="https-url"),
]
Events = Annotated[list[NotificationType], Meta(min_length=1, max_length=100)]
Secret = Annotated[str, Meta(min_length=1, max_length=500, description="Write-only")]


class NewWebhook(msgspec.Struct):
    """A new webhook. Without a `project_id`, it receives the notifications of all projects."""

    url: Url
    events: Events
    secret: Secret | None = None
    project_id: Id | None = None
    active: bool = True


class WebhookChanges(msgspec.Struct):
    """Changes of a webhook. Fields that are left out stay unchanged."""

    url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    secret: Secret | UnsetType = UNSET
    active: bool | UnsetType = UNSET


class WebhookItem(WebhookView):
    deliveries_ok: int
    """Number of attempts that were answered with 2xx."""
    deliveries_failed: int
    """Number of attempts that failed or were answered with another status. `GET /webhooks/{id}/history` lists all
    attempts.
    """


class BulkDelete(msgspec.Struct):
    ids: Annotated[list[Id], Meta(max_length=1_000)]
    """Ids of the webhooks to delete."""


class Deleted(msgspec.Struct):
    deleted: int
    """Number of deleted webhooks."""
    ids: list[int]
    """Ids of the deleted webhooks."""


class Tested(msgspec.Struct):
    delivered: bool
    """Whether the answer was 2xx."""
    status_code: int
    """HTTP status of the answer; 0 if there was none."""
    latency_ms: int
    error: str
    delivery_id: str


class WebhookAttempt(msgspec.Struct):
    """One attempt to deliver a message."""

    id: int
    delivery_id: str
    event: str
    """Type of the notification."""
    ok: bool
    """Whether the answer was 2xx."""
    status_code: int
    """HTTP status of the answer; 0 if there was none."""
    error: str
    attempted_at: datetime
    """Time of the attempt."""
    attempt: int
    latency_ms: int
    replay: bool
    """Whether the attempt belongs to a replay."""
    state: Literal["waiting", "pending", "delivered", "given_up"] | None
    """State of the delivery: `waiting` for an earlier delivery to end, `pending` until the next attempt, `delivered` or
    `given_up`; null for a ping.
    """
    next_attempt_at: datetime | None
    """Time at which the next attempt is due; null if there is none."""
    excerpt: str | None
    """Beginning of the answer's body; null for callers who may not change the webhook."""


class WebhookReplay(msgspec.Struct):
    """Start of a replay, given either by the log position of the first event or by a time."""

    position: Annotated[int, Meta(ge=1, le=MAX_ID, description="Of the first event, as the log counts")] | None = None
    since: Time | None = None
    """Events from this time on are delivered once more."""


class StartedReplay(msgspec.Struct):
    webhook_id: int
    """Id of the webhook."""
    after_position: int
    """Log position after which events are delivered once more."""
    up_to_position: int
    """Log position of the last event that is delivered once more."""


class Redelivering(msgspec.Struct):
    delivery_id: str
    state: Literal["pending"]
    """State of the delivery."""


class WebhookController(Controller):
    path = "/webhooks"
    tags = ["Webhooks"]

    @get(guards=[CAN_READ])
    async def list_webhooks(
        self,
        ctx: RequestContext,
        paged: Paged,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter by project")] = None,
        active: Annotated[bool | None, Parameter(description="Only active webhooks, or only inactive ones")] = None,
    ) -> Response[list[WebhookItem]]:
        """Returns a page of the webhooks of the caller's projects, ordered by id. Admins also see webhooks without a
        project.
        """
        async with ctx.reading() as connection:
            found = await list_endpoints(
                connection, WebhookRow, ctx.user.projects, project_id=project_id, active=active, **paged.window
            )
            stats = await delivery_history.read_stats(connection, [row.id for row in found])
        return paginate(ctx.request, paged, [to_item(row, stats[row.id]) for row in found])

    @post(guards=[PROJECT_ADMINS])
    async def register_webhook(self, ctx: RequestContext, data: NewWebhook) -> WebhookItem:
        """Registers a webhook. With a secret, its deliveries are signed. A project can have 100 webhooks."""
        others: list[int] = []
        if data.project_id is not None:
            await find_visible_project(ctx, data.project_id)
            others = await fetch_ids_of_project(ctx.source, WebhookRow, data.project_id, MAX_ENDPOINTS)
        elif not ctx.user.is_admin:
            raise Forbidden("Only admins have webhooks of all projects; give a project_id.")
        await must_be_callable(ctx, data.url, "url")
        receipt = await ctx(
            RegisterWebhook(
                webhook_id=await ctx.services.ids.draw("webhooks"),
                project_id=data.project_id,
                url=data.url,
                events=tuple(dict.fromkeys(data.events)),
                sealed_secret=None if data.secret is None else seal_secret(ctx, data.secret),
                active=data.active,
                others=tuple(others),
            )
        )
        return to_item(new_row(WebhookRow, receipt.events[0].event), DeliveryStats())

    @get("/schemas", opt=PUBLIC)
    async def list_webhook_schemas(self) -> dict[str, dict[str, Any]]:
        """Returns the JSON Schemas of the messages, by notification type."""
        return schemas()

    @get("/schemas/{event_type:str}", opt=PUBLIC, media_type="application/schema+json")
    async def get_webhook_schema(self, event_type: str) -> dict[str, Any]:
        """Returns the JSON Schema of the messages of one notification type."""
        if event_type not in schemas():
            raise NotFound(f"There is no event type {event_type!r}; GET /api/v3/webhooks/schemas lists them.")
        return schema(event_type)

    @get("/{id:int}", guards=[CAN_READ])
    async def get_webhook(self, ctx: RequestContext, id: int) -> WebhookItem:
        """Returns a webhook without its secret."""
        return to_item(*await find_with_stats(ctx, WebhookRow, id))

    @put("/{id:int}", guards=[PROJECT_ADMINS])
    async def update_webhook(self, ctx: RequestContext, id: int, data: WebhookChanges) -> WebhookItem:
        """Changes a webhook. Fields that are left out stay unchanged. The URL also stays unchanged if the request has
        the masked URL that GET returns. If the URL changes or the webhook becomes active, the server tries the waiting
        deliveries of the webhook at once.
        """
        row = await find_accessible(ctx, WebhookRow, id)
        url = None if data.url is UNSET or data.url == mask_url(row.url) else data.url
        if url is not None:
            await must_be_callable(ctx, url, "url")
        await ctx(
            UpdateWebhook(
                id,
                url=url,
                events=None if data.events is UNSET else tuple(dict.fromkeys(data.events)),
                sealed_secret=None if data.secret is UNSET else seal_secret(ctx, data.secret),
                active=None if data.active is UNSET else data.active,
            )
        )
        return to_item(*await find_with_stats(ctx, WebhookRow, id))

    @delete("/{id:int}", guards=[PROJECT_ADMINS])
    async def delete_webhook(self, ctx: RequestContext, id: int) -> None:
        """Deletes a webhook with its history. Messages that were not delivered yet are never sent."""
        await find_accessible(ctx, WebhookRow, id)
        await ctx(DeleteEndpoints("webhook", (id,)))

    @post("/bulk-delete", status_code=200, guards=[PROJECT_ADMINS])
    async def delete_webhooks(self, ctx: RequestContext, data: BulkDelete) -> Deleted:
        """Deletes the webhooks with these ids. Ignores ids that do not exist or that the caller cannot see. Deletes
        nothing if the caller may see one of the webhooks but not delete it.
        """
        found = await find_existing(ctx.source, data.ids)
        visible = [row for row in found if may_access(ctx.user, "read", row)]
        for row in visible:
            must_access(ctx.user, ctx.needs.level, row)
        await ctx(DeleteEndpoints("webhook", tuple(row.id for row in visible)))
        return Deleted(len(visible), [row.id for row in visible])

    @post("/{id:int}/test", status_code=200, guards=[PROJECT_ADMINS])
    async def test_webhook(self, ctx: RequestContext, id: int) -> Tested:
        """Sends a `ping` to the webhook once, signed like a delivery, and returns the outcome."""
        row = await find_accessible(ctx, WebhookRow, id)
        now, delivery_id = utcnow(), deliveries.new_delivery_id()
        data = msgspec.Raw(msgspec.json.encode(to_view(WebhookView, row, **shown_fields(row))))
        body = msgspec.json.encode(NotificationMessage(f"evt-{delivery_id}", PING, now, row.project_id, data))
        secret = None if row.sealed_secret is None else ctx.services.secrets.unseal(row.sealed_secret)
        headers = build_headers(secret, delivery_id, PING, now, body)
        outcome = await attempt(ctx.services.outgoing, row.url, body, headers)
        await delivery_history.record_ping(ctx.services.pool, id, delivery_id, outcome, now)
        return Tested(outcome.ok, outcome.status, outcome.ms, outcome.error, delivery_id)

    @get("/{id:int}/history", guards=[CAN_READ])
    async def list_webhook_attempts(
        self,
        ctx: RequestContext,
        id: int,
        limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE_SIZE, description="Max attempts to return")] = 50,
        status: Annotated[Literal["ok", "failed"] | None, Parameter(description="Filter by outcome")] = None,
        before: Annotated[
            int, Parameter(ge=0, le=MAX_ID, description="Only attempts older than the one with this id")
        ] = 0,
    ) -> Response[list[WebhookAttempt]]:
        """Returns a page of the webhook's delivery attempts of the last 30 days, the newest first."""
        async with ctx.reading() as connection:
            row = await find_accessible(ctx, WebhookRow, id)
            found = await delivery_history.read_history(
                connection, id, ok=None if status is None else status == "ok", before=before or None, limit=limit
            )
        with_excerpts = may_access(ctx.user, "admin", row)
        items = [to_history_item(one, with_excerpt=with_excerpts) for one in found]
        links = next_page(ctx.request, limit, [one.id for one in found], key="before")
        return Response(items, headers=links)

    @post("/{id:int}/replay", status_code=202, guards=[PROJECT_ADMINS], opt={"problems": (TooManyRequests,)})
    async def replay_webhook(self, ctx: RequestContext, id: int, data: WebhookReplay) -> StartedReplay:
        """Delivers again, marked as a replay, all notifications since a log position or a time. The notifications about
        one build stay in order. A webhook can have 5 replays under way; more are refused.
        """
        # A user's requests take turns, so that each counts the replays of those before it.
        async with take_turn(ctx.request, ctx.services.replay_turns):
            return await _replay(ctx, id, data)

    @post("/{id:int}/history/{delivery_id:str}/redeliver", status_code=202, guards=[PROJECT_ADMINS])
    async def redeliver_webhook(self, ctx: RequestContext, id: int, delivery_id: str) -> Redelivering:
        """Delivers a message again after its delivery has ended. The message keeps its id, and gets as many attempts as
        a new message.
        """
        await find_accessible(ctx, WebhookRow, id)
        found = await delivery_history.find_delivery_state(ctx.source, id, delivery_id)
        if found is None:
            raise NotFound(f"Webhook {id} has no delivery {delivery_id!r}; pings cannot be redelivered.")
        state, attempts = found
        if state in ("waiting", "pending"):
            raise Conflict(f"Delivery {delivery_id} has not ended: it is still being tried.")
        await ctx(Redeliver(id, delivery_id, attempts))
        return Redelivering(delivery_id, "pending")


def seal_secret(ctx: RequestContext, secret: str) -> bytes:
    try:
        check_secret(secret)
    except ValueError as error:
        raise Invalid.field("secret", str(error)) from None
    return ctx.services.secrets.seal(secret)


def to_item(row: WebhookRow, stats: DeliveryStats) -> WebhookItem:
    return to_view(WebhookItem, row, **shown_fields(row), deliveries_ok=stats.ok, deliveries_failed=stats.failed)


def shown_fields(row: WebhookRow) -> dict[str, Any]:
    """Returns the fields that are shown instead of the webhook's secrets: the masked URL, and whether there is a
    signing secret.
    """
    return {"url": mask_url(row.url), "has_secret": row.sealed_secret is not None}


def to_history_item(one: delivery_history.DeliveryAttempt, *, with_excerpt: bool) -> WebhookAttempt:
    state = "given_up" if one.state == "giving_up" else one.state
    return to_view(
        WebhookAttempt,
        one,
        event=one.type,
        attempt=one.number,
        latency_ms=one.ms,
        state=state,
        next_attempt_at=one.due_at if state == "pending" else None,
        excerpt=one.excerpt if with_excerpt else None,
    )


async def _replay(ctx: RequestContext, webhook_id: int, data: WebhookReplay) -> StartedReplay:
    await find_accessible(ctx, WebhookRow, webhook_id)
    log = ctx.services.log
    head = await log.read_head()
    if (data.position is None) == (data.since is None):
        raise Invalid.field("position", "give either position or since")
    if data.since is not None:
        if data.since > utcnow():
            raise Invalid.field("since", "lies in the future")
        moment = (data.since - timedelta(microseconds=1)).isoformat()
        after = (await resolve_moment(log, moment)).position
    else:
        assert data.position is not None
        after = data.position - 1
        if after >= head:
            raise Invalid.field("position", f"is beyond the newest position, which is {head}")
    open_replays, planned = await count_replays(ctx.services.pool, webhook_id)
    # The delivery planner has not yet read the replays that were requested after its position.
    asked = await log.find_positions([WEBHOOK.at(webhook_id).name], head, [ReplayRequested.name], after=planned)
    if open_replays + len(asked) >= MAX_OPEN_REPLAYS:
        raise TooManyRequests(
            f"Webhook {webhook_id} has {MAX_OPEN_REPLAYS} replays under way; wait for one.", RETRY_AFTER_S
        )
    await ctx(ReplayWebhook(webhook_id, random.token_hex(8), after, head))
    return StartedReplay(webhook_id, after, head)
