"""Shows the licence of the server: which gated features it includes, and how many of its seats are used."""

from datetime import datetime

import msgspec
from litestar import Controller, get

from api.http.permissions import ANY_USER
from api.http.request_context import RequestContext
from domain.licenses import CAPABILITIES
from projections import auth
from store.clock import utcnow


class Capabilities(msgspec.Struct):
    """Gated features that the server may use now."""

    ai_chat: bool
    """Chat and investigation by language models."""
    ai_test_health: bool
    """Assessment of the health of tests by language models."""
    llm_evals: bool
    """Evaluations of language models."""
    white_label: bool
    """Logo and colours of the licensee."""
    vcenter: bool
    """Virtual machines of vCenter."""
    sso: bool
    """Sign-in by an identity provider."""
    max_users: int
    """Largest number of active users."""


class LicenseStatus(msgspec.Struct):
    tier: str
    """Name of the tier; `community` without a licence file."""
    valid: bool
    """False once the licence has ended."""
    expires_at: datetime
    """Time at which the licence ends. For the community tier, which does not end, it is in the year 9999."""
    seats_licensed: int
    """Largest number of active users; 1,000,000 for the community tier, which has no limit."""
    seats_used: int
    """Number of active users, including those who have not accepted their invitation yet."""
    capabilities: Capabilities
    """Gated features by name: true if the licence includes the feature now."""


class LicenseController(Controller):
    path = "/license"
    tags = ["License"]

    @get("/status", guards=[ANY_USER])
    async def get_license_status(self, ctx: RequestContext) -> LicenseStatus:
        """Returns the tier of the licence, its end, its seats, and the gated features that it includes."""
        license, now = ctx.services.license, utcnow()
        capabilities = {name: license.has(name, now) for name in CAPABILITIES}
        return LicenseStatus(
            tier=license.tier,
            valid=license.is_valid(now),
            expires_at=license.expires_at,
            seats_licensed=license.seats,
            seats_used=await auth.count_active(ctx.source),
            capabilities=msgspec.convert(capabilities | {"max_users": license.seats}, Capabilities),
        )
