"""Steps that the controllers of webhooks and Teams channels share."""

from typing import TypeVar

from api.http.permissions import Level, User
from api.http.request_context import RequestContext
from commands.endpoints import NAMES
from domain.core.errors import Invalid, NotFound
from domain.endpoints import MASK, EndpointKind
from integrations.ports import Refused
from projections.engine.queries import find_row
from projections.teams import ChannelRow
from projections.webhooks import WebhookRow
from store.tables import delivery_history
from store.tables.delivery_history import DeliveryStats

R = TypeVar("R", WebhookRow, ChannelRow)

KINDS: dict[type[WebhookRow] | type[ChannelRow], EndpointKind] = {WebhookRow: "webhook", ChannelRow: "teams"}


def may_access(user: User, level: Level, row: WebhookRow | ChannelRow) -> bool:
    return user.is_admin if row.project_id is None else user.may(level, row.project_id)


def must_access(user: User, level: Level, row: WebhookRow | ChannelRow) -> None:
    """Raises NotFound if the user cannot see the endpoint, and Forbidden if the user's access is lower than `level`."""
    name = f"{NAMES[KINDS[type(row)]]} {row.id}"
    if row.project_id is not None:
        user.must_access(level, row.project_id, name)
    elif not user.is_admin:
        raise NotFound(f"There is no {name}.")


async def find_accessible(ctx: RequestContext, row_type: type[R], endpoint_id: int) -> R:
    """Returns the row of an endpoint. Raises NotFound if the user cannot see the endpoint, and Forbidden if the user's
    access is lower than the route requires.
    """
    name = NAMES[KINDS[row_type]]
    row = await ctx.find(lambda source, row_id: find_row(source, row_type, row_id), name, endpoint_id)
    if row.project_id is not None:
        await ctx.must_access(row.project_id, f"{name} {row.id}")
    else:
        must_access(ctx.user, ctx.needs.level, row)
    return row


def check_scheme(field: str, url: str) -> None:
    """Raises Invalid unless the URL begins with https:// or http://. Whether the server may call the URL is for
    `must_be_callable` to check.
    """
    if not url.lower().startswith(("https://", "http://")):
        raise Invalid.field(field, "must begin with https://")


async def must_be_callable(ctx: RequestContext, url: str, field: str) -> None:
    """Raises Invalid if the server may not send messages to this URL, or if the URL has a masked part. The error names
    `field`, the field of the request that contains the URL.
    """
    if MASK in url:
        raise Invalid.field(field, f"has {MASK}, which stands for what is not shown: give the whole URL")
    try:
        await ctx.services.outgoing.check(url, is_admin=ctx.user.is_admin)
    except Refused as error:
        raise Invalid.field(field, str(error)) from None


async def find_with_stats(ctx: RequestContext, row_type: type[R], endpoint_id: int) -> tuple[R, DeliveryStats]:
    """Returns the row of an endpoint and the statistics of its deliveries. Raises NotFound if the user cannot see the
    endpoint, and Forbidden if the user's access is lower than the route requires.
    """
    async with ctx.reading() as connection:
        row = await find_accessible(ctx, row_type, endpoint_id)
        return row, (await delivery_history.read_stats(connection, [endpoint_id]))[endpoint_id]
