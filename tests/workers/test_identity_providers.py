"""Providers follow their metadata, and stay as they were while it cannot be read."""

import pytest

from commands.handler import CommandContext, Handler
from commands.identity_providers import CreateIdentityProvider
from domain.core.events import Event
from domain.identity_providers import IdentityProviderUpdated
from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from integrations.saml import SamlService
from projections.engine.engine import Engine
from projections.registry import PROJECTIONS
from store.clock import utcnow
from testhide.processes import Core
from tests.integrations.receiving import receiving
from tests.support.read_models import begin_read_models
from tests.support.saml_idp import ENTITY_ID, SSO_URL, metadata, signing_key
from workers.identity_providers import MetadataRefresh

pytestmark = pytest.mark.anyio
OLD, NEW = signing_key("idp"), signing_key("newer")


async def test_a_new_key_is_known_before_it_is_used(parts: Core) -> None:
    saml, handler = SamlService("https://ci.example.com"), Handler(parts.log, utcnow)
    certificate = saml.read_certificate(OLD.certificate.decode())
    async with receiving() as receiver, HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing:
        refresh = MetadataRefresh(parts.pool, handler, outgoing, saml)
        for provider_id, url in ((1, receiver.url), (2, None)):
            entity_id = ENTITY_ID if url else "urn:other"
            create = CreateIdentityProvider(
                provider_id, "Company", entity_id, f"idp-{provider_id}", SSO_URL, [certificate], metadata_url=url
            )
            await handler.execute(create, CommandContext("user:1"))
        async with parts.pool.connection() as connection:
            await begin_read_models(connection)
            await Engine(connection, PROJECTIONS, announce=False).apply(await parts.log.read(0, 100), 0)

        async def sweep(status: int, body: bytes) -> list[Event]:
            head = await parts.log.read_head()
            receiver.answers.append((status, {}, body))
            await refresh.sweep()
            return [recorded.event for recorded in await parts.log.read(head, 100)]

        assert await sweep(200, metadata(ENTITY_ID, OLD)) == []
        assert await sweep(500, b"") == []
        assert await sweep(200, b"<html/>") == []
        assert await sweep(200, metadata("urn:other", NEW)) == []
        (event,) = await sweep(200, metadata(ENTITY_ID, OLD, NEW))
        assert isinstance(event, IdentityProviderUpdated)
        assert (event.provider_id, event.actor, event.sso_url) == (1, "system:identity-providers", None)
        both = {certificate, saml.read_certificate(NEW.certificate.decode())}
        assert set(event.certificates or ()) == both
        assert await sweep(200, metadata(ENTITY_ID, NEW, OLD)) == []
        assert len(receiver.requests) == 6
