"""Refreshes identity providers from their metadata, so that this server knows a provider's new key before the provider
uses it.
"""

from dataclasses import dataclass

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import CommandContext, Handler
from commands.identity_providers import RefreshIdentityProvider
from domain.core.errors import Rejection
from integrations.ports import MetadataRefused, Outgoing, Refused, Saml, Unanswered, fetch_metadata
from projections import identity_providers

log = structlog.get_logger()

INTERVAL_S = 3600.0
"""Seconds between two readings of the metadata. An hour is enough, since providers publish a new key days before they
sign with it.
"""
CALLER = CommandContext("system:identity-providers")


@dataclass(frozen=True)
class MetadataRefresh:
    """Periodic reading of the metadata at the `metadata_url` of each provider. Unchanged metadata has no effect, so two
    processes may sweep at once.
    """

    pool: AsyncConnectionPool
    handler: Handler
    outgoing: Outgoing
    saml: Saml

    async def sweep(self) -> None:
        """Reads the metadata of each provider that has a `metadata_url`, and stores the changes. A provider whose
        metadata cannot be read stays unchanged.
        """
        for row in await identity_providers.fetch_refreshable(self.pool):
            assert row.metadata_url is not None
            try:
                found = await fetch_metadata(self.outgoing, self.saml, row.metadata_url)
                await self.handler.execute(RefreshIdentityProvider(row.id, row.metadata_url, **vars(found)), CALLER)
            except (Refused, Unanswered, MetadataRefused, Rejection) as error:
                log.warning("identity provider not refreshed", provider=row.id, error=str(error))
