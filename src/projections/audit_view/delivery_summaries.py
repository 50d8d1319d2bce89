"""Sentences about endpoints that are told what happens: webhooks and channels of Teams."""

from domain.core.events import Event
from domain.teams import (
    CardGivenUp,
    ChannelDeleted,
    ChannelFailing,
    ChannelRecovered,
    ChannelRegistered,
    ChannelUpdated,
)
from domain.webhooks import (
    DeliveryGivenUp,
    RedeliveryRequested,
    ReplayRequested,
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
    WebhookRegistered,
    WebhookUpdated,
)
from projections.audit_view.formatting import count, listed, quoted


def webhooks(event: Event) -> str | None:
    match event:
        case WebhookRegistered():
            return f"registered webhook {event.webhook_id} for {listed(map(str, event.events)) or 'nothing'}"
        case WebhookUpdated():
            return f"changed webhook {event.webhook_id}"
        case WebhookDeleted():
            return f"deleted webhook {event.webhook_id}"
        case WebhookFailing():
            return f"noticed that webhook {event.webhook_id} does not answer{quoted(': ', event.error)}"
        case WebhookRecovered():
            return f"noticed that webhook {event.webhook_id} answers again"
        case ReplayRequested():
            return f"asked to tell webhook {event.webhook_id} once more what came after position {event.after}"
        case DeliveryGivenUp():
            return f"gave delivery {event.delivery_id} up after {count(event.attempts, 'attempt')}"
        case RedeliveryRequested():
            return f"asked for delivery {event.delivery_id} once more"
        case _:
            return None


def teams(event: Event) -> str | None:
    match event:
        case ChannelRegistered():
            what = f"{event.channel_id}{quoted(' ', event.title)}"
            return f"registered Teams channel {what} for {listed(event.events) or 'nothing'}"
        case ChannelUpdated():
            return f"changed Teams channel {event.channel_id}"
        case ChannelDeleted():
            return f"deleted Teams channel {event.channel_id}"
        case ChannelFailing():
            return f"noticed that Teams channel {event.channel_id} does not answer{quoted(': ', event.error)}"
        case ChannelRecovered():
            return f"noticed that Teams channel {event.channel_id} answers again"
        case CardGivenUp():
            times = count(event.attempts, "attempt")
            return f"gave a card for Teams channel {event.channel_id} up after {times}{quoted(': ', event.error)}"
        case _:
            return None
