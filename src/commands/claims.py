"""Taking and giving back what only one may have: a name, an address."""

from collections.abc import Iterable

from domain.claims import Claim, ClaimReleased, ClaimTaken
from domain.core.errors import Conflict
from domain.core.events import Event


def take(claim: str, state: Claim, owner: str, refusal: str) -> Iterable[Event]:
    """Raises Conflict with the refusal when somebody else has it."""
    if state.owner not in ("", owner):
        raise Conflict(refusal)
    if not state.owner:
        yield ClaimTaken(claim=claim, owner=owner)


def release(claim: str, state: Claim, owner: str) -> Iterable[Event]:
    if state.owner == owner:
        yield ClaimReleased(claim=claim, owner=owner)
