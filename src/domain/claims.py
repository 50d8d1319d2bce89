"""Claims keep values unique. Each value, such as an email address, has a stream whose state is the owner of the value.

The stream's name contains an HMAC of the value, so the name reveals nothing once the owner is erased. When two owners
claim a value at the same time, one append fails with a version conflict.
"""

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from domain.core.errors import Conflict
from domain.core.events import Category, Event


class Claim(msgspec.Struct, frozen=True):
    """State of a claim: the owner of the value, such as `user-7` or `node-12`. Empty while nobody has the value."""

    owner: str = ""


class ClaimEvent(Event, frozen=True):
    claim: str
    owner: str

    @property
    def stream(self) -> str:
        return f"claim-{self.claim}"


class ClaimTaken(ClaimEvent, frozen=True):
    name: ClassVar[str] = "claim.taken"


class ClaimReleased(ClaimEvent, frozen=True):
    name: ClassVar[str] = "claim.released"


def evolve(state: Claim, event: Event) -> Claim:
    match event:
        case ClaimTaken():
            return Claim(event.owner)
        case ClaimReleased():
            return Claim()
        case _:
            return state


def take_claim(claim: str, state: Claim, owner: str, refusal: str) -> Iterable[Event]:
    """Yields the event by which `owner` takes the claim with the id `claim`; nothing if `owner` has taken it before.
    Raises Conflict with the text `refusal` if the claim has another owner.
    """
    if state.owner not in ("", owner):
        raise Conflict(refusal)
    if not state.owner:
        yield ClaimTaken(claim=claim, owner=owner)


def release_claim(claim: str, state: Claim, owner: str) -> Iterable[Event]:
    if state.owner == owner:
        yield ClaimReleased(claim=claim, owner=owner)


CLAIM = Category("claim", Claim(), evolve)
EVENTS = (ClaimTaken, ClaimReleased)
