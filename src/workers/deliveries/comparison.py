"""Compares the log with the rows that the delivery planner has stored about webhooks and Teams channels. If somebody
changes these rows by hand, messages go to another address, are signed with another secret, or are sent once more.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from psycopg_pool import AsyncConnectionPool

from domain.core.errors import StreamDamaged
from domain.core.events import Category, Recorded
from domain.endpoints import EndpointRegistered, EndpointUpdated
from domain.teams import CHANNEL, ChannelRegistered
from domain.webhooks import WEBHOOK, ReplayRequested, WebhookRegistered
from store.log.event_log import EventLog
from store.postgres.queries import fetch_rows
from store.tables.delivery_endpoints import fetch_folded, fetch_ids
from workers.deliveries.planner import NAME as PLANNER

REGISTERED = [WebhookRegistered.name, ChannelRegistered.name]
BATCH_SIZE = 500
"""Number of events that are read at once."""


async def find_changed_endpoint(
    pool: AsyncConnectionPool, event_log: EventLog, event: EndpointRegistered
) -> list[str] | None:
    """Compares the row of an endpoint in `webhook_endpoints` with the endpoint's events. Returns the names of the
    columns that differ, or `row` if the row is missing. Returns None if the endpoint is deleted, or if the planner has
    not read the endpoint's last change yet. Raises StreamDamaged if an event cannot be read.
    """
    stored, planned = await fetch_folded(pool, event.endpoint_id, PLANNER)
    category: Category[Any] = WEBHOOK if event.kind == "webhook" else CHANNEL

    def add(folded: tuple[Any, int], events: Sequence[Recorded]) -> tuple[Any, int]:
        state, last = folded
        for recorded in events:
            state = category.evolve(state, recorded.event)
            if isinstance(recorded.event, EndpointRegistered | EndpointUpdated):
                last = recorded.position
        return state, last

    found = await event_log.fold([event.stream], lambda name: (category.initial, 0), add)
    state, last = found[event.stream]
    key = event.data_key
    if state.deleted or last > planned or (key and await event_log.data_keys.find_destroyed([key])):
        return None
    if stored is None:
        return ["row"]
    # The address of a channel is in its stream alone.
    expected = {"kind": event.kind, "url": None, "sealed_secret": None}
    return [name for name, value in stored.items() if value != getattr(state, name, expected.get(name))]


def name_endpoint(event: EndpointRegistered) -> str:
    return f"{'webhook' if event.kind == 'webhook' else 'Teams channel'} {event.endpoint_id}"


async def find_changes(pool: AsyncConnectionPool, event_log: EventLog) -> str | None:
    """Returns a sentence that names the stored endpoints and replays that differ from the log, and says how to mend
    them. Returns None if none differs, or if the planner's position is beyond the end of the log. Leaves out streams
    with events that cannot be read.
    """
    _, planned = await fetch_folded(pool, 0, PLANNER)
    if planned > await event_log.read_head():
        return None  # the log lacks events that the planner has read; the planner itself reports this
    changed: list[str] = []
    # Read before the log, which then has the events of all these rows.
    made_up = await fetch_ids(pool)
    position, is_full = 0, True
    while is_full:
        events, position, is_full = await event_log.read_batch(position, BATCH_SIZE, REGISTERED)
        for event in (recorded.event for recorded in events):
            if isinstance(event, EndpointRegistered):
                made_up.discard(event.endpoint_id)
                with suppress(StreamDamaged):
                    if columns := await find_changed_endpoint(pool, event_log, event):
                        changed.append(f"{name_endpoint(event)}: {', '.join(columns)}")
            else:  # one that cannot be read, which may be of any endpoint
                made_up.clear()
    changed += [f"{number}: made up" for number in sorted(made_up)]
    if changed:
        return f"webhook_endpoints differs from the log ({'; '.join(changed[:5])}): run `testhide repair`"
    for replay, webhook_id in await fetch_rows(pool, "SELECT replay, webhook_id FROM webhook_replays"):
        with suppress(StreamDamaged):
            if not await _is_asked_for(event_log, webhook_id, replay):
                return f"webhook_replays has {replay!r} of webhook {webhook_id}, which nobody asked for: delete its row"
    return None


async def _is_asked_for(event_log: EventLog, webhook_id: int, replay: str) -> bool:
    def add(found: bool, events: Sequence[Recorded]) -> bool:
        return found or any(isinstance(item.event, ReplayRequested) and item.event.replay == replay for item in events)

    return (await event_log.fold([stream := WEBHOOK.at(webhook_id).name], lambda name: False, add))[stream]
