"""Sends notifications to webhooks, as signed JSON messages."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from domain.delivery_outcomes import Outcome
from domain.webhook_signatures import build_headers
from integrations.ports import Outgoing, attempt
from store.crypto.secrets import Secrets
from store.tables.deliveries import LeasedDelivery
from workers.deliveries.messages import MessageBuilder


@dataclass(frozen=True)
class WebhookSender:
    """Sends deliveries to webhooks. Implements `workers.deliveries.sender.EndpointSender`."""

    messages: MessageBuilder
    secrets: Secrets
    outgoing: Outgoing
    clock: Callable[[], datetime]

    async def send(self, leased: LeasedDelivery) -> Outcome:
        assert leased.url is not None, "webhooks have a URL"
        message = await self.messages.build(leased.position, leased.type, leased.item, replay=leased.replay)
        secret = None if leased.sealed_secret is None else self.secrets.unseal(leased.sealed_secret)
        body = msgspec.json.encode(message)
        headers = build_headers(secret, leased.delivery_id, leased.type, self.clock(), body, replay=leased.replay)
        return await attempt(self.outgoing, leased.url, body, headers)
