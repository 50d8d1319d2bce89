"""Read model of webhooks. `store.tables.delivery_history` has the outcomes of deliveries."""

from collections.abc import Sequence
from datetime import datetime

from domain import webhooks
from projections.endpoints import endpoint_projection
from projections.engine.model import Row, Table
from projections.engine.queries import fetch_all
from store.postgres.queries import Source

VERSION = 1


class WebhookRow(Row, frozen=True):
    table = Table("webhooks", VERSION, indexes=("(project_id)",))
    id: int
    project_id: int | None
    url: str
    events: list[str]
    active: bool
    sealed_secret: bytes | None
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None = None
    """Time at which so many attempts in a row had failed that the webhook counts as failing; None while it does not."""
    failing_error: str | None = None


PROJECTION = endpoint_projection("webhooks", WebhookRow, webhooks.WEBHOOK_EVENTS)


async def find_existing(source: Source, webhook_ids: Sequence[int]) -> list[WebhookRow]:
    """Returns the webhooks with these ids, ordered by id. Leaves out ids without a webhook."""
    query = f"SELECT * FROM {WebhookRow.table} WHERE id = ANY (%(ids)s) ORDER BY id"
    return await fetch_all(source, WebhookRow, query, {"ids": list(webhook_ids)})
