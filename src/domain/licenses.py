"""The licence: which gated features the server may use, how many people may use it, and until when."""

from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec

from domain.core.errors import Forbidden

Capability = Literal["ai_chat", "ai_test_health", "llm_evals", "white_label", "vcenter", "sso"]
"""Name that the API has for a gated feature."""
CAPABILITIES: tuple[Capability, ...] = get_args(Capability)
MAX_SEATS = 1_000_000
"""Number of seats of a server without a licence file. It stands for "no limit", which the API cannot express."""


class License(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tier: str
    seats: int
    """Largest number of active users."""
    expires_at: datetime
    capabilities: tuple[Capability, ...] = ()
    licensee: str = ""

    def is_valid(self, now: datetime) -> bool:
        return now <= self.expires_at

    def has(self, capability: Capability, now: datetime) -> bool:
        return self.is_valid(now) and capability in self.capabilities

    def require(self, capability: Capability, now: datetime) -> None:
        """Raises Forbidden if the licence does not include the capability or has ended. The message names the
        capability.
        """
        if not self.has(capability, now):
            raise Forbidden(f"This needs the entitlement `{capability}`, which {self._describe(now)} does not include.")

    def require_seat(self, used: int, now: datetime) -> None:
        """Raises Forbidden if the `used` active users already take all seats of the licence."""
        if used >= self.seats:
            raise Forbidden(
                f"This needs one more seat (entitlement `max_users`): {used} users are active, and"
                f" {self._describe(now)} has {self.seats} seats. Make somebody inactive by PUT /api/v3/users/{{id}}."
            )

    def _describe(self, now: datetime) -> str:
        ended = "" if self.is_valid(now) else f", which ended on {self.expires_at:%Y-%m-%d},"
        return f"the {self.tier} licence{ended}"


COMMUNITY = License("community", MAX_SEATS, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), CAPABILITIES)
"""The licence of a server without a licence file. It enables everything and never ends."""
